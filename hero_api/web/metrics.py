"""What is measured, in Prometheus' text format.

It is counted in plain integers, and handed to prometheus-client when it is asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
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
from prometheus_client.registry import Collector

from hero_api.answers import METRICS
from hero_api.batching import BatchQueues
from hero_api.dependencies import get_database
from hero_api.histogram import Histogram
from hero_api.settings import Settings
from hero_api.web.request_counts import RequestCounts, RequestCountsMiddleware

_PACKAGES = ("hero-api", "fastapi", "uvicorn", "sqlalchemy")


class Metrics(Collector):
    """What one application measures; its `registry` takes more collectors, such as the server's.

    `worker` names the process where several answer at one address.
    """

    def __init__(self, app: FastAPI) -> None:
        self.requests = RequestCounts()
        self.registry = CollectorRegistry()
        self.worker: str | None = None
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_Service(app, self.requests))

    def collect(self) -> Iterator[Metric]:
        """Ask every collector."""
        for family in self.registry.collect():
            if self.worker is not None:
                for sample in family.samples:
                    sample.labels["worker"] = self.worker
            yield family


class _Service(Collector):
    def __init__(self, app: FastAPI, requests: RequestCounts) -> None:
        self._state = app.state
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "hero_api_build",
            "The versions of what runs.",
            {name.replace("-", "_"): version(name) for name in _PACKAGES},
        )
        yield from _of_requests(self._requests)
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
    yield _histogram_family(
        "hero_api_request_seconds",
        "Time from the beginning of a request to that of its answer.",
        ["route", "method"],
        # Where nothing but a 405 is foreseen, nobody asks how long it took.
        (
            (key, each.durations)
            for key, each in counts.by_route.items()
            if each.statuses.keys() != {405}
        ),
    )


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
    for queue in queues:
        refused.add_metric([queue.name], queue.refused)
        expired.add_metric([queue.name], queue.expired)
        waiting.add_metric([queue.name], queue.waiting)
    yield from (refused, expired, waiting)
    yield _histogram_family(
        "hero_api_queue_wait_seconds",
        "Time that a call waited for its batch.",
        ["queue"],
        (([queue.name], queue.waits) for queue in queues),
    )
    yield _histogram_family(
        "hero_api_queue_batch_items",
        "Calls of a batch.",
        ["queue"],
        (([queue.name], queue.sizes) for queue in queues),
    )
    yield _histogram_family(
        "hero_api_commit_seconds",
        "Time of a COMMIT, with its sync.",
        ["queue"],
        (([queue.name], queue.commits) for queue in queues if queue.writes),
    )


def _of_files(settings: Settings) -> Iterator[Metric]:
    if not settings.is_postgresql:
        wal = Path(f"{settings.path}-wal")
        size = wal.stat().st_size if wal.exists() else 0
        yield GaugeMetricFamily("hero_api_wal_bytes", "Size of SQLite's write-ahead log.", size)


def _histogram_family(
    name: str,
    documentation: str,
    labels: Sequence[str],
    histograms: Iterable[tuple[Sequence[str], Histogram]],
) -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for values, histogram in histograms:
        bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
        buckets = [*zip(bounds, accumulate(histogram.counts), strict=True)]
        family.add_metric(values, buckets, histogram.total)
    return family
