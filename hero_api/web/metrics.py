"""What is measured, in Prometheus' text format.

It is counted in plain integers, and handed to prometheus-client when it is asked for.
"""

from collections.abc import Iterator
from importlib.metadata import version
from itertools import accumulate, chain
from pathlib import Path

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from hero_api.answers import METRICS
from hero_api.batching import BatchQueues
from hero_api.dependencies import get_database
from hero_api.histogram import Histogram
from hero_api.settings import Settings
from hero_api.web.request_counts import RequestCounts, RequestCountsMiddleware

_PACKAGES = ("hero-api", "fastapi", "uvicorn", "sqlalchemy")


class Metrics(CollectorRegistry):
    """What one application measures; it takes more collectors, such as the server's.

    `worker` names the process where several answer at one address.
    """

    def __init__(self, app: FastAPI) -> None:
        super().__init__()
        self.requests = RequestCounts()
        self.worker: str | None = None
        self._state = app.state
        ProcessCollector(registry=self)
        PlatformCollector(registry=self)

    def collect(self) -> Iterator[Metric]:
        """Yield what the collectors have, and what the application counts."""
        for family in chain(super().collect(), self._of_the_application()):
            if self.worker is not None:
                for sample in family.samples:
                    sample.labels["worker"] = self.worker
            yield family

    def _of_the_application(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "hero_api_build",
            "The versions of what runs.",
            {name.replace("-", "_"): version(name) for name in _PACKAGES},
        )
        yield from _of_requests(self.requests)
        yield from _of_queues(self._state.queues)
        yield from _of_files(self._state.settings)


async def read_metrics(request: Request) -> Response:
    """Count what was done and what waits, in Prometheus' text format."""
    get_database(request)  # or say why there is none
    encode, media_type = choose_encoder(request.headers.get("Accept", ""))
    content = encode(request.app.state.metrics)
    return Response(content, headers={"Vary": "Accept"}, media_type=media_type)


def add_metrics(app: FastAPI) -> None:
    """Measure `app`, and add the handler that tells."""
    app.state.metrics = metrics = Metrics(app)
    app.add_middleware(RequestCountsMiddleware, counts=metrics.requests)
    add = app.get("/metrics", tags=["operations"], responses=METRICS, response_class=Response)
    add(read_metrics)


def _of_requests(counts: RequestCounts) -> Iterator[Metric]:
    answered = CounterMetricFamily(
        "hero_api_requests", "Requests that were answered.", labels=["route", "method", "status"]
    )
    for key, each in counts.by_route.items():
        for status, count in each.statuses.items():
            answered.add_metric([*key, str(status)], count)
    yield answered
    unavailable = CounterMetricFamily(
        "hero_api_unavailable", "Requests that were answered 503 or 507.", labels=["reason"]
    )
    for error, count in counts.unavailable.items():
        unavailable.add_metric([error.__name__.removesuffix("Error")], count)
    yield unavailable
    durations = HistogramMetricFamily(
        "hero_api_request_seconds",
        "Time from the beginning of a request to that of its answer.",
        labels=["route", "method"],
    )
    for key, each in counts.by_route.items():
        # Where nothing but a 405 is foreseen, nobody asks how long it took.
        if each.statuses.keys() != {405}:
            durations.add_metric(key, *_samples(each.durations))
    yield durations


def _of_queues(queues: BatchQueues) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "hero_api_queue_refused",
        "Calls whose requests were late before they were begun.",
        labels=["queue"],
    )
    expired = CounterMetricFamily(
        "hero_api_queue_expired", "Calls whose deadline passed.", labels=["queue"]
    )
    waiting = GaugeMetricFamily(
        "hero_api_queue_waiting", "Calls that wait for a batch.", labels=["queue"]
    )
    waits = HistogramMetricFamily(
        "hero_api_queue_wait_seconds", "Time that a call waited for its batch.", labels=["queue"]
    )
    sizes = HistogramMetricFamily(
        "hero_api_queue_batch_items", "Calls of a batch.", labels=["queue"]
    )
    commits = HistogramMetricFamily(
        "hero_api_commit_seconds", "Time of a COMMIT, with its sync.", labels=["queue"]
    )
    for queue in queues:
        name = [queue.name]
        refused.add_metric(name, queue.refused)
        expired.add_metric(name, queue.expired)
        waiting.add_metric(name, queue.waiting)
        waits.add_metric(name, *_samples(queue.waits))
        sizes.add_metric(name, *_samples(queue.sizes))
        if queue.writes:
            commits.add_metric(name, *_samples(queue.commits))
    yield from (refused, expired, waiting, waits, sizes, commits)


def _of_files(settings: Settings) -> Iterator[Metric]:
    if not settings.is_postgresql:
        wal = Path(f"{settings.path}-wal")
        size = wal.stat().st_size if wal.exists() else 0
        yield GaugeMetricFamily("hero_api_wal_bytes", "Size of SQLite's write-ahead log.", size)


def _samples(histogram: Histogram) -> tuple[list[tuple[str, int]], float]:
    """Return what prometheus-client wants of a histogram: how many are in its buckets, the sum."""
    bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    return [*zip(bounds, accumulate(histogram.counts), strict=True)], histogram.total
