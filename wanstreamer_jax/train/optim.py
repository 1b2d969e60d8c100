"""AdamW or Muon with clipping, schedules and a rate per parameter group. A rate of 0 means frozen.

Formulas: Loshchilov & Hutter, arXiv 1711.05101; Muon (Jordan et al., kellerjordan.github.io/posts/muon) at the size of
Adam's updates, Liu et al., arXiv 2502.16982.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from wanstreamer_jax.config import TrainConfig, group_rates
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel.mesh import BATCH_AXES
from wanstreamer_jax.parallel.rules import Rule, param_shardings, path_name

# What `train.groups` may name, and what norms are reported for. Other names are patterns, as in parallel/rules.py.
GROUPS: dict[str, Rule] = {
  "language": Rule(
    r"transformer\.layers\.(?!modulation|latent_mlp).+|transformer\.final_norm\.scale|tokens\.embedding|heads\.text\.w"
  ),
  "hearing": Rule(r"hear\.trunk\..+"),  # what a pretrained encoder brought; "perception" names these as well
  "seeing": Rule(r"see\.trunk\..+"),
  "perception": Rule(r"(hear|see)\..+"),
  "latents": Rule(r"tokens\.(\w+_in\.w|kinds|state)|transformer\.layers\.latent_mlp\..+"),
  "flow_time": Rule(r"transformer\.(flow_time|shared_modulation|layers\.modulation)\..+"),
  "heads": Rule(r"heads\.((audio|video|carry|anchor|latent_norm)\..+|(audio|video)_variance)"),
  "readouts": Rule(r"readouts\..+"),
  "encoder": Rule(r"encoder\..+"),  # of a codec
  "decoder": Rule(r"(decoder|head|head_norm|standard)\..+"),
}


def group_of(name: str) -> str:
  """The group of a parameter; one that the table does not know belongs to the module that it is in."""
  return next((group for group, rule in GROUPS.items() if rule.matches(name)), name.partition(".")[0])


def group_norms(prefix: str, tree: Any) -> dict[str, jax.Array]:
  """{"prefix/group": L2 norm} of gradients or updates shaped like the parameters."""
  squares: dict[str, jax.Array] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    group = group_of(path_name(path))
    squares[group] = squares.get(group, jnp.float32(0)) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
  return {f"{prefix}/{group}": jnp.sqrt(square) for group, square in squares.items()}


def learning_rate(train: TrainConfig, step: jax.Array | int, share: jax.Array | None = None) -> jax.Array:
  """The rate of update `step` (from 0): a linear warm-up times the schedule, which ends at `final_lr_scale`.

  cosine    half a cosine over all steps after the warm-up
  wsd       constant, then linear over the last `decay` share of the steps
  constant  no decay

  The first phase of a stage, if it has one, is a warm-up and then constant; the schedule is that of the other steps.
  share: of a run that ends by the clock, how much of its time has gone; it takes the place of the share of the steps.
  """
  steps, all_steps = train.steps - train.first_steps, jnp.asarray(step, jnp.float32)
  step = steps_of_phase(train, all_steps)
  warmup = jnp.minimum(1.0, (step + 1) / max(train.warmup, 1))
  if train.schedule == "cosine":
    done = jnp.clip((step - train.warmup) / max(steps - train.warmup, 1), 0, 1) if share is None else share
    remaining = 0.5 * (1 + jnp.cos(jnp.pi * done))
  elif train.schedule == "wsd":
    left = (steps - step) / max(train.decay * steps, 1) if share is None else (1 - share) / max(train.decay, 1e-6)
    remaining = jnp.clip(left, 0, 1)
  else:
    return train.learning_rate * warmup
  if train.first_steps:
    remaining = jnp.where(all_steps < train.first_steps, 1.0, remaining)
  return train.learning_rate * warmup * (train.final_lr_scale + (1 - train.final_lr_scale) * remaining)


def steps_of_phase(train: TrainConfig, step: jax.Array) -> jax.Array:
  """How many updates its phase of the stage has had before update `step`."""
  return jnp.where(step < train.first_steps, step, step - train.first_steps) if train.first_steps else step


def only_named(patterns: tuple[str, ...], updates: Any) -> Any:
  """Updates that are 0 for parameters which no pattern names; all as they are where there is no pattern."""

  def kept(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
    name = path_name(path)
    return update if any(Rule(pattern).matches(name) for pattern in patterns) else jnp.zeros_like(update)

  return jax.tree_util.tree_map_with_path(kept, updates) if patterns else updates


def relative_rates(train: TrainConfig, frozen: tuple[str, ...], params: Any) -> Any:
  """A tree of floats: every parameter's rate in units of `train.learning_rate`; of several entries the last decides.

  frozen: patterns of the stage, whose parameters stand still whatever the config says.
  """
  entries = [*group_rates(train.groups), *((pattern, 0.0) for pattern in frozen)]

  def rate(path: tuple[Any, ...], _: Any) -> float:
    name = path_name(path)
    return next((rate for entry, rate in reversed(entries) if _names(entry, name)), 1.0)

  return jax.tree_util.tree_map_with_path(rate, params)


def _names(entry: str, parameter: str) -> bool:
  """Whether a group or a pattern names a parameter."""
  return entry == group_of(parameter) or GROUPS.get(entry, Rule(entry)).matches(parameter)


def check_groups(train: TrainConfig, params: Any) -> None:
  """Raises ConfigError for an entry of `train.groups` that names no parameter."""
  names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  for entry, _ in group_rates(train.groups):
    if not any(_names(entry, name) for name in names):
      raise ConfigError(
        f"train.groups names {entry!r}, which is not a parameter of this model: expected one of "
        f"{', '.join(sorted(set(map(group_of, names))))}, or a pattern such as transformer.layers.mlp.*"
      )


def trainable(train: TrainConfig, frozen: tuple[str, ...], params: Any) -> Any:
  """A tree of bools: which parameters have a rate above 0."""
  return jax.tree.map(bool, relative_rates(train, frozen, params))


def decayed(params: Any) -> Any:
  """A tree of bools: weight decay pulls matrices and kernels, not norms, biases, scales and single tokens."""

  def pulls(path: tuple[Any, ...], leaf: Any) -> bool:
    name = path_name(path).rpartition(".")[2]
    return name in ("w", "kernel") and leaf.ndim > 1  # a stacked bias [L, D] is still a bias: the name decides

  return jax.tree_util.tree_map_with_path(pulls, params)


# What Muon moves; Adam moves the rest.
MATRICES = Rule(r"(transformer\.layers|hear|see)\.([\w.]+_proj|(project\.)?\w+)\.w")
MUON_MOMENTUM = 0.95  # `train.beta1` is Adam's
MUON_RMS = 0.2  # of an update before the rate: about Adam's, so that one rate serves both
# Axes of a leaf that are inputs and outputs of its matrix; an axis before them (layers) is a batch of matrices.
PLAIN = MuonDimensionNumbers((-2,), (-1,))  # [I, O]
INTO_HEADS = MuonDimensionNumbers((-3,), (-2, -1))  # [D, N, H]
OUT_OF_HEADS = MuonDimensionNumbers((-3, -2), (-1,))  # [N, H, D]
HEADS = {"q_proj": INTO_HEADS, "k_proj": INTO_HEADS, "v_proj": INTO_HEADS, "o_proj": OUT_OF_HEADS}


def matrix_axes(params: Any) -> Any:
  """A tree of MuonDimensionNumbers, one for every leaf MODULE.w."""

  def axes(path: tuple[Any, ...], _: Any) -> MuonDimensionNumbers:
    return HEADS.get(path_name(path).split(".")[-2], PLAIN)

  return jax.tree_util.tree_map_with_path(axes, params)


class MuonState(NamedTuple):
  """updates: int32, how many so far. mu: momentum, shaped like the parameters."""

  updates: jax.Array
  mu: Any


def muon() -> optax.GradientTransformation:
  """Muon of optax, taken apart so that sharding constraints fit between its Nesterov momentum and its iteration.

  One call of `scale_by_muon` does both. Constraints around that call either do not reach the iteration, whose products
  then gather every matrix, or move the momentum to other devices and back as well.
  """

  def update(grads: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
    del params
    count = optax.safe_increment(state.updates)
    mu = optax.tree.update_moment(grads, state.mu, MUON_MOMENTUM, 1)
    ahead = optax.tree.bias_correction(mu, MUON_MOMENTUM, optax.safe_increment(count))
    now = optax.tree.bias_correction(grads, MUON_MOMENTUM, count)
    nesterov = jax.tree.map(lambda m, g: MUON_MOMENTUM * m + (1 - MUON_MOMENTUM) * g, ahead, now)
    return orthogonal(nesterov), MuonState(count, mu)

  return optax.GradientTransformation(lambda params: MuonState(jnp.int32(0), optax.tree.zeros_like(params)), update)


def orthogonal(updates: Any) -> Any:
  """Every matrix with its singular values near 1 (0.7 to 1.2), times MUON_RMS sqrt(max(inputs, outputs)).

  On a mesh the iteration works on whole matrices: on split ones each of its fifteen products would gather them. What
  comes in and goes out is constrained to be split as the parameters are: otherwise XLA carries the sharding of whole
  matrices on to gradients, momentum and parameters, and moves these as well.
  """
  axes = matrix_axes(updates)
  newton_schulz = scale_by_muon(beta=0.0, nesterov=False, weight_dimension_numbers=matrix_axes)  # without momentum
  matrices = jax.tree.map(_whole, _as_parameters(updates), axes)
  matrices, _ = newton_schulz.update(matrices, newton_schulz.init(matrices))
  return jax.tree.map(_with_adams_rms, _as_parameters(jax.tree.map(_whole, matrices, axes)), axes)


def _as_parameters(updates: Any) -> Any:
  """Every leaf split over the mesh as the parameter of its name is."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return updates
  return jax.lax.with_sharding_constraint(updates, param_shardings(updates, mesh))


