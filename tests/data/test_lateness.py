"""Text that is faster than its slots: it is late instead of lost, counted, said, and refused where it is much."""

import numpy as np
import pytest

from tests.data.test_recordings import manifest, write_wav
from tests.helpers.fake_sessions import small_config
from tests.helpers.language_models import qwen_tokenizer
from wanstreamer_jax.config import Config
from wanstreamer_jax.data import lateness
from wanstreamer_jax.data.duplex_world.source import DuplexSource
from wanstreamer_jax.data.duplex_world.world import make_session
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.recordings import RecordingsSource
from wanstreamer_jax.data.records import TextStats, text_to_units
from wanstreamer_jax.data.session import Word
from wanstreamer_jax.data.stats import lines, stats
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import DataError

UNIT = 0.16
ENGLISH = """so i was telling my neighbour that the refrigerator in our kitchen makes an extraordinarily loud noise
every time somebody opens the window and she said that hers does exactly the same thing which surprised me because it
is a completely different manufacturer and honestly i would rather have bought the smaller one last september"""
GERMAN = """also ich habe gestern meiner Nachbarin erzählt dass unser Kühlschrank jedes Mal ein unwahrscheinlich lautes
Geräusch macht wenn jemand das Küchenfenster öffnet und die Hausverwaltung behauptet die Lärmschutzverordnung gelte
dafür überhaupt nicht obwohl die Geschwindigkeitsbegrenzung vor unserem Mehrfamilienhaus auch niemanden interessiert"""
CHINESE = """我 昨天 告诉 邻居 说 我们 家 的 冰箱 每次 有人 打开 窗户 都会 发出 非常 大 的 声音
她 觉得 很 奇怪 因为 这 台 冰箱 是 去年 九月 才 买 的"""


def spoken(text: str, lead: int = 1, rate: float = 3.0) -> tuple[Word, ...]:
  """Words one after the other, `rate` of average length a second, longer ones for longer."""
  words, time, out = text.split(), 1.0, []
  average = np.mean([len(word) for word in words])
  for word in words:
    seconds = (0.5 + 0.5 * len(word) / average) / rate
    out.append(Word(word, max(0.0, time - lead * UNIT), time, time + seconds))
    time += seconds
  return tuple(out)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
  folder = tmp_path_factory.mktemp("qwen")
  if not qwen_tokenizer(folder):
    pytest.skip("pip's dashscope, which ships Qwen's ranks, is not installed")
  return TextTokenizer(folder)


def test_a_real_vocabulary_and_its_control_tokens(qwen):
  assert (qwen.vocab_size, qwen.pad_id, qwen.cut_id) == (151_648, 151_646, 151_647)
  config = Config()
  config.model.vocab, config.model.pad, config.data.tokenizer = 151_936, qwen.pad_id, str(qwen.path)
  assert tokenizer_of(config).sha256 == qwen.sha256
  for text in (ENGLISH, GERMAN, CHINESE, "<unk> <pad> 12 o'clock 🙂"):
    assert qwen.decode(qwen.encode(text)) == text
  assert qwen.decode([128_244]) == "<unk>"  # an ordinary piece of Qwen's, which is not dropped
  assert len(qwen.encode_word("refrigerator")) == 1
  assert qwen.encode_word("窗户") == qwen.encode("窗户")  # no space before Chinese


@pytest.mark.parametrize(("text", "space"), [(ENGLISH, " "), (GERMAN, " "), (CHINESE, "")])
@pytest.mark.parametrize("slots", lateness.SLOTS)
def test_no_word_is_lost_with_a_real_vocabulary(text, space, slots, qwen):
  words = spoken(text)
  units = int(words[-1].end / UNIT) + 80
  ids, counted = text_to_units(words, units, slots, qwen, UNIT)
  assert qwen.decode(ids.reshape(-1)).strip() == space.join(text.split())
  assert (counted.words, counted.dropped) == (len(words), 0)
  starts = [int(word.written / UNIT + 1e-6) for word in words]
  filled = np.cumsum((ids != qwen.pad_id).sum(1))  # tokens up to and including each unit
  lengths = np.cumsum([len(qwen.encode_word(word.text)) for word in words])
  ends = np.searchsorted(filled, lengths)  # the unit in which each word's last token lies
  late = np.maximum(0, ends - [int(word.start / UNIT + 1e-6) for word in words])
  assert (ends >= starts).all()
  assert [counted.late_1, counted.late_2, counted.late_3] == [(late == 1).sum(), (late == 2).sum(), (late > 2).sum()]


