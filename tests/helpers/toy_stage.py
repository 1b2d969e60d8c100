"""A stage small enough to train in a test: a two-layer MLP on a random regression, in the loop's own terms.

Run as a program it trains, so that tests can kill it:

    python tests/helpers/toy_stage.py RUN STEPS SECONDS [override ...]
"""

import argparse
import os
import pathlib
import sys
import time

if __name__ == "__main__":
  os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import apply_override
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.train.prefetch import host_rows
from wanstreamer_jax.train.stage import Stage

WIDTH, HIDDEN = 16, 32


class Dense(nnx.Module):
  def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
    self.w = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs)) / inputs**0.5)

  def __call__(self, x):
    return x @ self.w[...]


class Norm(nnx.Module):
  def __init__(self, width: int):
    self.scale = nnx.Param(jnp.ones(width))

  def __call__(self, x):
    return x * jax.lax.rsqrt(jnp.mean(x**2) + 1e-6) * self.scale[...]


class Toy(nnx.Module):
  """Named as the Transformer's parts are, so that the real sharding rules apply."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.norm = Norm(WIDTH)
    self.up_proj = Dense(WIDTH, HIDDEN, rngs=rngs)
    self.down_proj = Dense(HIDDEN, WIDTH, rngs=rngs)

  def __call__(self, x):
    return self.down_proj(jnp.tanh(self.up_proj(self.norm(x))))


class ToyLoader:
  def __init__(self, config: Config, slow: float = 0.0):
    self.config, self.slow = config, slow

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    time.sleep(self.slow)
    rng = np.random.default_rng((self.config.data.seed, step))
    rows = host_rows(self.config.data.batch, make_mesh(self.config.train.mesh))
    x = rng.standard_normal((self.config.data.batch, WIDTH)).astype(np.float32)[rows]
    return {"x": x, "y": np.sin(x), "step": np.full(len(x), step, np.int32)}


def toy_loss(model, batch, keys):
  noise = 0.1 * jax.vmap(lambda key: jax.random.normal(key, (WIDTH,)))(keys)
  error = jnp.mean((jax.vmap(model)(batch["x"] + noise) - batch["y"]) ** 2)
  return error, {"batch_step": batch["step"][0].astype(jnp.float32)}


def toy_evaluate(model, config, run: pathlib.Path, step: int):
  (run / "pictures").mkdir(exist_ok=True)
  (run / "pictures" / f"{step}.txt").write_text("a picture\n")
  return {"error": jnp.float32(0.5)}


def toy_stage(slow: float = 0.0, loss=toy_loss, **changes) -> Stage:
  fields = {
    "init": lambda config, key: Toy(rngs=nnx.Rngs(params=key)),
    "make_loss": lambda config: loss,
    "make_loader": lambda config: ToyLoader(config, slow),
    "evaluate": toy_evaluate,
  }
  return Stage(name="toy", **{**fields, **changes})


def toy_config(run, steps: int = 8, **train) -> Config:
  config = Config(name="toy")
  config.train.run, config.train.steps, config.train.mesh = str(run), steps, "data=1"
  config.train.warmup, config.train.log_every, config.train.checkpoint_every, config.train.eval_every = 2, 2, 4, 4
  for name, value in train.items():
    setattr(config.train, name, value)
  return config


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("run")
  parser.add_argument("steps", type=int)
  parser.add_argument("slow", type=float)
  parser.add_argument("overrides", nargs="*")
  parser.add_argument("--coordinator")
  parser.add_argument("--processes", type=int)
  parser.add_argument("--process", type=int)
  parser.add_argument("--heartbeat", type=int, default=20)
  args = parser.parse_args()
  with hosts.joined(args.coordinator, args.processes, args.process, args.heartbeat):
    config = toy_config(args.run, args.steps, mesh="")
    for override in args.overrides:
      apply_override(config, override)
    train(toy_stage(slow=args.slow), config.freeze())


if __name__ == "__main__":
  from wanstreamer_jax.cli.main import guarded
  from wanstreamer_jax.parallel import hosts
  from wanstreamer_jax.train.loop import train

  sys.exit(guarded(main))