def _whole(x: jax.Array, axes: MuonDimensionNumbers) -> jax.Array:
  """Stacks [L, ...] by layer over the devices that share rows, evenly or not; a single matrix whole on each of them."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  stacked = x.ndim > sum(map(len, axes))
  return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES) if stacked else PartitionSpec())


def _with_adams_rms(x: jax.Array, axes: MuonDimensionNumbers) -> jax.Array:
  """Elements of an orthogonal matrix [I, O] have the RMS 1 / sqrt(max(I, O)); here they get MUON_RMS."""
  inputs, outputs = (math.prod(x.shape[axis] for axis in part) for part in axes)
  return x * (MUON_RMS * math.sqrt(max(inputs, outputs)))


def direction(train: TrainConfig) -> optax.GradientTransformation:
  """Gradients to updates, before decay and rate."""
  adam = optax.scale_by_adam(b1=train.beta1, b2=train.beta2)
  if train.optimizer == "adamw":
    return adam
  return optax.multi_transform({"muon": muon(), "adam": adam}, muon_or_adam)


def muon_or_adam(params: Any) -> Any:
  """A tree of "muon" and "adam"."""

  def moved_by(path: tuple[Any, ...], _: Any) -> str:
    return "muon" if MATRICES.matches(path_name(path)) else "adam"

  return jax.tree_util.tree_map_with_path(moved_by, params)


def scale_by_rates(train: TrainConfig) -> optax.GradientTransformationExtraArgs:
  """Times minus the rate of update `step`, and of each parameter. The step is the loop's: skipped updates count."""

  def update(
    updates: Any, state: Any, params: Any = None, *, step: jax.Array, share: jax.Array | None = None, **_: Any
  ) -> Any:  # fmt: skip
    rate = -learning_rate(train, step, share)
    return jax.tree.map(lambda x, relative: rate * relative * x, updates, relative_rates(train, (), updates)), state

  return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def make_optimizer(train: TrainConfig, frozen: tuple[str, ...] = ()) -> optax.GradientTransformationExtraArgs:
  """Clip by global norm, Adam or Muon, decay, rates. Frozen leaves take part in nothing and own no moments.

  `update(gradients, state, parameters, step=updates so far)`, with share= where `learning_rate` needs it.
  """
  steps = optax.chain(
    optax.clip_by_global_norm(train.clip) if train.clip else optax.identity(),
    direction(train),
    optax.add_decayed_weights(train.weight_decay, mask=decayed),
    scale_by_rates(train),
  )
  return optax.masked(steps, lambda params: trainable(train, frozen, params))
