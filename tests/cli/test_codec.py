"""`wanstreamer codec import`: folders become codecs that `data encode` and `export` take as they take trained ones."""

import json

import jax
import numpy as np
import pytest

from tests.helpers.agents import random_weights
from tests.helpers.fake_sessions import FakeSource
from tests.helpers.pretrained import NANO_POCKET, WAN2P2, pocket_folder, tae_folder, wan_folder
from wanstreamer_jax.cli.main import run
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.encode import fingerprint
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import CheckpointError, DataError, UserError
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.weights.agent import abstract_agent, assemble, load_codecs
from wanstreamer_jax.weights.import_codec import flags, import_codec
from wanstreamer_jax.weights.store import export_weights

POCKET = NANO_POCKET | {
  "num_filters": 4, "hidden_size": 12, "upsample_groups": 12, "intermediate_size": 16, "num_hidden_layers": 1,
  "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip
WAN = WAN2P2 | {"base_dim": 4, "decoder_base_dim": 6}
SMALL = ["--config.layout.patch=1", "--config.data.units=3", "--config.data.batch=2"]
FILE = "configs/nano.py"


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
  """Records, folders of codecs, and what importing them wrote and printed."""
  root = tmp_path_factory.mktemp("brought")
  config = load_config(FILE, SMALL)
  make(config, FakeSource(config, 2, 6), root / "media", progress=False)
  folders = {"pocket": pocket_folder(root / "p", POCKET), "wan": wan_folder(root / "w", WAN, shards=2)}
  tae = tae_folder(root / "t", WAN)
  command = ["codec", "import", "--config", FILE, *SMALL]
  run([*command, str(folders["pocket"]), "--records", str(root / "media"), "--out", str(root / "pocket")])
  run([*command, str(folders["wan"]), "--out", str(root / "wan")])
  run([*command, str(folders["wan"]), "--decoder", str(tae), "--out", str(root / "small")])
  changes = []
  for folder, decoder in ((folders["pocket"], None), (folders["wan"], None)):
    changes += flags(config, import_codec(folder, config, decoder).config)
  return root, folders, [*SMALL, *changes]


def test_the_command_says_what_it_did_and_what_the_config_lacks(brought, tmp_path, capsys):
  _, folders, _ = brought
  out = tmp_path / "out"
  run(["codec", "import", str(folders["wan"]), "--config", FILE, *SMALL, "--out", str(out), "--dtype", "bf16"])
  printed = capsys.readouterr().out
  assert "video_codec of kind wan2p2, latents standardised as" in printed
  assert "set these fields, or give: --config.video_codec.kind=wan2p2" in printed
  assert f"--video-codec {out}" in printed
  assert json.loads((out / "config.json").read_text())["config"]["video_codec"]["kind"] == "wan2p2"


def test_latents_are_standardised_over_the_records(brought):
  root, _, changes = brought
  config = load_config(FILE, changes)
  out = root / "latents"
  run(["data", "encode", str(root / "media"), "--config", FILE, *changes, "--out", str(out), "--audio-codec",
       str(root / "pocket"), "--video-codec", str(root / "wan")])  # fmt: skip
  records = RecordFolder(out)
  records.check(config, TextTokenizer())
  assert records.manifest["codecs"] == {"audio": "pocket", "video": "wan2p2"}
  units = np.concatenate([records.read_units(i) for i in range(records.sessions)])
  sound = units["agent_audio_latent"].astype(np.float64)
  assert sound.shape == (12, 2, 5)
  assert units["agent_video_latent"].shape == (12, 2, 2, 4)
  # Clips of three units, of both sides, measured it: the agent's latents have about that mean and deviation.
  assert np.abs(sound.mean((0, 1))).max() < 1.5
  assert 0.2 < sound.std((0, 1)).min() <= sound.std((0, 1)).max() < 3

  other = load_config(FILE, [*changes, "--config.video_codec.kind=wan2p1", "--config.video_codec.wan2p1.patch=2",
                             "--config.video_codec.wan2p1.latent_dim=4"])  # fmt: skip
  with pytest.raises(DataError, match=r"latents of the video codec wan2p2, but video_codec\.kind is wan2p1: encode"):
    records.check(other, TextTokenizer())


def test_the_small_decoder_makes_the_same_latents_and_serves_an_agent(brought, tmp_path):
  root, _, changes = brought
  config = load_config(FILE, changes)
  own, small = (load_codecs(config, root / "pocket", root / name) for name in ("wan", "small"))
  assert fingerprint(*own) == fingerprint(*small)
  assert fingerprint(own[0]) != fingerprint(own[1])
  assert "decoder.stages.0.grow.w" in named_leaves(small[1])
  streamer = random_weights(abstract_agent(config).streamer)
  export_weights(streamer, config, tmp_path / "streamer", "f32")
  for name, decoder in (("wan", "own"), ("small", "tae")):
    agent = assemble(tmp_path / "streamer", root / "pocket", root / name)
    assert agent.config.video_codec.decoder == decoder
    assert jax.tree.structure(agent) == jax.tree.structure(abstract_agent(agent.config))


def test_bad_input_is_one_line(brought, tmp_path):
  root, folders, changes = brought
  command = ["codec", "import", "--config", FILE, *SMALL, "--out", str(tmp_path / "out")]

  def refused(*arguments, error=CheckpointError):
    with pytest.raises(error) as caught:
      run([*command, *map(str, arguments)])
    assert not (tmp_path / "out").exists()
    return str(caught.value)

  assert "does not say the mean and deviation of its latents: give --records" in refused(folders["pocket"])
  assert "no folder" in refused(folders["pocket"], "--records", root / "nowhere", error=UserError)
  assert "video latent rows" in refused(folders["wan"], "--config.media.height=40", error=UserError)
  config = load_config(FILE, SMALL)
  with pytest.raises(CheckpointError, match=r"audio_codec\.kind pocket, but the config source_filter: give"):
    load_codecs(config, root / "pocket", root / "wan")
  with pytest.raises(CheckpointError, match=r"has video_codec\.kind wan2p2, but the config native"):
    load_codecs(load_config(FILE, [c for c in changes if "video" not in c]), root / "pocket", root / "wan")
  other = write_other(tmp_path)
  assert "names the architecture 'mimi'" in refused(other)


def write_other(folder):
  """A folder of another tokenizer."""
  path = folder / "mimi"
  path.mkdir()
  (path / "config.json").write_text(json.dumps({"model_type": "mimi"}))
  return path
