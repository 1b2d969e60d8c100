"""Law 8 for imported codecs: the classes of transformers and diffusers with random weights, and an own TAE in torch."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import assert_close
from tests.helpers.pretrained import POCKET, WAN2P1, WAN2P2, random_tensors, tae_folder, tae_shapes, wan_folder
from wanstreamer_jax.config import Config
from wanstreamer_jax.weights.import_codec import import_codec

torch = pytest.importorskip("torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

UNITS = 24


def config():
  base = Config(name="import")
  base.media.height = base.media.width = 32
  base.layout.patch = 1
  return base.freeze()


@torch.no_grad()
def perturb(model):
  """Norms, biases and gains away from 1, 0 and their tiny start: a dropped one would not be noticed."""
  torch.manual_seed(1)
  for name, parameter in model.named_parameters():
    if name.endswith("layer_scale.scale"):
      parameter.uniform_(0.5, 1.0)
    elif parameter.ndim == 1 or name.endswith("gamma"):
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model.eval()


def pocket_model(values, folder):
  module = pytest.importorskip("transformers.models.pocket_tts_audio_tokenizer")
  torch.manual_seed(0)
  values = {name: value for name, value in values.items() if name != "model_type"}
  model = perturb(module.PocketTTSAudioTokenizerModel(module.PocketTTSAudioTokenizerConfig(**values)))
  model.save_pretrained(folder)
  return model, import_codec(folder, config()).codec


@torch.no_grad()
def check_pocket(model, codec):
  """UNITS units of two latents: whole, ours in units, and the encoder's own chunks. Past windows and pieces."""
  hop = codec.cfg.hop
  samples = np.random.default_rng(0).uniform(-1, 1, UNITS * 2 * hop).astype(np.float32)
  sound = torch.tensor(samples)[None, None]
  latents = model.encode(sound).latents[0].numpy()
  chunks, caches = [], {}
  for unit in range(UNITS):
    part = sound[..., 2 * hop * unit : 2 * hop * (unit + 1)]
    out = model.encode(part, use_streaming=True, **caches)
    caches = {"encoder_cache": out.encoder_cache, "padding_cache": out.padding_cache}
    chunks.append(out.latents[0].numpy())
  decoded = model.decode(torch.tensor(latents)[None]).audio_values[0, 0].numpy()

  encode, decode = (jax.jit(type(codec).encode), jax.jit(type(codec).decode))
  assert_close(encode(codec, samples, codec.encoder_state())[0].mean, latents)
  assert_close(decode(codec, latents, codec.decoder_state())[0], decoded)
  states, ours, sounds = (codec.encoder_state(), codec.decoder_state()), [], []
  for unit in range(UNITS):
    posterior, before = encode(codec, samples[2 * hop * unit : 2 * hop * (unit + 1)], states[0])
    sound, after = decode(codec, latents[2 * unit : 2 * unit + 2], states[1])
    states = (before, after)
    ours.append(posterior.mean)
    sounds.append(sound)
  assert_close(np.concatenate(ours), latents)
  assert_close(np.concatenate(ours), np.concatenate(chunks))
  assert_close(np.concatenate(sounds), decoded)


@pytest.mark.parametrize("odd", [{}, {"hidden_act": "gelu", "num_residual_layers": 1, "num_key_value_heads": 4}])
def test_pocket_equals_transformers_past_its_window(tmp_path, odd):
  model, codec = pocket_model(POCKET | odd, tmp_path)
  assert 2 * UNITS * codec.cfg.latent_stride > 2 * codec.cfg.window
  check_pocket(model, codec)


@pytest.mark.slow
def test_pocket_of_the_released_size_equals_transformers(tmp_path):
  model, codec = pocket_model({}, tmp_path)
  assert codec.cfg.window == 250
  check_pocket(model, codec)


def wan_model(values, folder):
  diffusers = pytest.importorskip("diffusers")
  torch.manual_seed(0)
  values = {name: value for name, value in values.items() if name != "_class_name"}
  model = perturb(diffusers.AutoencoderKLWan(**values))
  model.save_pretrained(folder)
  return model, import_codec(folder, config()).codec


@torch.no_grad()
def decode_wan(model, latents):
  """As `model.decode`, without the clamp that would hide what random weights make: [1, Z, n, h, w] -> frames."""
  from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

  model.clear_cache()
  hidden, frames = model.post_quant_conv(latents), []
  for i in range(latents.shape[2]):
    model._conv_idx = [0]
    part = hidden[:, :, i : i + 1]
    frames.append(model.decoder(part, feat_cache=model._feat_map, feat_idx=model._conv_idx, first_chunk=i == 0))
  out = torch.cat(frames, 2)
  out = unpatchify(out, model.config.patch_size) if model.config.patch_size else out
  assert torch.equal(out.clamp(-1, 1), model.decode(latents).sample)
  return out


