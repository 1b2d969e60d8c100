"""The closed loop's plumbing with random weights and a fake user, and the scores of conversations made by hand."""

import dataclasses

import numpy as np
import pytest

from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.duplex_world import faces
from wanstreamer_jax.data.duplex_world.body import Body
from wanstreamer_jax.data.duplex_world.source import world_config
from wanstreamer_jax.data.duplex_world.world import WorldConfig, make_session, performers
from wanstreamer_jax.data.session import MediaUnit, World
from wanstreamer_jax.data.tokenizer import Keyboard, TextTokenizer
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.eval import closed_loop, metrics, scores, turns
from wanstreamer_jax.eval.baselines import PUPPETS, VARIANTS, Lockstep, Puppets
from wanstreamer_jax.eval.duplex_world import SimulatedUser, scripted_conversation
from wanstreamer_jax.eval.scores import Conversation, Question, Script
from wanstreamer_jax.eval.turns import Opportunity

UNITS = 5
TOKENIZER = TextTokenizer()


class FakeUser:
  """Noise that depends on the seed only; remembers what it was shown."""

  def __init__(self, seed: int, media: MediaConfig):
    self.rng, self.media = np.random.default_rng(seed), media
    portrait = self.rng.integers(0, 256, (media.height, media.width, 3), np.uint8)
    self.world = World({"name": f"ada{seed}"}, portrait)
    self.heard, self.sent = [], []

  def step(self, audio):
    self.heard.append(audio)
    media = self.media
    sound = self.rng.uniform(-1, 1, media.samples).astype(np.float32)
    picture = self.rng.integers(0, 256, (media.frames, media.height, media.width, 3), np.uint8)
    self.sent.append((sound, picture))
    return sound, picture, ["hello there you"] if len(self.sent) == 1 else []

  def script(self, units):
    return Script(questions=(Question("colour", 0.2, 0.2 + units, ("red",)),))


@pytest.fixture(scope="module")
def agent():
  return nano_agent("layout.window=3")


@pytest.fixture(scope="module")
def engine(agent):
  return Engine(agent, slots=2, capacity=UNITS)


@pytest.fixture(scope="module")
def runs(agent, engine):
  """Variant -> (conversations, users) of two sessions."""

  def run(variant: str):
    users = [FakeUser(seed, agent.config.media) for seed in (7, 8)]
    return closed_loop.converse(engine, lambda seed: users[seed - 7], [7, 8], UNITS, variant), users

  return {variant: run(variant) for variant in VARIANTS}


def test_clock(runs, agent):
  media = agent.config.media
  for conversations, _ in runs.values():
    for c in conversations:
      assert c.agent_audio.shape == c.user_audio.shape == (UNITS * media.samples,)
      assert c.agent_video.shape == c.user_video.shape == (UNITS * media.frames, media.height, media.width, 3)
      assert c.agent_video.dtype == np.uint8
      assert c.agent_text.shape == (UNITS, agent.config.layout.text_slots)


def test_the_user_meets_what_its_own_agent_did_one_unit_before(runs, agent):
  samples = agent.config.media.samples
  for conversations, users in (runs["model"], runs["shuffled_user"]):
    for c, user in zip(conversations, users):
      heard = np.concatenate(user.heard)
      np.testing.assert_array_equal(heard[:samples], 0)
      np.testing.assert_array_equal(heard[samples:], c.agent_audio[:-samples])


def test_shuffled_user_shows_each_agent_the_next_session(agent, engine, runs):
  """Swapping the users by hand gives the same answers as the variant, and other ones than the model's."""
  worlds, answers = runs["model"][1], []
  sent = [user.sent for user in runs["shuffled_user"][1]]
  swapped = Lockstep(engine, closed_loop.encode_worlds(agent, TOKENIZER, [user.world for user in worlds]), [7, 8])
  for k in range(UNITS):
    users = [MediaUnit(picture, sound) for sound, picture in (sent[1][k], sent[0][k])]
    answers.append(swapped.step(users, [["hello there you"] if k == 0 else []] * 2).audio)
  by_hand = np.concatenate(answers, axis=1)
  for i in range(2):
    np.testing.assert_array_equal(by_hand[i], runs["shuffled_user"][0][i].agent_audio)
    assert np.abs(by_hand[i] - runs["model"][0][i].agent_audio).max() > 1e-5


