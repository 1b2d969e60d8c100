"""Metrics of video, audio, lip sync and identity, in NumPy. Each docstring gives the exact definition and its source.

Video is uint8 [T, H, W, 3]; audio float [S] in [-1, 1]. A metric that has nothing to measure (a silent reference, a
flat signal) returns NaN, and `mean` leaves NaN out. "Proxy" marks a network-free stand-in that is not comparable with
the published metric it stands for. Turn-taking is in `turns.py`.
"""

from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.data.loudness import FAINT, SILENCE, levels
from wanstreamer_jax.nn.mel import log_mel, mel_filterbank, power_spectrum, sine_window

PSNR_CAP = 100.0  # dB, for identical frames
MEL_SIZE, MEL_BINS, MEL_HOP = 1024, 80, 240


def mean(values: Sequence[float] | np.ndarray) -> float:
  """Mean of the values that are not NaN; NaN if there are none."""
  found = np.asarray(values, np.float64)
  found = found[~np.isnan(found)]
  return float(found.mean()) if found.size else float("nan")


# Pictures


def psnr(reference: np.ndarray, video: np.ndarray) -> float:
  """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE) of each frame over all pixels and channels, then the mean
  over frames. Data range 255; identical frames count as 100 dB. (ITU-T J.340, per frame)"""
  error = np.square(reference.astype(np.float64) - video).mean(axis=(1, 2, 3))
  return float(np.minimum(PSNR_CAP, 10 * np.log10(255.0**2 / np.maximum(error, 1e-12))).mean())


def ssim(reference: np.ndarray, video: np.ndarray) -> float:
  """Structural similarity, mean over pixels, channels and frames: Gaussian window of 11 pixels (sigma 1.5, whole
  windows only), K1 = 0.01, K2 = 0.03, data range 255, biased variances. (Wang et al. 2004, formula 13)"""
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  scores = []
  for x, y in zip(reference.astype(np.float64), video.astype(np.float64)):
    mx, my = _blur(x), _blur(y)
    vx, vy, cov = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
    score = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    scores.append(score.mean())
  return float(np.mean(scores))


def _blur(frame: np.ndarray, size: int = 11, sigma: float = 1.5) -> np.ndarray:
  """[H, W, C] through a separable Gaussian, whole windows only."""
  taps = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
  taps /= taps.sum()
  rows = np.lib.stride_tricks.sliding_window_view(frame, size, axis=0) @ taps
  return np.lib.stride_tricks.sliding_window_view(rows, size, axis=1) @ taps


def gradient_energy(video: np.ndarray) -> float:
  """Mean over frames and pixels of the squared differences of brightness (mean of red, green and blue, 0 to 255) to the
  right and below: how much detail pictures [T, H, W, 3] have. A picture that is blurred has less; noise has more. (the
  Tenengrad focus measure with first differences; Krotkov 1987)"""
  grey = video.astype(np.float32).mean(axis=-1)
  right, below = np.diff(grey, axis=2)[:, :-1], np.diff(grey, axis=1)[:, :, :-1]
  return float((np.square(right) + np.square(below)).mean()) if len(video) else float("nan")


# Sound


def si_sdr(reference: np.ndarray, audio: np.ndarray) -> float:
  """Scale-invariant signal-to-distortion ratio in dB: 10 log10(|a s|^2 / |a s - x|^2), a = <x, s> / |s|^2, both with
  their mean removed. It compares waveforms: a vocoder that keeps no phase scores low however it sounds.
  (Le Roux et al. 2019, arXiv 1811.02508)"""
  s, x = (v.astype(np.float64) - v.mean() for v in (reference, audio))
  if np.dot(s, s) < 1e-12:
    return float("nan")
  target = np.dot(x, s) / np.dot(s, s) * s
  return float(10 * np.log10((np.dot(target, target) + 1e-12) / (np.dot(target - x, target - x) + 1e-12)))


def power_frames(audio: np.ndarray, size: int = MEL_SIZE, hop: int = MEL_HOP) -> np.ndarray:
  """Power spectra [T, size / 2 + 1] of Hann windows, whole windows only; a full-scale sine has 1 in its bin."""
  padded = np.pad(np.asarray(audio, np.float64), (0, max(0, size - len(audio))))
  return power_spectrum(np.lib.stride_tricks.sliding_window_view(padded, size)[::hop], sine_window(size, np.float64))


def mel_levels(audio: np.ndarray, sample_rate: int = 24_000) -> np.ndarray:
  """Log-mel spectrogram [T, 80] in dB: windows of 1024, hop 240, HTK triangles, floor -96 dB."""
  return 10 * log_mel(power_frames(audio), mel_filterbank(MEL_SIZE, MEL_BINS, sample_rate), 10 ** (SILENCE / 10))


def log_mel_distance(reference: np.ndarray, audio: np.ndarray, sample_rate: int = 24_000) -> float:
  """Mean absolute difference of the two log-mel spectrograms, in dB, over all frames and bins."""
  return float(np.abs(mel_levels(reference, sample_rate) - mel_levels(audio, sample_rate)).mean())


def log_spectral_distance(reference: np.ndarray, audio: np.ndarray) -> float:
  """Log-spectral distance in dB: root of the mean over bins of (10 log10 P - 10 log10 Q)^2, mean over frames; windows
  of 1024, hop 240, floor -96 dB. (Gray and Markel 1976)"""
  floor = 10 ** (SILENCE / 10)
  a, b = (10 * np.log10(np.maximum(power_frames(x), floor)) for x in (reference, audio))
  return float(np.sqrt(np.square(a - b).mean(axis=1)).mean())


