"""Small encoders for hearing and seeing, and folders of random weights as transformers writes them."""

import pathlib

from tests.helpers.agents import small_config
from tests.helpers.pretrained import random_tensors, write_folder
from wanstreamer_jax.config import Config, MoonshineConfig, PocketConfig, Siglip2Config

MOONSHINE = MoonshineConfig(
  width=24, heads=4, kv_heads=2, head_dim=8, mlp=40, past=(5, 4, 3), future=(4, 0, 3), look_ahead="none"
)
SIGLIP = Siglip2Config(width=24, layers=2, heads=3, mlp=40, patch=8, places=16, patches=16)


POCKET = PocketConfig(
  strides=(6, 8), latent_stride=40, filters=4, latent_dim=5, residual_blocks=1, width=16, layers=1, heads=2, kv_heads=2,
  head_dim=8, mlp=24, window=90,
)  # fmt: skip


def config_with(audio: str = "native", video: str = "native", **perception) -> Config:
  """The small config with small pretrained encoders. perception: further fields of its section."""
  config = small_config().replace()
  p = config.perception
  p.audio, p.video, p.moonshine, p.siglip2 = audio, video, MOONSHINE.replace(), SIGLIP.replace()
  config.audio_codec.pocket = POCKET.replace()
  for name, value in perception.items():
    setattr(p, name, value)
  return config.freeze()


def vision_folder(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """A random NaFlex encoder of the small size, as transformers writes it, without torch."""
  s = SIGLIP
  shapes = {
    "embeddings.patch_embedding.weight": (s.width, 3 * s.patch**2), "embeddings.patch_embedding.bias": (s.width,),
    "embeddings.position_embedding.weight": (s.places, s.width), "head.probe": (1, 1, s.width),
    "post_layernorm.weight": (s.width,), "post_layernorm.bias": (s.width,),
  }  # fmt: skip
  for i in range(s.layers):
    of = f"encoder.layers.{i}."
    products = {f"self_attn.{name}": (s.width, s.width) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    products |= {"mlp.fc1": (s.mlp, s.width), "mlp.fc2": (s.width, s.mlp)}
    shapes |= {f"{of}{name}.weight": shape for name, shape in products.items()}
    shapes |= {f"{of}{name}.bias": shape[:1] for name, shape in products.items()}
    shapes |= {f"{of}layer_norm{n}.{leaf}": (s.width,) for n in (1, 2) for leaf in ("weight", "bias")}
  config = {
    "model_type": "siglip2_vision_model", "hidden_size": s.width, "num_hidden_layers": s.layers,
    "num_attention_heads": s.heads, "intermediate_size": s.mlp, "patch_size": s.patch, "num_patches": s.places,
  }  # fmt: skip
  return write_folder(folder, random_tensors(shapes, seed), config)


def perturb(model) -> None:
  """Norms away from one, biases away from zero, and weights so large that attention matters."""
  import torch

  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim < 2:
        parameter.add_(0.2 * torch.randn_like(parameter))
      else:
        parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)


def save_vision(folder: pathlib.Path, kind: str = "Siglip2", whole: bool = False):
  """A random vision encoder on disk, alone or inside a whole model; returns the encoder."""
  import transformers

  s = SIGLIP
  sizes = {
    "hidden_size": s.width, "num_hidden_layers": s.layers, "num_attention_heads": s.heads, "intermediate_size": s.mlp,
    "patch_size": s.patch,
  }  # fmt: skip
  sizes |= {"num_patches": s.places} if kind == "Siglip2" else {"image_size": round(s.places**0.5) * s.patch}
  if whole:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = getattr(transformers, f"{kind}Config")(
      vision_config=sizes, text_config={**text, "vocab_size": 16, "bos_token_id": 1, "eos_token_id": 2}
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
  else:
    config = getattr(transformers, f"{kind}VisionConfig")(**sizes)
    model = getattr(transformers, f"{kind}VisionModel")(config).eval()
  perturb(model)
  model.save_pretrained(folder)
  return model.vision_model if whole else model


def save_speech(folder: pathlib.Path, right: bool = True):
  """A random speech encoder on disk; right: whether its windows reach into the future."""
  from transformers.models.moonshine_streaming import modeling_moonshine_streaming as moonshine

  m = MOONSHINE
  windows = [[past, future if right else 0] for past, future in zip(m.past, m.future)]
  config = moonshine.MoonshineStreamingEncoderConfig(
    hidden_size=m.width, intermediate_size=m.mlp, num_hidden_layers=len(m.past), num_attention_heads=m.heads,
    num_key_value_heads=m.kv_heads, head_dim=m.head_dim, sliding_windows=windows,
  )  # fmt: skip
  model = moonshine.MoonshineStreamingEncoder(config).eval()
  perturb(model)
  model.save_pretrained(folder)
  return model