def test_text_only_does_not_depend_on_what_the_user_shows(agent, engine, runs):
  class Other(FakeUser):
    def step(self, audio):
      sound, picture, typed = super().step(audio)
      return 0.5 * sound, 255 - picture, typed

  found = closed_loop.converse(engine, lambda seed: Other(seed, agent.config.media), [7, 8], UNITS, "text_only")
  for a, b, c in zip(found, runs["text_only"][0], runs["model"][0]):
    np.testing.assert_array_equal(a.agent_video, b.agent_video)
    assert (a.agent_audio != c.agent_audio).any()


def test_copy_previous_repeats_its_first_unit_and_says_nothing(agent, runs):
  for copied, c in zip(runs["copy_previous"][0], runs["model"][0]):
    frames = agent.config.media.frames
    np.testing.assert_array_equal(copied.agent_video[:frames], c.agent_video[:frames])
    assert not copied.agent_text[1:].any()
    later = copied.agent_video[-frames:].astype(int) - copied.agent_video[-2 * frames : -frames].astype(int)
    model = c.agent_video[-frames:].astype(int) - c.agent_video[-2 * frames : -frames].astype(int)
    assert np.abs(later).mean() < np.abs(model).mean()


def test_keyboard_keeps_what_does_not_fit():
  keyboard = Keyboard(TOKENIZER, 2)
  ids = TOKENIZER.encode("one two three")
  assert [keyboard(["one two three"]).tolist(), keyboard([]).tolist()] == [ids[:2], [ids[2], 0]]


def test_batches_have_one_size_and_count_every_session_once():
  found = list(closed_loop.batches(7, 3, 100))
  assert [seeds for seeds, _ in found] == [[100, 101, 102], [103, 104, 105], [106, 107, 108]]
  assert [count for _, count in found] == [3, 3, 1]


# Scores


MEDIA = MediaConfig(height=32, width=32)


def made_conversation(words: dict[int, str], speech: tuple[float, float] | None, script: Script) -> Conversation:
  """10.08 s; `words` by unit; a tone and an opening mouth during `speech`."""
  units = 63
  text = np.zeros((units, 2), np.int32)
  for unit, word in words.items():
    ids = TOKENIZER.encode(word)
    text[unit, : len(ids)] = ids
  audio = np.zeros(units * MEDIA.samples, np.float32)
  video = np.full((units * MEDIA.frames, 32, 32, 3), 128, np.uint8)
  if speech:
    for frame in range(round(speech[0] * 25), round(speech[1] * 25)):
      level = 0.5 + 0.5 * np.sin(frame)
      audio[frame * 960 : (frame + 1) * 960] = 0.3 * level * np.sin(np.arange(960))
      video[frame, 18:22, 13:18] = 128 + round(100 * level)
  return Conversation(0, script, audio, video, audio, video, text, np.full((32, 32, 3), 128, np.uint8))


SCRIPT = Script(
  questions=(Question("colour", 3.0, 8.0, ("it", "is", "red")),),
  pauses=((1.0, 1.5),),
  interruptions=(5.0,),
  opportunities=(Opportunity("hand_off", 3.0, 8.0), Opportunity("stay_silent", 0.0, 2.0)),
  speech=((0.0, 3.0),),
)


def test_a_good_answer_scores_well():
  c = made_conversation({20: "it is", 21: "red"}, (3.4, 5.6), SCRIPT)
  found = scores.score(c, MEDIA, TOKENIZER)
  assert found["answer"] == found["answer/colour"] == found["turn_taking"][:1] == [1.0]
  assert found["turn_taking"] == [1.0, 1.0]
  assert found["response_latency"] == pytest.approx([0.4], abs=0.03)
  assert found["stop_latency"] == pytest.approx([0.6], abs=0.03)
  assert found["false_take_over"] == [0.0]
  assert found["talk_share"] == pytest.approx([2.2 / 10.08], abs=0.005)
  assert found["talks_over_user"] == [0.0]
  assert found["lip_lag_ms"] == [0.0]
  assert found["lip_correlation"][0] > 0.8


def test_an_early_wrong_and_deaf_answer_scores_badly():
  c = made_conversation({7: "it is", 8: "blue"}, (1.2, 2.9), SCRIPT)
  found = scores.score(c, MEDIA, TOKENIZER)
  assert found["answer"] == [0.0]
  assert found["turn_taking"] == [0.0, 0.0]  # it begins in the pause, and within the user's turn
  assert found["false_take_over"] == [1.0]
  assert found["responds"] == [0.0]
  assert found["talks_over_user"] == pytest.approx([1.7 / 3.0], abs=0.03)


def test_a_mute_agent_has_no_sync_to_measure():
  found = scores.score(made_conversation({}, None, SCRIPT), MEDIA, TOKENIZER)
  summary = scores.summarise(found)
  assert summary["lip_correlation"]["n"] == summary["response_latency"]["n"] == 0
  assert np.isnan(summary["lip_correlation"]["mean"])
  assert summary["drift_face/5s"]["mean"] == 0.0
  assert "drift_face/55s" not in summary