def mel_frechet(reference: np.ndarray, mel: np.ndarray) -> float:
  """Fréchet distance between Gaussians fitted to two sets of log-mel frames [T, 80] (dB / 20):
  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). A proxy: Fréchet audio distance without its network; compare it only
  with itself, on the same number of frames. (form: Heusel et al. 2017)"""
  if min(len(reference), len(mel)) < 2:
    return float("nan")
  a, b = reference / 20, mel / 20
  ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  values, vectors = np.linalg.eigh(ca)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cb @ root), 0)).sum()
  return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


# Sync of mouth and voice


def lip_sync(
  mouth: np.ndarray, loudness: np.ndarray, fps: float, speaking: np.ndarray, max_lag: float = 0.4
) -> tuple[float, float]:
  """(lag in ms, correlation at zero lag) of mouth opening [T] against loudness [T], one value per video frame.

  Only frames that are `speaking` (bool [T]) count: over a whole session, a mouth that moves at random during speech and
  rests in silence would correlate as well.
  The lag is the shift, at most `max_lag` seconds either way, at which Pearson's correlation peaks: positive when the
  mouth follows the sound. Loudness below FAINT (-50 dB) counts as FAINT. NaN when either signal is constant, or when
  the correlation never exceeds 0.1 (then there is no real peak). A proxy for SyncNet's LSE-C and offset.
  """
  loud = np.maximum(loudness, FAINT)
  reach = min(round(max_lag * fps), len(loud) - 2)
  scores = {shift: correlation(mouth, loud, shift, speaking) for shift in range(-reach, reach + 1)}
  if not scores or np.isnan(scores[0]):
    return float("nan"), float("nan")
  best = max(scores, key=lambda shift: (np.nan_to_num(scores[shift], nan=-1.0), -abs(shift)))
  return (best * 1000 / fps if scores[best] > 0.1 else float("nan")), scores[0]


def correlation(x: np.ndarray, y: np.ndarray, shift: int, where: np.ndarray) -> float:
  """Pearson's correlation of x[t + shift] with y[t] over the frames t of `where`; NaN if either is constant there."""
  t = np.flatnonzero(where)
  t = t[(t + shift >= 0) & (t + shift < len(x))]
  x, y = x[t + shift], y[t]
  if len(x) < 2 or np.std(x) < 1e-9 or np.std(y) < 1e-9:
    return float("nan")
  return float(np.corrcoef(x, y)[0, 1])


def peaks(signal: np.ndarray) -> np.ndarray:
  """Frames [N] where a signal exceeds both neighbours and its own mean."""
  middle = signal[1:-1]
  return np.flatnonzero((middle > signal[:-2]) & (middle >= signal[2:]) & (middle > signal.mean())) + 1


def av_align(audio: np.ndarray, video: np.ndarray, tolerance: int = 1) -> float:
  """AV-Align: intersection over union of the peaks of sound onsets (rise of loudness from frame to frame) and of
  motion (mean absolute frame difference; the paper takes optical flow). A sound peak matches when a motion peak lies
  within `tolerance` frames, and the reverse; IoU = sound matches / (sound peaks + unmatched motion peaks).
  (Yariv et al. 2023, arXiv 2309.16429)"""
  motion = np.abs(np.diff(video.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
  rise = np.maximum(np.diff(levels(audio, len(video))), 0.0)
  sound, moves = peaks(rise), peaks(motion)
  if not len(sound) and not len(moves):
    return float("nan")
  near = np.abs(sound[:, None] - moves[None, :]) <= tolerance
  matched, unmatched = near.any(axis=1).sum(), len(moves) - near.any(axis=0).sum()
  return float(matched / (len(sound) + unmatched))


# Identity


def colour_histogram(frame: np.ndarray, bins: int = 6) -> np.ndarray:
  """Joint RGB histogram of a uint8 frame [H, W, 3], normalised to sum 1: [bins^3]."""
  index = (frame.reshape(-1, 3).astype(np.int64) * bins) // 256
  counts = np.bincount(index @ np.array([bins * bins, bins, 1]), minlength=bins**3)
  return counts / counts.sum()


def histogram_distance(portrait: np.ndarray, frame: np.ndarray) -> float:
  """Half the L1 distance of the two frames' colour histograms: 0 the same colours, 1 none in common."""
  return float(0.5 * np.abs(colour_histogram(portrait) - colour_histogram(frame)).sum())


def thumbnail(frame: np.ndarray, side: int = 8) -> np.ndarray:
  """Means over a side x side grid of a frame [H, W, 3], in 0..1: [side, side, 3]. Borders that do not fit are cut."""
  h, w = frame.shape[0] // side * side, frame.shape[1] // side * side
  blocks = frame[:h, :w].astype(np.float64).reshape(side, h // side, side, w // side, 3)
  return blocks.mean(axis=(1, 3)) / 255


def face_distance(portrait: np.ndarray, frame: np.ndarray) -> float:
  """Root mean square difference of the two 8 x 8 thumbnails: 0 the same face, about 0.1 a nod, 0.3 a stranger. A proxy
  for ArcFace similarity."""
  return float(np.sqrt(np.square(thumbnail(portrait) - thumbnail(frame)).mean()))


def identity_drift(
  portrait: np.ndarray, video: np.ndarray, fps: float, times: Sequence[float]
) -> dict[str, list[float]]:
  """Distance from the portrait [H, W, 3] at several times of a video [T, H, W, 3]: {"colour": [...], "face": [...]},
  each the median over the second that begins there, so that a blink or a nod does not count; NaN past the end."""
  out: dict[str, list[float]] = {"colour": [], "face": []}
  for time in times:
    frames = video[round(time * fps) : round((time + 1) * fps)]
    for name, distance in (("colour", histogram_distance), ("face", face_distance)):
      out[name].append(float(np.median([distance(portrait, f) for f in frames])) if len(frames) else float("nan"))
  return out
