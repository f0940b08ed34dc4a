"""What the service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from runtime.output import AudioOutput
from runtime.server.service import Service
from runtime.server.ticket import Ticket

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
PREFIX = "audioldm2_"


class Metrics:
    """The figures of one application, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        registry = self._registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(PREFIX + "requests", "HTTP requests.", ["handler", "status"], registry=registry)
        self._seconds = Histogram(
            PREFIX + "request_seconds", "From request to answer.", ["handler"], registry=registry, buckets=SECONDS
        )
        self._queue = Histogram(
            PREFIX + "queue_seconds", "A call's time in the queue.", registry=registry, buckets=SECONDS
        )
        self._stages = Histogram(
            PREFIX + "stage_seconds", "A batch's time by stage.", ["stage"], registry=registry, buckets=SECONDS
        )
        self._batch = Histogram(
            PREFIX + "batch_calls", "Calls that ran as one.", registry=registry, buckets=(1, 2, 4, 8, 16, 32)
        )
        self._audio = Counter(PREFIX + "audio_seconds", "Seconds of sound made.", registry=registry)
        for name, text, function in (
            ("waiting_calls", "Calls in the queue.", lambda: service.waiting),
            ("running_calls", "Calls that run.", lambda: service.running),
            ("ready", "1 when calls are taken.", lambda: float(service.is_ready)),
            ("worker_deaths", "Workers that ended without being told to.", lambda: service.deaths),
        ):
            Gauge(PREFIX + name, text, registry=registry).set_function(function)

    def request(self, handler: str, status: int, seconds: float) -> None:
        """A request was answered, by the handler of this name."""
        self._requests.labels(handler, str(status)).inc()
        self._seconds.labels(handler).observe(seconds)

    def call(self, ticket: Ticket, output: AudioOutput) -> None:
        """A call was done."""
        self._queue.observe(ticket.queued_s)
        self._batch.observe(ticket.batch)
        self._audio.inc(output.audios.size / output.sampling_rate)
        for stage, seconds in output.timings.items():
            self._stages.labels(stage).observe(seconds)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
