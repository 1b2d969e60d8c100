"""What Prometheus reads at /metrics: latency by phase, units, sessions, slots, memory."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from wanstreamer_jax.engine.interface import PHASES
from wanstreamer_jax.serve.scheduler import Scheduler, UnitResult

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.64)  # seconds
COUNTS = {
  "joined": "Sessions begun",
  "refused": "Sessions refused because all slots were taken",
  "evicted": "Sessions ended by a failure",
  "clock_restarts": "Times that the clock was too far behind and was restarted",
}  # fields of `scheduler.Counts`


class SchedulerCounts(Collector):
  """The scheduler's own counts, as Prometheus counters."""

  def __init__(self, scheduler: Scheduler):
    self.scheduler = scheduler

  def collect(self) -> Iterator[CounterMetricFamily]:
    """One counter per field."""
    for name, description in COUNTS.items():
      yield CounterMetricFamily(f"wanstreamer_{name}", description, getattr(self.scheduler.counts, name))


class Metrics:
  """The service's figures since its start, in a registry of its own."""

  def __init__(self, scheduler: Scheduler, queued_units: Callable[[], int]):
    """queued_units: how many units wait to be sent, over all connections."""
    self.registry = CollectorRegistry()
    ProcessCollector(registry=self.registry)
    self._latency = Histogram(
      "wanstreamer_latency_seconds",
      "From taking a user's unit to its answer",
      buckets=BUCKETS,
      registry=self.registry,
    )
    self._phases = Histogram(
      "wanstreamer_phase_seconds", "One phase of a unit", ["phase"], buckets=BUCKETS, registry=self.registry
    )
    self._units = self._counter("units", "Units answered")
    self._late_units = self._counter("late_units", "Units answered after the next one was due")
    self._dropped_frames = self._counter("dropped_frames", "Frames left out for slow connections")
    self._gauge("slots", "Slots", lambda: scheduler.engine.slots)
    self._gauge("free_slots", "Free slots", lambda: scheduler.free)
    self._gauge("busy_ratio", "Taken slots over slots", lambda: 1 - scheduler.free / scheduler.engine.slots)
    self._gauge(
      "disconnected_sessions",
      "Sessions that wait for a client to reconnect",
      lambda: sum(slot.disconnected is not None for slot in scheduler.taken()),
    )
    self._gauge("queued_units", "Units that wait for slow connections", queued_units)
    self.registry.register(SchedulerCounts(scheduler))

  def _counter(self, name: str, description: str) -> Counter:
    return Counter(f"wanstreamer_{name}", description, registry=self.registry)

  def _gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
    Gauge(f"wanstreamer_{name}", description, registry=self.registry).set_function(value)

  def count_unit(self, result: UnitResult) -> None:
    """Counts one unit of one session."""
    self._latency.observe(result.waited)
    for phase in PHASES:
      self._phases.labels(phase).observe(result.output.times[phase] / 1000)
    self._units.inc()
    self._late_units.inc(result.late)

  def count_dropped_frames(self, count: int) -> None:
    """Counts frames that were not sent."""
    self._dropped_frames.inc(count)

  def text(self) -> bytes:
    """Prometheus' text format."""
    return generate_latest(self.registry)
