"""What Prometheus reads at /metrics: latency by phase, units and late ones, sessions, slots, memory."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from wanstreamer_jax.serve.scheduler import Hall, Served
from wanstreamer_jax.serve.session_log import PHASES

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.64)


class HallCounts(Collector):
  """What the hall counts itself, as counters of Prometheus."""

  def __init__(self, hall: Hall):
    self.hall = hall

  def collect(self) -> Iterator[CounterMetricFamily]:
    for name, what in (
      ("joined", "Conversations begun"), ("refused", "Visitors for whom there was no place"),
      ("evicted", "Sessions that broke"), ("clock_restarts", "Times that the clock was too far behind"),
    ):  # fmt: skip
      yield CounterMetricFamily(f"wanstreamer_{name}", what, getattr(self.hall.figures, name))


class Metrics:
  """The service's figures since its start, in a registry of its own."""

  def __init__(self, hall: Hall, queued: Callable[[], int]):
    """queued: how many units wait to be sent, over all visitors."""
    self.registry = CollectorRegistry()
    ProcessCollector(registry=self.registry)
    self._latency = Histogram(
      "wanstreamer_latency_seconds", "From taking a unit to its answer", buckets=BUCKETS, registry=self.registry
    )
    self._phases = Histogram(
      "wanstreamer_phase_seconds", "A phase of a unit", ["phase"], buckets=BUCKETS, registry=self.registry
    )
    self._units = Counter("wanstreamer_units", "Units answered", registry=self.registry)
    self._late = Counter("wanstreamer_late_units", "Units answered after the next one was due", registry=self.registry)
    self._pictures = Counter(
      "wanstreamer_dropped_pictures", "Pictures left out for slow connections", registry=self.registry
    )
    gauge = lambda name, what, value: Gauge(f"wanstreamer_{name}", what, registry=self.registry).set_function(value)
    slots = hall.engine.slots
    gauge("slots", "Places", lambda: slots)
    gauge("free_slots", "Places that are free", lambda: hall.free)
    gauge("busy_ratio", "Taken places over all", lambda: 1 - hall.free / slots)
    away = lambda: sum(seat is not None and seat.away is not None for seat in hall.seats)
    gauge("away", "Places kept for broken connections", away)
    gauge("queued_units", "Units that wait for slow connections", queued)
    self.registry.register(HallCounts(hall))

  def unit(self, served: Served) -> None:
    """Counts one unit of one visitor."""
    self._latency.observe(served.waited)
    for phase in PHASES:
      self._phases.labels(phase).observe(served.answer.times[phase] / 1000)
    self._units.inc()
    self._late.inc(served.late)

  def pictures_dropped(self, count: int) -> None:
    self._pictures.inc(count)

  def text(self) -> bytes:
    """Prometheus' text format."""
    return generate_latest(self.registry)
