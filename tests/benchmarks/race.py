"""The race: of each work, the servers in turn, round by round.

All of them are up for as long as a work takes, so that the runs that are compared follow each other
at once: on a shared machine the next minute may have half the speed of this one.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from . import load, stock
from .load import Figures, Loader
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
    _hung: set[tuple[str, str]] = field(default_factory=set)

    def run(self) -> None:
        """Run the plan. A server that fails is left out, and the others go on."""
        for server in self.plan.servers:
            self._guarded(server, self._make_stock, server)
        for work in self.plan.works:
            with ExitStack() as stack:
                self._run_work(work, stack)

    def _run_work(self, work: Work, stack: ExitStack) -> None:
        loaders: dict[str, Loader] = {}
        order = deque(self.plan.servers)
        for server in order:
            if server.changes or not work.is_ours:
                self._guarded(server, self._start, server, work, stack, loaders)
        for connections in self.plan.connections:
            for _ in range(self.plan.rounds):
                for server in order:
                    if server.name in loaders:
                        self._guarded(server, self._lap, server, loaders[server.name], connections)
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

    def _start(
        self, server: Server, work: Work, stack: ExitStack, loaders: dict[str, Loader]
    ) -> None:
        """Start the server on fresh data; while it waits, it takes nothing from the others."""
        cores = self.plan.cores
        directory = stack.enter_context(stock.copied(server, self._stocks[server.name]))
        process = stack.enter_context(stock.serving(server, directory, cores))
        load.check(process, server.routes, work)
        loader = Loader(process, server.routes, work, cores.load)
        loader.run(_WARM_UP_CONNECTIONS, _WARM_UP_SECONDS)
        loaders[server.name] = loader

    def _lap(self, server: Server, loader: Loader, connections: int) -> None:
        work = loader.work.name
        self.report(f"{work}, {connections} connections: {server.name}")
        hung = (server.name, work) in self._hung
        figures = _HUNG if hung else loader.run(connections, self.plan.seconds)
        if figures.hung:
            self._hung.add((server.name, work))
        self.results.add(Cell(work, connections, server.name), figures)
