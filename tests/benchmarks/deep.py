"""Deep pages: the hero API over a million heroes, the last page by `after` and by `offset`."""

from collections.abc import Callable, Mapping

from . import load, stock
from .race import Plan
from .results import Cell, Results
from .servers import OURS, Routes
from .work import WORKS

HEROES = 1_000_000
CONNECTIONS = 1  # so that no two requests share a read
_ROUTES: Mapping[str, Routes] = {
    "deep-first": OURS.routes,
    "deep-after": Routes(first=f"/heroes/?after={HEROES - 100}&limit=100"),
    "deep-offset": Routes(first=f"/heroes/?offset={HEROES - 100}&limit=100"),
}
DESCRIPTIONS: Mapping[str, str] = {
    "deep-first": "the first page of 100, of 1,000,000 heroes",
    "deep-after": "the last page of 100, of 1,000,000 heroes, by after",
    "deep-offset": "the last page of 100, of 1,000,000 heroes, by offset",
}


def steps(plan: Plan) -> int:
    """How many runs that is."""
    return plan.rounds * len(_ROUTES)


def measure(plan: Plan, results: Results, report: Callable[[str], None]) -> None:
    """Measure the first page, and the last one in two ways, in each round."""
    work = WORKS["first"]
    directory = plan.directory / "deep"
    report("making 1,000,000 heroes")
    stock.make(OURS, directory, HEROES, plan.cores)
    with stock.serving(OURS, directory, plan.cores) as process:
        for _ in range(plan.rounds):
            for name, routes in _ROUTES.items():
                report(f"{name}: {OURS.name}")
                load.check(process, routes, work)
                loader = load.Loader(process, routes, work, plan.cores.load)
                figures = loader.run(CONNECTIONS, plan.seconds)
                results.add(Cell(name, CONNECTIONS, OURS.name), figures)
