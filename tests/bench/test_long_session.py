"""What is noted of a long session, on a session made by hand."""

import numpy as np
import pytest

from wanstreamer_jax.bench.long_session import Watched
from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.engine.interface import PHASES, UnitOutput

MEDIA = MediaConfig()
A_MINUTE = 60_000 // MEDIA.unit_ms


def output(brightness: int, milliseconds: float, samples: int = MEDIA.samples) -> UnitOutput:
  video = np.full((MEDIA.frames, 2, 2, 3), brightness, np.uint8)
  return UnitOutput(video, np.zeros(samples, np.float32), "", False, dict.fromkeys(PHASES, milliseconds / len(PHASES)))


def test_minutes_stills_and_drifts():
  watched, units = Watched(MEDIA), 2 * A_MINUTE + 30
  for unit in range(units):
    watched.add(output(unit // 10, 10.0 + unit // A_MINUTE, MEDIA.samples + (unit == 0)), cpu_ms=20.0)
  watched.finish()
  assert [row.minute for row in watched.minutes] == [1.0, 2.0, pytest.approx(2.08)]
  assert [row.p50_ms for row in watched.minutes] == pytest.approx([10, 11, 12])
  assert {round(minute, 2): picture[0, 0, 0] for minute, picture in watched.stills.items()} == {
    0.1: 3, 1: 37, 2.08: (units - 1) // 10,
  }  # fmt: skip
  assert watched.drifts() == {"audio_drift_ms": pytest.approx(1000 / MEDIA.sample_rate), "video_drift_ms": 0.0}
  assert watched.growth(window=0.5)["last_minute_over_first_after_window"] == pytest.approx(12 / 11)
  assert watched.growth(window=9.0)["of_cpu_time"] == 1.0  # the window never was full for a minute
