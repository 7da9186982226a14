"""What the server itself measures."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from uvicorn.server import ServerState


class ServerCollector(Collector):
    """Hands over how many connections are open, and how many requests are under way."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Count them."""
        connections, tasks = len(self._state.connections), len(self._state.tasks)
        yield GaugeMetricFamily("hero_api_connections", "Connections that are open.", connections)
        text = "Requests that were begun and not answered yet."
        yield GaugeMetricFamily("hero_api_requests_under_way", text, tasks)
