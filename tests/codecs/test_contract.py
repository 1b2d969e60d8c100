"""Every kind of codec through the two contracts of `codecs/interface.py`, and through an agent that streams with it.

Laws 1 (chunks), 2 (causality), 4 (every leaf has one sharding rule) and 9 (states keep their form). The kinds are small
enough to compile in a second or two each.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.agents import (
  random_text,
  random_users,
  random_weights,
  random_world,
  replay,
  small_agent,
  small_config,
)
from wanstreamer_jax import rollout
from wanstreamer_jax.codecs.make import make_audio_codec, make_video_codec
from wanstreamer_jax.config import (
  AudioCodecConfig,
  NativeVideoConfig,
  PocketConfig,
  SourceFilterConfig,
  TaeConfig,
  VideoCodecConfig,
  Wan2p2Config,
  WanConfig,
)
from wanstreamer_jax.data.session import MediaUnit
from wanstreamer_jax.engine.engine import Engine
from wanstreamer_jax.parallel.rules import matching_rules, named_leaves
from wanstreamer_jax.weights.agent import export_agent, load_agent

UNIT = 3840  # samples
POCKET = PocketConfig(
  latent_dim=5, strides=(6, 8), latent_stride=40, filters=4, residual_blocks=1, width=12, layers=1, heads=2,
  kv_heads=1, head_dim=6, mlp=16, window=90,
)  # fmt: skip
WAN = {"base_dim": 4, "multiples": (1, 2, 2), "blocks": 1, "time_down": (True, True), "latent_dim": 3}
DEEP = {"base_dim": 2, "multiples": (1, 1, 2, 2), "time_down": (False, True, True)}
WAN2P1, WAN2P2 = WanConfig(**WAN), Wan2p2Config(**WAN, decoder_base_dim=6)
AUDIO = {
  "source_filter": AudioCodecConfig(source_filter=SourceFilterConfig(channels=4, max_channels=8, latent_dim=4)),
  "pocket": AudioCodecConfig(kind="pocket", pocket=POCKET),
  "neural": AudioCodecConfig(kind="neural"),
}
VIDEO = {
  "native": VideoCodecConfig(native=NativeVideoConfig(channels=(4, 4, 8), latent_dim=3, decoder_blocks=(1, 1, 1))),
  "wan2p1": VideoCodecConfig(kind="wan2p1", wan2p1=WAN2P1),
  "wan2p2": VideoCodecConfig(kind="wan2p2", wan2p2=WAN2P2),
  "tae": VideoCodecConfig(
    kind="wan2p2", wan2p2=Wan2p2Config(**WAN | DEEP), decoder="tae", tae=TaeConfig(channels=(6, 4, 4, 4), blocks=1)
  ),
}
HEIGHT, WIDTH = 32, 48
audio_kinds, video_kinds = pytest.mark.parametrize("kind", AUDIO), pytest.mark.parametrize("kind", VIDEO)


@functools.cache
def audio(kind):
  """(codec, its jitted encode, its jitted decode); no leaf is 0 or 1."""
  codec = random_weights(jax.eval_shape(lambda: make_audio_codec(AUDIO[kind], rngs=nnx.Rngs(0))))
  return codec, jax.jit(type(codec).encode), jax.jit(type(codec).decode)


@functools.cache
def video(kind):
  codec = random_weights(jax.eval_shape(lambda: make_video_codec(VIDEO[kind], rngs=nnx.Rngs(0))))
  return codec, jax.jit(type(codec).encode), jax.jit(type(codec).decode)


def sound(latents, codec, seed=0):
  return np.random.default_rng(seed).uniform(-0.9, 0.9, latents * codec.cfg.hop).astype(np.float32)


def frames(count, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (count, HEIGHT, WIDTH, 3)).astype(np.float32)


def numbers(codec, *shape, seed=0):
  return np.random.default_rng(seed).standard_normal((*shape, codec.cfg.latent_dim)).astype(np.float32)


def in_chunks(step, codec, x, state, sizes, grid=1):
  """Outputs of x in chunks of sizes * grid, joined, and the last state, whose form must stay what it was."""
  outputs, start, form = [], 0, jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
  for size in sizes:
    y, state = step(codec, x[start : start + size * grid], state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == form
    outputs.append(y)
    start += size * grid
  assert start == len(x)
  return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs), state


def check_chunks(step, codec, x, state, sizes, grid=1):
  total = len(x) // grid
  assert_close(in_chunks(step, codec, x, state, sizes, grid), in_chunks(step, codec, x, state, [total], grid))


def check_future(step, codec, x, state, cut, outputs, poison):
  """Inputs from `cut` on reach no bit of the first outputs, and something of the later ones."""
  late = x.copy()
  late[cut:] = poison
  clean, poisoned = (jax.tree.leaves(step(codec, value, state)[0]) for value in (x, late))
  for a, b in zip(clean, poisoned):
    np.testing.assert_array_equal(a[:outputs], b[:outputs])
  assert any(not np.array_equal(a[outputs:], b[outputs:]) for a, b in zip(clean, poisoned))


@audio_kinds
def test_audio_in_chunks_is_the_whole(kind):
  codec, encode, decode = audio(kind)
  hop = codec.cfg.hop
  check_chunks(encode, codec, sound(8, codec), codec.encoder_state(), [1, 3, 1, 3], hop)
  check_chunks(decode, codec, numbers(codec, 8), codec.decoder_state(), [3, 1, 3, 1])


@audio_kinds
def test_audio_knows_no_future(kind):
  codec, encode, decode = audio(kind)
  poison = np.float32(1e30) if kind == "pocket" else np.float32(np.nan)  # attention weighs hidden values with 0
  check_future(encode, codec, sound(8, codec), codec.encoder_state(), 5 * codec.cfg.hop, 5, poison)
  check_future(decode, codec, numbers(codec, 8), codec.decoder_state(), 5, 5 * codec.cfg.hop, poison)


@audio_kinds
def test_audio_latents_fill_a_unit(kind):
  codec, encode, decode = audio(kind)
  assert UNIT % codec.cfg.hop == 0
  posterior, _ = encode(codec, sound(UNIT // codec.cfg.hop, codec), codec.encoder_state())
  assert posterior.mean.shape == posterior.logvar.shape == (UNIT // codec.cfg.hop, codec.cfg.latent_dim)
  assert decode(codec, posterior.mean, codec.decoder_state())[0].shape == (UNIT,)
  assert np.isfinite(posterior.logvar).all()
  with pytest.raises(ValueError, match="not a whole number of latent frames"):
    codec.encode(jnp.zeros(codec.cfg.hop + 1), codec.encoder_state())


@audio_kinds
def test_audio_sessions_side_by_side_are_each_alone(kind):
  codec, _, decode = audio(kind)
  state = codec.decoder_state()
  both = np.stack([numbers(codec, 8, seed=seed) for seed in (1, 2)])
  states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
  found, _ = jax.jit(jax.vmap(type(codec).decode, in_axes=(None, 0, 0)))(codec, both, states)
  assert_close(found, np.stack([decode(codec, z, state)[0] for z in both]))


@audio_kinds
def test_standardisation_moves_latents_and_not_sound(kind):
  codec, encode, decode = audio(kind)
  samples = sound(8, codec)
  raw, _ = encode(codec, samples, codec.encoder_state())
  moved = jax.tree.map(lambda leaf: leaf, codec)
  mean, deviation = (codec.standard.latent_mean[...], codec.standard.latent_std[...])
  moved.standard.latent_mean, moved.standard.latent_std = nnx.Param(mean + 1), nnx.Param(2 * deviation)
  latents, _ = encode(moved, samples, moved.encoder_state())
  assert_close(2 * latents.mean + 1 / deviation, raw.mean)
  both = [decode(c, z.mean, c.decoder_state())[0] for c, z in ((codec, raw), (moved, latents))]
  assert_close(both[1], both[0], 1e-4)


@functools.cache
def begun(kind):
  """What the first frame and the first latent frame give, and the states after them."""
  codec, _, _ = video(kind)
  side = codec.cfg.space_stride
  first, encoder = jax.jit(type(codec).encode_first)(codec, frames(1))
  shown, decoder = jax.jit(type(codec).decode_first)(codec, numbers(codec, 1, HEIGHT // side, WIDTH // side))
  return first, encoder, shown, decoder


@video_kinds
def test_video_in_chunks_is_the_whole(kind):
  codec, encode, decode = video(kind)
  _, encoder, _, decoder = begun(kind)
  sizes = [2, 1, 1, 2, 1] if kind == "wan2p1" else [1] * 7
  check_chunks(encode, codec, frames(28), encoder, sizes, 4)
  side = codec.cfg.space_stride
  check_chunks(decode, codec, numbers(codec, 7, HEIGHT // side, WIDTH // side), decoder, sizes)


@video_kinds
def test_video_knows_no_future(kind):
  codec, encode, decode = video(kind)
  _, encoder, _, decoder = begun(kind)
  check_future(encode, codec, frames(28), encoder, 16, 4, np.nan)
  side = codec.cfg.space_stride
  check_future(decode, codec, numbers(codec, 7, HEIGHT // side, WIDTH // side), decoder, 4, 16, np.nan)


@video_kinds
def test_a_clip_is_its_first_frame_and_then_groups(kind):
  codec, _, _ = video(kind)
  first, encoder, shown, decoder = begun(kind)
  grid = (HEIGHT // codec.cfg.space_stride, WIDTH // codec.cfg.space_stride, codec.cfg.latent_dim)
  assert first.mean.shape == first.logvar.shape == (1, *grid)
  assert shown.shape == (1, HEIGHT, WIDTH, 3)
  clip = jnp.zeros((1 + 8, HEIGHT, WIDTH, 3))
  posterior = jax.eval_shape(codec.encode_clip, clip)
  assert posterior.mean.shape == (3, *grid)
  assert jax.eval_shape(codec.decode_clip, posterior.mean).shape == clip.shape
  form = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
  assert form(jax.eval_shape(lambda: codec.primed_encoder_state(HEIGHT, WIDTH))) == form(encoder)
  assert form(jax.eval_shape(lambda: codec.primed_decoder_state(HEIGHT, WIDTH))) == form(decoder)
  with pytest.raises(ValueError, match="whole groups of 4"):
    codec.encode(clip[:3], encoder)
  with pytest.raises(ValueError, match="sides divisible by"):
    codec.encode_first(clip[:1, :-1])


def agent_config(audio_kind, video_kind):
  config = small_config().replace()
  return config.replace(audio_codec=AUDIO[audio_kind].replace(), video_codec=VIDEO[video_kind].replace()).freeze()


def check_agent(audio_kind, video_kind, units=4):
  """A rollout sounds and looks like its latents, from the portrait on, and training sees what it saw (law 3)."""
  config = agent_config(audio_kind, video_kind)
  agent, world, users = small_agent(config), random_world(config), random_users(config, units)

  @jax.jit
  def run(agent, world, users):
    state = rollout.start_session(agent, jax.random.key(0), world, 0, 0)
    return rollout.rollout(agent, state, users, random_text(config, units))[1]

  spoken = run(agent, world, users)
  latents = spoken.latents
  codec = agent.audio_codec
  heard = jax.jit(type(codec).decode)(codec, latents.audio.reshape(-1, codec.cfg.latent_dim), codec.decoder_state())[0]
  assert_close(spoken.audio.reshape(-1), heard)
  shown = jax.jit(type(agent.video_codec).decode_clip)(
    agent.video_codec, jnp.concatenate([world.portrait[None], latents.video])
  )
  assert_close(spoken.video.reshape(-1, *spoken.video.shape[2:]), shown[1:])
  predicted = jax.jit(lambda *inputs: replay(*inputs, 0, 0, 0).velocity)(agent, world, users, spoken)
  first, second = (jax.tree.map(lambda x, i=i: x[:, i], spoken.trace["solver_inputs"]) for i in (0, 1))
  step = spoken.trace["times"][0, 0] - spoken.trace["times"][0, 1]
  assert_close(jax.tree.map(lambda a, b: (a - b) / step, first, second), predicted, 1e-4)
  return agent, spoken


def test_an_agent_streams_and_trains_with_imported_codecs():
  check_agent("pocket", "tae")


@pytest.mark.slow
@pytest.mark.parametrize(("audio_kind", "video_kind"), [("pocket", "wan2p1"), ("source_filter", "wan2p2")])
def test_an_agent_streams_and_trains_with_other_codecs(audio_kind, video_kind):
  check_agent(audio_kind, video_kind)


@pytest.mark.parametrize(("audio_kind", "video_kind"), [("pocket", "tae"), ("neural", "wan2p1")])
def test_an_exported_agent_is_read_back(tmp_path, audio_kind, video_kind):
  config = agent_config(audio_kind, video_kind).replace()
  config.model.vocab = 1024  # of the tokenizer that an export carries
  agent = small_agent(config.freeze())
  export_agent(agent, tmp_path, "f32")
  again = load_agent(tmp_path)
  assert again.config.audio_codec == agent.config.audio_codec
  assert again.config.video_codec == agent.config.video_codec
  for (name, a), b in zip(named_leaves(agent).items(), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(a, b, err_msg=name)


def test_every_leaf_of_every_kind_has_one_sharding_rule():
  configs = [*((AUDIO[kind], VIDEO["native"]) for kind in AUDIO)]
  configs += [(AUDIO["pocket"], VIDEO[kind]) for kind in VIDEO]
  configs += [(AudioCodecConfig(kind="pocket"), VideoCodecConfig(kind="wan2p2", decoder="tae"))]
  for audio_codec, video_codec in configs:
    codecs = jax.eval_shape(
      lambda a=audio_codec, v=video_codec: {
        "audio_codec": make_audio_codec(a, rngs=nnx.Rngs(0)),
        "video_codec": make_video_codec(v, rngs=nnx.Rngs(0)),
      }
    )
    found = {name: [rule.pattern for rule in matching_rules(name)] for name in named_leaves(codecs)}
    assert {name: rules for name, rules in found.items() if len(rules) != 1} == {}


def test_the_released_sizes_have_the_parameters_that_are_known():
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
  pocket = jax.eval_shape(lambda: make_audio_codec(AudioCodecConfig(kind="pocket"), rngs=nnx.Rngs(0)))
  sizes = [round(count(half), 2) for half in (pocket.encoder, pocket.decoder)]
  assert sizes == [9.75, 10.31]  # the decoder with the map from latents
  video = lambda kind, decoder="own": jax.eval_shape(
    lambda: make_video_codec(VideoCodecConfig(kind=kind, decoder=decoder), rngs=nnx.Rngs(0))
  )
  wan2p1, wan2p2 = video("wan2p1"), video("wan2p2")
  assert (round(count(wan2p1.encoder), 1), round(count(wan2p1.decoder), 1)) == (53.6, 73.3)
  assert (round(count(wan2p2.encoder), 1), round(count(wan2p2.decoder), 1)) == (149.6, 555.1)
  assert [round(count(video(kind, "tae").decoder), 1) for kind in ("wan2p1", "wan2p2")] == [9.8, 9.9]


@pytest.mark.slow
def test_the_engine_sounds_and_looks_like_its_latents_and_continues_a_saved_session(tmp_path):
  config = agent_config("pocket", "tae").replace()
  config.model.vocab = 1024  # of the shipped tokenizer
  engine = Engine(small_agent(config.freeze()))
  sounds = np.random.default_rng(0).uniform(-0.5, 0.5, (4, config.media.samples)).astype(np.float32)
  answers, latents = [], []
  for unit, sound in enumerate(sounds):
    if unit == 2:
      engine.save(tmp_path)
    answers.append(engine.step(MediaUnit(audio=sound)))
    latents.append(jax.tree.map(lambda x: x[0], engine.latents))
  made = jax.tree.map(lambda *x: jnp.stack(x), *latents)
  codec, pictures = engine.agent.audio_codec, engine.agent.video_codec
  heard, _ = jax.jit(type(codec).decode)(codec, made.audio.reshape(-1, codec.cfg.latent_dim), codec.decoder_state())
  assert_close(np.concatenate([answer.audio for answer in answers]), np.clip(heard, -1, 1))
  grey = jax.jit(lambda codec: codec.primed_decoder_state(config.media.height, config.media.width))(pictures)
  shown, _ = jax.jit(type(pictures).decode)(pictures, made.video, grey)
  seen = np.concatenate([answer.video for answer in answers])
  assert np.abs(seen - (np.clip(shown, -1, 1) + 1) * 127.5).max() <= 1.0
  engine.restore(tmp_path)
  for sound, answer in zip(sounds[2:], answers[2:]):
    again = engine.step(MediaUnit(audio=sound))
    np.testing.assert_array_equal(again.audio, answer.audio)
    np.testing.assert_array_equal(again.video, answer.video)