@torch.no_grad()
def check_wan(model, codec, groups):
  """The whole clip at once, and frame and groups one by one, in both directions."""
  side, standard = codec.cfg.space_stride, codec.standard
  frames = np.random.default_rng(0).uniform(-1, 1, (1 + 4 * groups, 2 * side, 3 * side, 3)).astype(np.float32)
  posterior = model.encode(torch.tensor(frames.transpose(3, 0, 1, 2))[None]).latent_dist
  ours = lambda x: x[0].numpy().transpose(1, 2, 3, 0)  # [1, C, T, H, W] -> [T, H, W, C]
  found = jax.jit(type(codec).encode_clip)(codec, frames)
  scale = standard.latent_std[...]
  assert_close(found.mean * scale + standard.latent_mean[...], ours(posterior.mode()), 1e-4)
  assert_close(found.logvar + 2 * np.log(scale), ours(posterior.logvar), 1e-4)
  expected = ours(decode_wan(model, posterior.mode()))
  assert_close(jax.jit(type(codec).decode_clip)(codec, found.mean), expected, 1e-4)

  encode, decode = jax.jit(type(codec).encode), jax.jit(type(codec).decode)
  first, state = jax.jit(type(codec).encode_first)(codec, frames[:1])
  latents = [first.mean]
  for i in range(groups):
    part, state = encode(codec, frames[1 + 4 * i : 5 + 4 * i], state)
    latents.append(part.mean)
  assert_close(np.concatenate(latents), found.mean)
  first, state = jax.jit(type(codec).decode_first)(codec, found.mean[:1])
  shown = [first]
  for i in range(groups):
    part, state = decode(codec, found.mean[1 + i : 2 + i], state)
    shown.append(part)
  assert_close(np.concatenate(shown), expected, 1e-4)


# Other steps in time than the released ones, where both copies in time of a step up are of the same channel.
UNEVEN = WAN2P2 | {"num_res_blocks": 2, "temperal_downsample": [True, True, False]}


@pytest.mark.parametrize("values", [WAN2P1, UNEVEN], ids=["wan2p1", "wan2p2"])
def test_wan_equals_diffusers(tmp_path, values):
  check_wan(*wan_model(values, tmp_path), groups=4)


@pytest.mark.slow
@pytest.mark.parametrize(
  "values",
  [
    {},
    {
      "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "patch_size": 2, "in_channels": 12,
      "out_channels": 12, "scale_factor_spatial": 16, "latents_mean": [0.1] * 48, "latents_std": [0.7] * 48,
    },
  ],
  ids=["wan2p1", "wan2p2"],
)  # fmt: skip
def test_wan_of_the_released_size_equals_diffusers(tmp_path, values):
  check_wan(*wan_model(values, tmp_path), groups=2)


class FrameByFrame:
  """The small decoder once more, in torch, depth first: every frame goes all the way before the next one starts."""

  def __init__(self, tensors, patch, blocks=3):
    self.tensors = {name: torch.tensor(value) for name, value in tensors.items()}
    self.patch, self.blocks, self.memory, self.frames = patch, blocks, {}, []

  def conv(self, x, name):
    weight = self.tensors[f"{name}.weight"]
    return torch.nn.functional.conv2d(x, weight, self.tensors.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

  def __call__(self, latents):
    """[n, Z, h, w] to [4n, 3, H, W] in 0 .. 1."""
    for latent in latents:
      self.stage(self.conv(3 * torch.tanh(latent[None] / 3), "decoder.1").relu(), 0, 3)
    return torch.cat(self.frames)

  def stage(self, x, number, place):
    if number == 3:
      y = self.conv(x.relu(), f"decoder.{place + 1}")
      self.frames.append(torch.nn.functional.pixel_shuffle(y, self.patch))
      return
    for block in range(self.blocks):
      before = self.memory.get((number, block), torch.zeros_like(x))
      self.memory[number, block] = x
      name = f"decoder.{place + block}.conv"
      y = self.conv(torch.cat([x, before], 1), f"{name}.0").relu()
      x = (self.conv(self.conv(y, f"{name}.2").relu(), f"{name}.4") + x).relu()
    place += self.blocks
    large = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")
    both = self.conv(large, f"decoder.{place + 1}.conv").chunk(2, 1)
    for frame in both[1:] if number == 0 else both:
      self.stage(self.conv(frame, f"decoder.{place + 2}"), number + 1, place + 3)


@pytest.mark.parametrize("values", [WAN2P1, WAN2P2], ids=["wan2p1", "wan2p2"])
def test_the_small_decoder_equals_one_that_goes_frame_by_frame(tmp_path, values):
  patch = values.get("patch_size") or 1
  codec = import_codec(wan_folder(tmp_path / "w", values), config(), tae_folder(tmp_path / "t", values)).codec
  latents = 2 * np.random.default_rng(3).standard_normal((5, 2, 3, values["z_dim"])).astype(np.float32)
  oracle = FrameByFrame(random_tensors(tae_shapes(values["z_dim"], patch)), patch)
  expected = 2 * oracle(torch.tensor(latents.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1) - 1
  assert len(expected) == 20
  frames = jax.jit(type(codec).decode_clip)(codec, latents)  # standardised as the folder says: what it was trained on
  assert_close(frames, expected[3:])
  first, state = codec.decode_first(jnp.asarray(latents[:1]))
  shown = [first]
  for i in range(1, 5):
    part, state = jax.jit(type(codec).decode)(codec, latents[i : i + 1], state)
    shown.append(part)
  assert_close(np.concatenate(shown), expected[3:])