def test_the_shares_of_a_real_vocabulary(qwen):
  """English fits three slots a unit; German needs four; a unit of lead halves what is late."""
  share = lambda text, slots, lead=1: (lambda s: s.late / s.words)(
    lateness.placed([spoken(text, lead)], slots, qwen, UNIT)
  )
  assert share(ENGLISH, 3) == share(CHINESE, 3) == 0
  assert share(GERMAN, 4) <= 0.05 < share(GERMAN, 1)
  for text in (ENGLISH, GERMAN, CHINESE):
    by_slots = [share(text, slots) for slots in lateness.SLOTS]
    assert by_slots == sorted(by_slots, reverse=True)
    assert share(text, 2, lead=0) >= share(text, 2)
  assert share(GERMAN, 2, lead=0) > 2 * share(GERMAN, 2) > 0


def test_the_table_names_every_number_of_slots():
  found = lateness.table([spoken(ENGLISH)], TextTokenizer(), UNIT)
  assert list(found) == ["1 slot", "2 slots", "3 slots", "4 slots"]
  assert lateness.shares(TextStats(200, 300, 10, 0, 5, 3, 2)) == "5.0 % (1 unit 2.5 %, 2 units 1.5 %, more 1.0 %)"
  assert found["4 slots"].startswith(f"{100 * share_of(4):.1f} %")


def share_of(slots: int) -> float:
  found = lateness.placed([spoken(ENGLISH)], slots, TextTokenizer(), UNIT)
  return found.late / found.words


@pytest.fixture
def talk(tmp_path):
  """A recording in ordinary English, which the shipped tokenizer cuts into many pieces."""
  seconds = 40.0
  for name in ("user", "agent"):
    write_wav(tmp_path / f"{name}.wav", [0.1], seconds)
  words = [{"text": w.text, "start": w.start, "end": w.end} for w in spoken(" ".join([ENGLISH] * 2)) if w.end < seconds]
  line = {"id": "talk", "user": {"audio": "user.wav"}, "agent": {"audio": "agent.wav", "words": words}}
  config = small_config()
  config.data.session_units, config.layout.text_slots = 125, 2
  return config, manifest(tmp_path, line), tmp_path / "records"


def test_much_late_text_is_refused_before_anything_is_made_unless_asked_for(talk):
  config, path, out = talk
  source = RecordingsSource.open(path, config)
  with pytest.raises(DataError, match=r"words end later than they begin .*layout.text_slots 2 .*at most 5 %") as caught:
    make(config, source, out, progress=False)
  message = str(caught.value)
  assert "\n" not in message
  assert "(3: " in message  # what other numbers of slots would do
  assert "--late-words 0." in message
  assert not list(out.parent.glob("records.partial/*.array_record"))
  made = make(config, source, out, progress=False, late=1.0)
  text = made["stats"]["text"]["agent"]
  assert text["words"] > 60
  assert sum(text[f"late_{n}"] for n in (1, 2, 3)) > 0.05 * text["words"]
  figures = stats(out, TextTokenizer())
  assert figures["late_words"]["slots_of_these_records"] == "2"
  assert figures["text"]["agent"]["late_rate"] > 0.05
  printed = "\n".join(lines(figures))
  assert "4 slots" in printed
  assert "1 unit" in printed


def test_late_text_that_nobody_could_know_before_is_refused_at_the_end(talk):
  config, path, out = talk

  class Unknown(RecordingsSource):
    def spoken(self):
      return iter(())

  source = RecordingsSource.open(path, config)
  source = Unknown(**{name: getattr(source, name) for name in source.__dataclass_fields__})
  with pytest.raises(DataError, match="words end later than they begin"):
    make(config, source, out, progress=False)
  assert not out.exists()
  assert make(config, source, out, progress=False, late=1.0)["sessions"] == 2  # what was made is kept


def test_a_tokenizer_that_does_not_fit_is_refused_before_anything_is_made(tmp_path):
  config = small_config()
  config.model.vocab = 500
  source = DuplexSource.of(config, "train", 0, 4)
  with pytest.raises(DataError, match=r"has 1024 tokens, but model.vocab is 500: .*set model.vocab=1024, or more"):
    make(config, source, tmp_path / "out", progress=False)
  assert list(tmp_path.iterdir()) == []


def test_the_words_of_duplex_world_are_known_without_its_media():
  config = small_config()
  config.media.sample_rate, config.data.session_units = 16_000, 20
  source = DuplexSource.of(config, "train", 3, 2)
  first, second = source.spoken()
  assert first == make_session(3, source.world, "train").agent.words
  assert first != second
