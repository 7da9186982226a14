"""The race: of each work, the servers in turn, round by round.

All of them are up for the whole race, so that the runs that are compared follow each other at once:
on a shared machine the next minute may have half the speed of this one.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from . import load, stock
from .load import Figures, Loader
from .machine import Cores
from .process import Running, ServerError
from .results import Cell, Results
from .servers import Server
from .work import HEROES, Work

_WARM_UP_SECONDS = 1
_WARM_UP_CONNECTIONS = 8  # few enough for every server


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
        possible = sum(len(self.works_of(server)) for server in self.servers)
        return self.rounds * possible * len(self.connections)

    def works_of(self, server: Server) -> Sequence[Work]:
        """Return the works that the server can do."""
        return [work for work in self.works if server.changes or not work.is_ours]


@dataclass
class Race:
    """A plan under way: `report` is called before each run, with what it is."""

    plan: Plan
    results: Results
    report: Callable[[str], None]
    _stocks: dict[str, Path] = field(default_factory=dict)
    _up: dict[str, "_Up"] = field(default_factory=dict)
    _hung: dict[Cell, Figures] = field(default_factory=dict)

    def run(self) -> None:
        """Run the plan. A server that fails is left out, and the others go on."""
        for server in self.plan.servers:
            self._guarded(server, self._make_stock, server)
        order = deque(self.plan.servers)
        try:
            for _ in range(self.plan.rounds):
                for work, connections in product(self.plan.works, self.plan.connections):
                    for server in order:
                        if work in self.plan.works_of(server):
                            self._guarded(server, self._lap, server, work, connections)
                # Each round begins with another server, so that none is always the first.
                order.rotate(-1)
        finally:
            for up in self._up.values():
                up.stop()

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

    def _start(self, server: Server) -> "_Up":
        """Start the server on fresh data; while it waits, it takes nothing from the others."""
        plan = self.plan
        with ExitStack() as stack:
            directory = stack.enter_context(stock.copied(server, self._stocks[server.name]))
            process = stack.enter_context(stock.serving(server, directory, plan.cores))
            for work in plan.works_of(server):
                load.check(process, server.routes, work)
            return _Up(process, stack.pop_all().close)

    def _lap(self, server: Server, work: Work, connections: int) -> None:
        self.report(f"{work.name}, {connections} connections: {server.name}")
        cell = Cell(work.name, connections, server.name)
        if cell in self._hung:
            self.results.add(cell, self._hung[cell])
            return
        up = self._up.get(server.name)
        if up is None:
            up = self._up[server.name] = self._start(server)
        loader = Loader(up.process, server.routes, work, self.plan.cores.load)
        if work.name not in up.warm:
            loader.run(_WARM_UP_CONNECTIONS, _WARM_UP_SECONDS)
            up.warm.add(work.name)
        figures = loader.run(connections, self.plan.seconds)
        self.results.add(cell, figures)
        if figures.hung:  # as it will be in the next round, but not by other work
            self._hung[cell] = figures
            self._up.pop(server.name).stop()


@dataclass
class _Up:
    """A server that was started."""

    process: Running
    stop: Callable[[], None]
    warm: set[str] = field(default_factory=set)  # the works that it was asked before