def test_mouth_opening_follows_the_drawn_mouth():
  rng, frames = np.random.default_rng(0), 150
  smooth = lambda width: np.convolve(rng.standard_normal(frames + width - 1), np.hanning(width + 2)[1:-1], "valid")
  pose = faces.still_tracks(frames)
  pose["mouth"] = np.clip(np.abs(smooth(5)) * 0.4, 0, 1).astype(np.float32)
  for name in ("sway", "nod", "tilt"):
    pose[name] = np.clip(0.3 * smooth(40), -1, 1).astype(np.float32)
  video = faces.draw(faces.random_look(rng, held_out=True), pose, [[]] * frames)
  assert metrics.correlation(scores.mouth_opening(video), pose["mouth"], 0, np.ones(frames, bool)) > 0.7


def test_mouth_opening_follows_the_agents_of_the_world():
  found = []
  for seed in range(16):
    _, agent = performers(seed, WorldConfig(units=80, size="full"))
    video, mouth = agent.video(0, 320, 64, 64), agent.tracks(0, 320)["mouth"]
    found.append(np.corrcoef(scores.mouth_opening(video), mouth)[0, 1])
  assert np.mean(found) >= 0.85


def test_answers_must_be_whole_and_in_order():
  late = dataclasses.replace(SCRIPT.questions[0], until=3.2)
  for words, script, expected in (
    ({20: "it", 21: "is", 22: "red"}, SCRIPT, 1.0),
    ({20: "red", 21: "it is"}, SCRIPT, 0.0),
    ({20: "it is", 21: "(nods)", 22: "red"}, SCRIPT, 1.0),
    ({20: "it is", 21: "red"}, dataclasses.replace(SCRIPT, questions=(late,)), 0.0),
  ):
    assert scores.score(made_conversation(words, None, script), MEDIA, TOKENIZER)["answer"] == [expected]


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ({20: "it is", 21: "red"}, 1.0),
    ({20: "red"}, 1.0),
    ({19: "blue", 20: "red"}, 0.0),  # reciting colours is not seeing
    ({19: "four", 20: "red"}, 1.0),  # but other words may stand before the answer
    ({20: "it is"}, 0.0),
  ],
)
def test_the_first_word_that_could_be_the_answer_counts(words, expected):
  question = dataclasses.replace(SCRIPT.questions[0], answer=("red",), choices=("red", "blue"), unseen=True)
  script = dataclasses.replace(SCRIPT, questions=(question,))
  found = scores.score(made_conversation(words, None, script), MEDIA, TOKENIZER)
  assert found["answer"] == found["answer/unseen"] == [expected]


def test_cuts_are_found_in_the_text():
  text = np.array([[5, 0], [TOKENIZER.cut_id, 0], [0, 0]])
  assert scores.cuts(text, TOKENIZER, 0.16) == [0.16]


def test_directives_of_several_words_are_not_spoken():
  words = list(enumerate("it (holds up the red leaf) is (nods) blue".split()))
  assert [word for _, word in scores.spoken(words)] == ["it", "is", "blue"]
  assert " ".join(word for _, word in scores.directives(words)) == "(holds up the red leaf) (nods)"


# Puppets


def puppet_scores(agent, variant: str, sessions: int = 6, units: int = 125) -> dict:
  """Scores of a puppet that meets users of duplex_world, whose pictures are not drawn."""
  world = dataclasses.replace(world_config(agent.config), units=units, height=2, width=2)
  media, parts = agent.config.media, []
  for seed in range(sessions):
    user, puppet = SimulatedUser(seed, world, "heldout"), Puppets(agent.config, TOKENIZER, [None], [seed], variant)
    heard, audio, text = np.zeros(media.samples, np.float32), [], []
    for _ in range(units):
      user.step(heard)
      answer = puppet.step([MediaUnit()], [[]])
      heard = answer.audio[0]
      audio.append(heard)
      text.append(answer.text[0])
    speech = turns.speech_intervals(np.concatenate(audio), media.sample_rate)
    words = scores.timed_words(np.stack(text), TOKENIZER, 0.16)
    parts.append(scores.talk_scores(user.script(units), speech, words, units * 0.16))
  return scores.summarise(scores.join(parts))


