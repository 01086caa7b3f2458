"""What /metrics tells, in Prometheus's words."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)


class Metrics:
    """The counters of one server; each has a registry of its own, so that several may live in a process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "pixmend_requests", "Answers.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "pixmend_request_seconds", "From request to answer.", ["route"], registry=registry
        )
        self.batch_size = Histogram(
            "pixmend_batch_size",
            "Requests completed together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "pixmend_batch_seconds", "Of the device, for a batch.", registry=registry
        )
        self.waiting = Gauge("pixmend_waiting", "Requests in the queue.", registry=registry)
        self.inside = Gauge(
            "pixmend_inside", "Requests for completions in the server.", registry=registry
        )
        self.streams = Gauge("pixmend_streams", "Searches that are watched.", registry=registry)
        self.dropped = Counter(
            "pixmend_dropped", "Work dropped, by reason.", ["reason"], registry=registry
        )

    def text(self) -> bytes:
        """Return all of it in the text format."""
        return generate_latest(self._registry)
