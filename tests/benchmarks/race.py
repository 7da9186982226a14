"""The race: the servers in turn, for each work and each round."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import load, stock
from .load import Figures
from .machine import Cores
from .process import ServerError
from .results import Cell, Results
from .servers import Server
from .work import HEROES, Work

_WARM_UP_SECONDS = 1
_WARM_UP_CONNECTIONS = 8  # few enough for every server
_HUNG = Figures(
    rate=0, cpu=None, p50=None, p99=None, longest=None, errors=0, memory=0, size=None, hung=True
)


@dataclass(frozen=True)
class Plan:
    """What is measured; `directory` is for the databases."""

    servers: Sequence[Server]
    works: Sequence[Work]
    connections: Sequence[int]
    rounds: int
    seconds: int
    cores: Cores
    directory: Path

    @property
    def steps(self) -> int:
        """How many runs that is."""
        laps = [(server, work) for work in self.works for server in self.servers]
        possible = sum(server.changes or not work.is_ours for server, work in laps)
        return self.rounds * possible * len(self.connections)


@dataclass
class Race:
    """A plan under way: `report` is called before each run, with what it is."""

    plan: Plan
    results: Results
    report: Callable[[str], None]
    _stocks: dict[str, Path] = field(default_factory=dict)

    def run(self) -> None:
        """Run the plan. A server that fails is left out, and the others go on."""
        for server in self.plan.servers:
            self._guarded(server, self._make_stock, server)
        order = deque(self.plan.servers)
        for _ in range(self.plan.rounds):
            for work in self.plan.works:
                for server in order:
                    if work.is_ours and not server.changes:
                        continue
                    self._guarded(server, self._lap, server, work)
            # Each round begins with another server, so that none is always the first.
            order.rotate(-1)

    def _guarded(self, server: Server, step: Callable[..., None], *arguments: object) -> None:
        if server.name in self.results.left_out:
            return
        try:
            step(*arguments)
        except (ServerError, OSError) as error:
            self.results.left_out[server.name] = str(error)

    def _make_stock(self, server: Server) -> None:
        directory = self.plan.directory / server.name
        stock.make(server, directory, HEROES, self.plan.cores)
        self._stocks[server.name] = directory

    def _lap(self, server: Server, work: Work) -> None:
        """Start the server on fresh data, and measure the work at each number of connections."""
        plan, routes = self.plan, server.routes
        hung = False
        with (
            stock.copied(server, self._stocks[server.name]) as directory,
            stock.serving(server, directory, plan.cores) as process,
        ):
            load.check(process, routes, work)
            loader = load.Loader(process, routes, work, plan.cores.load)
            loader.run(_WARM_UP_CONNECTIONS, _WARM_UP_SECONDS)
            for connections in plan.connections:
                self.report(f"{work.name}, {connections} connections: {server.name}")
                figures = _HUNG if hung else loader.run(connections, plan.seconds)
                hung = figures.hung
                self.results.add(Cell(work.name, connections, server.name), figures)
