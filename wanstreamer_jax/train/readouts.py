"""The loss of the auxiliary readouts; perception alone as a first phase.

`model/readouts.py` has the heads, `data/labels.py` what they read: what is held (`state` and `seen`), the act that the
user has just completed (`state`), the word that has just ended (`heard`). Of a unit whose label is unknown, or whose
stream is hidden from the model, nothing is learned. Classes weigh 1 / frequency^power, scaled so that a unit weighs 1
on average; so do the words that the agent writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data import labels
from wanstreamer_jax.data.loader import Crop
from wanstreamer_jax.model.readouts import columns
from wanstreamer_jax.model.streamer import UserTokens, WanStreamer
from wanstreamer_jax.parallel.mesh import BATCH_AXES
from wanstreamer_jax.teacher_forcing import crop_conditions
from wanstreamer_jax.train.stage import Metrics, Ratio

LARGEST_WEIGHT = 30.0  # of a class: rarer ones weigh no more
PERCEPTION = (r"(hear|see)\..+", r"readouts\.(seen|heard)\..+")  # what moves in the first phase


def readout_losses(
  streamer: WanStreamer, crop: Crop, user: UserTokens, state: jax.Array | None
) -> tuple[jax.Array, Metrics]:
  """The weighted sum of all cross-entropies of a crop, each a mean over the units whose label is known, and accuracies.

  crop: as the model sees it, so that hidden streams are invalid. state: STATE's top hidden states [K, D]; None without
  the Transformer. An accuracy is over units in which there is something to tell.
  """
  heads, config, loss, metrics = streamer.readouts, streamer.config, jnp.float32(0), dict[str, Ratio]()
  if heads is None:
    return loss, {}
  chosen, numbers = config.readouts, dict(zip(labels.NAMES, crop.user_labels.T))  # [K] of each kind
  shown = {"video": crop.user_video_valid & config.layout.user_video, "audio": crop.user_audio_valid}

  def add(source: str, kind: labels.Kind, weight: float, logits: jax.Array, classes: jax.Array, empty: int) -> None:
    nonlocal loss
    label = numbers[kind.name]
    known = (label >= 0) & shown[kind.stream]
    log_probabilities = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_probabilities, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
    weighed = jax.lax.stop_gradient(classes)[jnp.maximum(label, 0)] * known
    loss += weight * jnp.sum(nll * weighed) / jnp.maximum(jnp.sum(known), 1)
    there = known & (label != empty)
    right = Ratio(jnp.sum((jnp.argmax(logits, axis=1) == label) & there) / len(label), jnp.mean(there))
    name = f"{source}_{kind.name.removesuffix('2')}"
    metrics[name] = jax.tree.map(jnp.add, metrics[name], right) if name in metrics else right

  at = columns(config)
  for source, head, tokens in (("state", heads.state, state), ("seen", heads.seen, user.video)):
    if head is None or tokens is None or heads.class_weight is None:
      continue
    logits = jax.vmap(head)(tokens[:, None] if source == "state" else tokens)
    for kind in labels.KINDS:
      if kind.name in at and at[kind.name].stop <= logits.shape[1]:
        part = at[kind.name]
        add(source, kind, chosen.of(source), logits[:, part], heads.class_weight[...][part], 0)
  if heads.heard is not None and heads.heard_weight is not None:
    word = labels.KINDS[labels.NAMES.index("word")]
    add("heard", word, chosen.of("heard"), jax.vmap(heads.heard)(user.audio), heads.heard_weight[...], config.model.pad)
  return loss, dict(metrics)


def perception_loss(streamer: WanStreamer, batch: Crop, keys: jax.Array) -> tuple[jax.Array, Metrics]:
  """The loss of the first phase: perception alone, without a pass of the Transformer. batch: [B, ...]; keys: [B]."""

  def row(streamer: WanStreamer, crop: Crop, _: jax.Array) -> tuple[jax.Array, Metrics]:
    return readout_losses(streamer, crop, crop_conditions(streamer, crop).user, None)

  loss, metrics = jax.vmap(row, in_axes=(None, 0, 0), spmd_axis_name=BATCH_AXES)(streamer, batch, keys)
  return jnp.mean(loss), jax.tree.map(jnp.mean, metrics)


def weight_constants(config: Config, manifests: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """What classes and words weigh, by parameter; {} where nothing is weighed. Counts of all manifests are added up.

  Records that state no counts are older than they: then all classes weigh the same, and a line says so.
  """
  chosen, found = config.readouts, dict[str, np.ndarray]()
  state, seen, heard = map(chosen.of, ("state", "seen", "heard"))
  if not (state or seen or heard or config.train.rare_words):
    return found
  if not any("agent_tokens" in manifest.get("stats", {}) for manifest in manifests):
    print(f"{config.data.path} has no labels and no counts of words: nothing is read out, all words weigh the same")
    return found
  counts = labels.class_counts(manifests, config.model.vocab)
  if state or seen:
    weights = [class_weights(counts[name], chosen.balance) for name in columns(config)]
    found["readouts.class_weight"] = np.concatenate(weights)
  if heard:
    found["readouts.heard_weight"] = class_weights(counts["word"], chosen.balance)
  if config.train.rare_words:
    words = labels.token_counts(manifests, config.model.vocab)
    found["readouts.word_weight"] = class_weights(words, config.train.rare_words)
  return found


def class_weights(counts: np.ndarray, power: float) -> np.ndarray:
  """1 / frequency^power of every class [C], at most LARGEST_WEIGHT, with mean 1 over what was counted: float32 [C].
  Classes that were never counted weigh 1."""
  share = counts / max(counts.sum(), 1)
  raw = np.where(share > 0, np.maximum(share, 1e-12) ** -power, 0.0)
  scale = (share * raw).sum()
  for _ in range(20):  # a class that is cut leaves more to the others
    cut = np.minimum(raw / max(scale, 1e-12), LARGEST_WEIGHT)
    scale *= max((share * cut).sum(), 1e-12)
  return np.where(share > 0, np.minimum(raw / max(scale, 1e-12), LARGEST_WEIGHT), 1.0).astype(np.float32)