def test_a_metronome_and_silence_do_not_pass_for_turn_taking(agent, monkeypatch):
  """Law 10: what a deaf and blind agent reaches. The scripted agent has 1.0 (test_evaluate.py)."""
  monkeypatch.setattr(
    Body, "video", lambda self, first, last, height, width: np.zeros((last - first, 2, 2, 3), np.uint8)
  )
  metronome, slow, silent = (puppet_scores(agent, variant) for variant in PUPPETS)
  assert metronome["turn_taking"]["n"] >= 15
  assert metronome["talk_share"]["mean"] == pytest.approx(0.2 / 2.4, abs=0.02)
  assert metronome["responds"]["mean"] > 0.9  # this is how it was fooled
  assert metronome["turn_taking"]["mean"] <= 0.4
  assert metronome["without_cause"]["mean"] > 0.2
  assert metronome["uncalled_per_minute"]["mean"] > 5
  assert slow["without_cause"]["mean"] > 0.15  # its turn-taking may be better: the two figures belong together
  assert silent["turn_taking/hand_off"]["mean"] == 0.0
  assert silent["turn_taking"]["mean"] < 0.5
  assert silent["without_cause"]["mean"] == silent["talk_share"]["mean"] == silent["answer"]["mean"] == 0.0


def test_puppets_show_the_portrait_and_write_their_word(agent):
  portrait = np.full((32, 32, 3), 9, np.uint8)
  puppet = Puppets(agent.config, TOKENIZER, [portrait, None], [0, 1], "metronome")
  answers = [puppet.step([], []) for _ in range(31)]
  assert {answer.video[0].max() for answer in answers} == {9}
  written = [scores.timed_words(np.stack([a.text[i] for a in answers]), TOKENIZER, 0.16) for i in range(2)]
  for i, words in enumerate(written):
    speech = turns.speech_intervals(np.concatenate([a.audio[i] for a in answers]), agent.config.media.sample_rate)
    assert {word for _, word in words} == {"red"}
    assert len(words) == len(speech)
    assert np.diff(speech, axis=1) == pytest.approx(0.2, abs=0.03)
  assert written[0] != written[1]  # they do not beat together
  with pytest.raises(ValueError, match="expected one of metronome, slow_metronome, silent"):
    Puppets(agent.config, TOKENIZER, [None], [0], "drum")


def test_the_scripted_agent_of_the_full_world_takes_every_turn(agent, monkeypatch):
  """Interruptions, coughs, silent requests, short answers: the agent that learners copy is right by the same rule."""
  monkeypatch.setattr(Body, "video", lambda self, first, last, *size: np.zeros((last - first, *size, 3), np.uint8))
  world = dataclasses.replace(world_config(agent.config), units=250, size="full")
  parts = []
  for seed in range(3):
    c = scripted_conversation(make_session(seed, world, "heldout"), agent.config, TOKENIZER)
    speech = turns.speech_intervals(c.agent_audio, agent.config.media.sample_rate)
    words = scores.timed_words(c.agent_text, TOKENIZER, 0.16)
    parts.append(scores.talk_scores(c.script, speech, words, 40.0, scores.cuts(c.agent_text, TOKENIZER, 0.16)))
  found = scores.summarise(scores.join(parts))
  assert found["turn_taking"]["n"] > 30
  assert found["turn_taking"]["mean"] >= 0.95
  assert found["answer"]["mean"] == 1.0
  assert found["without_cause"]["mean"] == 0.0


# Sharpness


def test_sharpness_compares_lips_and_chin_with_the_truth_in_the_same_state():
  rng = np.random.default_rng(0)
  sharp = made_conversation({}, (3.0, 6.0), SCRIPT)
  sharp = dataclasses.replace(sharp, agent_video=rng.integers(100, 156, sharp.agent_video.shape, np.uint8))
  soft = sharp.agent_video.copy()
  soft[70:155] = (soft[70:155].astype(int) + 128) // 2  # half the contrast while it speaks
  truth = [scores.score(sharp, MEDIA, TOKENIZER)]
  blurred = scores.score(dataclasses.replace(sharp, agent_video=soft), MEDIA, TOKENIZER)
  [found, extra] = scores.with_sharpness([blurred, blurred], truth)
  assert found["sharpness/speaking"] == pytest.approx([0.25], abs=0.02)
  assert found["sharpness/listening"] == pytest.approx([1.0], abs=0.02)
  assert found["sharpness"] == pytest.approx([0.625], abs=0.03)
  assert "sharpness" not in extra  # a session that the truth lacks
  elsewhere = sharp.agent_video.copy()
  elsewhere[:, :12] = 0  # the forehead does not count
  same = scores.score(dataclasses.replace(sharp, agent_video=elsewhere), MEDIA, TOKENIZER)
  assert scores.with_sharpness([same], truth)[0]["sharpness"] == [1.0]
