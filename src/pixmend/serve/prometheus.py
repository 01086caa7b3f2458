"""The metrics of one server, for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters in a registry of their own, so that several servers can share a process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "pixmend_requests", "Responses.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "pixmend_request_seconds", "Response time.", ["route"], registry=registry
        )
        self.batch_size = Histogram(
            "pixmend_batch_size", "Requests a batch.", buckets=_BATCH_SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            "pixmend_batch_seconds", "Device time of a batch.", registry=registry
        )
        self.waiting = Gauge("pixmend_waiting", "Queued requests.", registry=registry)
        self.inside = Gauge("pixmend_inside", "Completion requests inside.", registry=registry)
        self.streams = Gauge("pixmend_streams", "Streamed searches.", registry=registry)
        self.dropped = Counter(
            "pixmend_dropped", "Dropped requests, by reason.", ["reason"], registry=registry
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)
