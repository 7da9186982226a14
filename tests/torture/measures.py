"""The parts of the long run that measure one server: its rate, its memory, its files."""

import statistics
from contextlib import AbstractContextManager
from pathlib import Path

from tests.clusters import MISSING, has_postgresql, running_cluster

from . import beside as besiding
from . import overload as overloading
from . import readers as reading
from . import scans as scanning
from . import slow as slowing
from .report import Part, Report
from .soak import Soaked, soak

# Of the rate of a few clients, by ten times as many. A get is little else than its connection,
# and an empty FastAPI keeps 0.71 at 1,000 of them.
KEPT = {"creates": 0.9, "gets": 0.75}
KEPT_IMPATIENT = 0.5


async def overloads(directory: Path, count: int, report: Report) -> None:
    """Ten times the connections, patient and impatient."""
    with report.part(
        "overloads",
        f"{overloading.MANY:,} connections: nobody is refused; of the rate of {overloading.FEW}, "
        f"creates keep {KEPT['creates']:g}, gets {KEPT['gets']:g}, and those of clients that hang "
        f"up after {overloading.PATIENCE:g} s and come again {KEPT_IMPATIENT:g}",
        count * len(overloading.REQUESTS),
    ) as part:
        seen: dict[str, list[overloading.Overload]] = {kind: [] for kind in overloading.REQUESTS}
        done = 0
        async for kind, overload in overloading.compare(directory, count):
            seen[kind].append(overload)
            done += 1
            part.show(done, f"{overload.many:,.0f} of {overload.few:,.0f} {kind} a second")
        for kind, ones in seen.items():
            kept = statistics.median(one.many / one.few for one in ones)
            impatient = statistics.median(one.impatient / one.few for one in ones)
            refused = sum(one.refused for one in ones)
            part.figure(f"{kind}: {refused:,} refused, {kept:.2f} of the rate is kept")
            part.figure(f"{impatient:.2f} by impatient clients")
            part.demand(f"no {kind} are refused", kept=not refused)
            part.demand(f"{kind} keep {KEPT[kind]:g} of their rate", kept=kept >= KEPT[kind])
            part.demand(
                f"impatient {kind} keep {KEPT_IMPATIENT:g}", kept=impatient >= KEPT_IMPATIENT
            )


async def scans(directory: Path, count: int, report: Report) -> None:
    """Scans beside a load of gets."""
    rounds = 5
    with report.part(
        "scans", "gets keep half of their rate beside scans of the whole table", rounds
    ) as part:
        seen: list[scanning.Rates] = []
        async for rates in scanning.compare(directory, count, rounds, report.seed):
            seen.append(rates)
            part.show(len(seen), f"{rates.beside:,.0f} of {rates.alone:,.0f} gets a second")
        share = scanning.share(seen)
        part.figure(f"{count:,} heroes, {sum(rates.scans for rates in seen):,} scans")
        part.figure(f"gets keep {share:.2f} of their rate")
        part.demand("half of their rate", kept=share >= 0.5)


async def slow(directory: Path, count: int, report: Report) -> None:
    """Slow senders and slow readers beside other clients."""
    rounds = 5
    promise = (
        "slow senders and slow readers at most double the p99 of everyone else, "
        f"and take {slowing.MEMORY:g} MB each at most"
    )
    with report.part("slow", promise, rounds) as part:
        seen: list[slowing.Slowed] = []
        async for slowed in slowing.compare(directory, count, rounds):
            seen.append(slowed)
            part.show(len(seen), f"p99 {slowed.alone:.4f} s, then {slowed.beside:.4f} s")
        factor = slowing.factor(seen)
        alone, beside = (statistics.median(each) for each in list(zip(*seen, strict=True))[:2])
        memory = max(slowed.memory for slowed in seen)
        part.figure(f"{count:,} slow clients beside {slowing.CLIENTS} others")
        part.figure(f"p99 {1_000 * alone:.1f} ms alone, {1_000 * beside:.1f} ms beside them")
        part.figure(f"{factor:.2f} times; {memory:.0f} MB more")
        part.demand("p99 at most doubles", kept=factor <= 2)
        part.demand(f"{memory:.0f} MB more", kept=memory <= slowing.MEMORY * count)


