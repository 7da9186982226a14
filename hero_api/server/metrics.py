"""What the server itself measures."""

from collections.abc import Iterator, Sized

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ServerCollector(Collector):
    """Hands over how many connections are open, and how many requests are under way."""

    def __init__(self, connections: Sized, requests: Sized) -> None:
        self._connections = connections
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """Count them."""
        for name, text, counted in (
            ("connections", "Connections that are open.", self._connections),
            ("requests_under_way", "Requests that were begun and not answered.", self._requests),
        ):
            yield GaugeMetricFamily(f"hero_api_{name}", text, len(counted))