async def readers(directory: Path, seconds: float, report: Report) -> None:
    """A reader that stays in a transaction."""
    with report.part(
        "readers",
        "a reader that stays in a transaction beside creates: "
        f"the WAL is back within {reading.BOUND:g} MiB after it",
        1,
    ) as part:
        held = await reading.hold(directory, seconds)
        part.show(1, f"{held.creates:,} creates")
        part.figure(f"{seconds:g} s, {held.creates:,} creates")
        part.figure(f"WAL {held.peak:.0f} MiB at its peak, {held.after:.0f} MiB after")
        part.demand(f"a WAL of {held.after:.0f} MiB", kept=held.after <= reading.BOUND)


async def beside(directory: Path, seconds: float, report: Report) -> None:
    """Patches, deletes and probes beside creates, on SQLite."""
    with _beside("SQLite", report) as part:
        await _compare_beside(directory, None, seconds, report.seed, part)


async def beside_postgresql(directory: Path, seconds: float, report: Report) -> None:
    """Patches, deletes and probes beside creates, on PostgreSQL."""
    with _beside("PostgreSQL", report) as part:
        if not has_postgresql():
            part.figure(f"left out: {MISSING}")
            return
        with running_cluster({"fsync": "on"}) as cluster:
            await _compare_beside(directory, cluster.url(), seconds, report.seed, part)


def _beside(engine: str, report: Report) -> AbstractContextManager[Part]:
    promise = (
        f"{engine}: beside clients that create in a loop every PATCH, DELETE and `/readyz` is 200, "
        f"its p99 at most {besiding.TIMES} times that of the creates"
    )
    return report.part(f"beside, {engine}", promise, len(besiding.CREATORS))


async def _compare_beside(
    directory: Path, url: str | None, seconds: float, seed: int, part: Part
) -> None:
    done = 0
    async for seen in besiding.compare(directory, url, seconds, seed):
        done += 1
        all_of_them = {"creates": seen.creates, **seen.others}
        part.show(done, f"{seen.creators:,} creators, {len(seen.creates.seconds):,} creates")
        for kind, waits in all_of_them.items():
            part.figure(
                f"{seen.creators:,} creators: {kind} p99 {1_000 * waits.p99:,.0f} ms, worst "
                f"{1_000 * waits.worst:,.0f} ms, {waits.refused.total():,} of "
                f"{len(waits.seconds):,} not 200"
            )
        for kind in seen.others:
            part.demand(f"{kind} beside {seen.creators:,} creators", kept=seen.keeps(kind))
        part.demand(
            f"{seen.creators:,} creators: every create is 200", kept=not seen.creates.refused
        )


async def pages(directory: Path, seconds: float, report: Report) -> None:
    """Pages beside gets, over one connection to the database."""
    promise = (
        "pages beside gets, over one connection to the database: the p99 of neither is more than "
        f"{besiding.TIMES} times that of the other"
    )
    with report.part("pages", promise, len(besiding.READERS)) as part:
        done = 0
        async for seen in besiding.read(directory, seconds, report.seed):
            done += 1
            who = f"{seen.pagers} clients that list beside {seen.getters} that get"
            part.show(done, f"pages keep {seen.kept:.2f} of their rate")
            part.figure(
                f"{who}: p99 {1_000 * seen.pages.p99:,.0f} and {1_000 * seen.gets.p99:,.0f} ms, "
                f"{len(seen.pages.seconds) / seconds:,.0f} pages a second, {seen.kept:.2f} of what "
                f"there are alone, and {len(seen.gets.seconds) / seconds:,.0f} gets"
            )
            part.demand(who, kept=seen.is_fair)


async def soaking(directory: Path, minutes: float, report: Report) -> None:
    """A mixed load for a long time."""
    seconds = minutes * 60
    soaked = Soaked()
    with report.part(
        "soaking", "256 connections of mixed work: no error, memory grows by less than 5 %", seconds
    ) as part:
        shown = 0
        async for soaked in soak(directory, report.seed, seconds):
            shown += 1
            part.show(shown, f"{soaked.answers:,} answers, {soaked.errors} errors")
        part.figure(f"{minutes:g} minutes, {soaked.answers:,} answers, {soaked.errors} errors")
        part.figure(f"memory {soaked.memory[-1]:.0f} MB, grown by {soaked.growth:.1%}")
        part.figure(f"descriptors {sorted(soaked.descriptors)}")
        part.demand("no error", kept=soaked.errors == 0)
        part.demand("memory grows by less than 5 %", kept=soaked.growth < 0.05)
        part.demand("descriptors are constant", kept=len(soaked.descriptors) == 1)
        part.demand(f"lost: {soaked.verdict}", kept=soaked.verdict == ([], []))
