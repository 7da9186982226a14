"""The parts of the long run: each does one thing many times, and reports its figures."""

import asyncio
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.clusters import MISSING, Cluster, has_postgresql, running_cluster
from tests.replication import running_group
from tests.servers import serving

from . import culprits as refusing
from . import failover as failing
from . import restores as restoring
from . import starts as starting
from . import syncs as syncing
from .crash import CLIENTS, Crashes, crash
from .ledger import Ledger, integrity, stored_heroes
from .load import Load
from .meddling import meddle
from .refusals import REFUSALS, Refusal
from .report import Part, Report
from .retries import Retries
from .stops import PROMISE, stop
from .vanish import AT_ONCE, busy, settle, statuses, vanish, warm_up

_RESTORED = 1_000_000  # heroes


async def crashes(directory: Path, count: int, report: Report) -> None:
    """`kill -9` in the middle of a load."""
    seen = Crashes()
    with report.part(
        "crashes",
        "`kill -9` under load loses nothing acknowledged, and stores nothing refused",
        count,
    ) as part:
        async for seen in crash(directory, report.seed, count):
            bad = len(seen.lost) + len(seen.strays) + len(seen.damage)
            part.show(seen.cycles, f"{seen.ledger.tally['acknowledged']:,} acknowledged, {bad} bad")
        part.figure(f"{seen.cycles:,} cycles")
        part.figure(", ".join(f"{n:,} {what}" for what, n in sorted(seen.ledger.tally.items())))
        part.figure(f"{len(seen.lost)} lost, {len(seen.strays)} refused but stored")
        part.figure(f"integrity_check {'not ' if seen.damage else ''}ok each time")
        part.demand(f"{seen.kills} kills", kept=seen.kills == seen.cycles == count)
        part.demand(f"lost: {seen.lost[:3]}", kept=not seen.lost)
        part.demand(f"refused but stored, or twice: {seen.strays[:3]}", kept=not seen.strays)
        part.demand(f"integrity_check: {seen.damage[:3]}", kept=not seen.damage)


async def restores(directory: Path, count: int, report: Report) -> None:
    """Backups and restores under a load of creates."""
    seen: list[restoring.Round] = []
    with report.part(
        "restores",
        f"backups and restores beside {restoring.CLIENTS} clients that create: a backup has all "
        "that was acknowledged before it; nothing acknowledged after a restore is lost, no id is "
        "given twice, and no request is refused",
        count,
    ) as part:
        async for one in restoring.restore_under_load(directory, count, _RESTORED):
            seen.append(one)
            part.show(len(seen), f"{one.backup_seconds:.1f} and {one.restore_seconds:.1f} s")
            part.demand(f"{one.wrong[:3]}", kept=not one.wrong)
        last = seen[-1]
        part.figure(f"{len(seen)} of each on {_RESTORED:,} heroes, {last.creates:,} creates")
        part.figure(f"{last.refused} refused, {sum(len(one.wrong) for one in seen)} wrong")
        for what in ("backup", "restore"):
            took = sorted(getattr(one, f"{what}_seconds") for one in seen)
            part.figure(f"a {what} takes {took[0]:.1f} to {took[-1]:.1f} s")
        part.demand(f"{last.refused} refused", kept=not last.refused)


async def retries(directory: Path, count: int, report: Report) -> None:
    """`kill -9` under creates with keys, which are sent again until they are answered."""
    load = Retries(Ledger(), random.Random(report.seed), clients=CLIENTS)
    seen = Crashes()
    with report.part(
        "retries",
        "creates with an `Idempotency-Key` that are sent again until they are answered, under "
        "`kill -9`: one hero for each key",
        count,
    ) as part:
        async for seen in crash(directory, report.seed, count, load=load):
            bad = len(seen.lost) + len(seen.strays) + len(seen.damage)
            part.show(seen.cycles, f"{len(load.answered):,} keys, {bad} bad")
        load.stop()
        with serving(directory) as server:
            await load.run(server.host, server.port)
            wrong = load.wrong(stored_heroes(server.file))
        _show_retries(part, load, wrong, f"{seen.cycles:,} cycles")
        part.demand(f"lost: {seen.lost[:3]}", kept=not seen.lost)
        part.demand(f"stored twice: {seen.strays[:3]}", kept=not seen.strays)
        part.demand(f"{seen.kills} kills", kept=seen.kills == seen.cycles == count)


def _show_retries(part: Part, load: Retries, wrong: list[str], times: str) -> None:
    unknown = load.ledger.tally["unknown"]
    part.figure(
        f"{times}; {len(load.answered):,} keys, {unknown:,} answers unknown, "
        f"{load.replays:,} given again; {len(wrong)} keys without exactly one hero"
    )
    part.demand(f"one hero for each key: {wrong[:3]}", kept=not wrong)


async def stops(directory: Path, count: int, report: Report) -> None:
    """SIGTERM in the middle of a load."""
    chance = random.Random(report.seed)
    slowest = 0.0
    with report.part(
        "stops",
        "SIGTERM under load of 40 clients: all that was read is answered, status 0 within 5 s",
        count,
    ) as part:
        for number in range(count):
            place = directory / str(number)
            place.mkdir()
            seen = await stop(place, chance)
            slowest = max(slowest, seen.seconds)
            part.show(number + 1, f"slowest end {slowest:.2f} s")
            part.demand(f"{seen}", kept=seen.is_clean)
        part.figure(f"{count:,} ends, the slowest in {slowest:.2f} s")
        part.demand(f"an end within {PROMISE:.0f} s", kept=slowest < PROMISE)


async def syncs(directory: Path, count: int, report: Report) -> None:
    """A sync before every answer, as strace sees it."""
    with report.part(
        "syncs",
        "no answer leaves before its hero is synced to the disk (`FULL`, seen by strace)",
        2,
    ) as part:
        reason = syncing.missing()
        if reason is not None:
            part.figure(f"left out: {reason}")
            return
        for done, synchronous in enumerate(("FULL", "NORMAL"), 1):
            place = directory / synchronous
            place.mkdir()
            seen = await syncing.count_early(place, count, synchronous=synchronous)
            part.show(done, f"{synchronous}: {seen.early:,} of {seen.answers:,} early")
            part.figure(f"{synchronous}: {seen.answers:,} answers, {seen.early:,} early")
            part.demand(f"{synchronous}: {seen}", kept=(seen.early == 0) == (synchronous == "FULL"))


async def failovers(directory: Path, count: int, report: Report) -> None:
    """Fail-overs of PostgreSQL: the primary is killed, or it freezes."""
    with report.part(
        "fail-overs",
        "PostgreSQL's primary killed or frozen under load, a standby promoted: "
        "nothing acknowledged is lost, nothing is stored twice",
        count,
    ) as part:
        if not has_postgresql():
            part.figure(f"left out: {MISSING}")
            return
        load = Load(
            Ledger(), random.Random(report.seed), clients=failing.CLIENTS, pause=failing.PAUSE
        )
        seen: dict[bool, list[failing.Failover]] = {False: [], True: []}
        with (
            running_group() as group,
            serving(directory, database_url=group.url(), request_timeout=1) as server,
        ):
            for number in range(count):
                frozen = load.chance.random() < 0.5
                failover = await failing.fail_over(group, server, load, frozen=frozen)
                seen[frozen].append(failover)
                part.show(number + 1, f"stall {failover.stall:.2f} s")
                part.demand(f"lost: {failover.verdict}", kept=failover.verdict == ([], []))
                part.demand("no duplicate", kept=failover.duplicates == 0)
                part.demand(
                    f"a stall of {failover.stall:.2f} s", kept=failover.stall < failing.PROMISE
                )
                await asyncio.to_thread(group.heal)
        tally = load.ledger.tally
        part.figure(", ".join(f"{n:,} {what}" for what, n in sorted(tally.items())))
        for frozen, ones in seen.items():
            if ones:
                worst = max(failover.stall for failover in ones)
                how = "frozen" if frozen else "killed"
                part.figure(f"{len(ones):,} {how}, the worst stall {worst:.2f} s")
        part.demand("every request is answered", kept=load.broken == 0)
        part.demand("no traceback in the log", kept="Traceback" not in server.log.read_text())


async def retried_failovers(directory: Path, count: int, report: Report) -> None:
    """Fail-overs of PostgreSQL under creates with keys, sent again until they are answered."""
    with report.part(
        "retried fail-overs",
        "the same through fail-overs of PostgreSQL: one hero for each key",
        count,
    ) as part:
        if not has_postgresql():
            part.figure(f"left out: {MISSING}")
            return
        load = Retries(
            Ledger(), random.Random(report.seed), clients=failing.CLIENTS, pause=failing.PAUSE
        )
        with (
            running_group() as group,
            serving(directory, database_url=group.url(), request_timeout=1) as server,
        ):
            for number in range(count):
                frozen = load.chance.random() < 0.5
                seen = await failing.fail_over(group, server, load, frozen=frozen)
                part.show(number + 1, f"{len(load.answered):,} keys")
                part.demand(f"lost: {seen.verdict}", kept=seen.verdict == ([], []))
                await asyncio.to_thread(group.heal)
            wrong = load.wrong(await asyncio.to_thread(failing.stored_heroes, group))
        _show_retries(part, load, wrong, f"{count:,} fail-overs")
        part.demand("every request is answered", kept=load.broken == 0)


async def culprits(directory: Path, count: int, report: Report, *, case: str) -> None:
    """One client whose request the database refuses, in one way after the other."""
    with ExitStack() as stack:
        clusters: dict[str, Cluster | None] = {"sqlite": None, "postgresql": None}
        if has_postgresql():
            clusters["postgresql"] = stack.enter_context(running_cluster(refusing.CLUSTER))
        for number, refusal in enumerate(REFUSALS):
            if case in f"{refusal.engine}: {refusal.name}":
                place = directory / str(number)
                place.mkdir()
                await _refuse(refusal, place, clusters[refusal.engine], count, report)
        if case in f"postgresql: {_RETYPED}":
            await _retype(directory, clusters["postgresql"], report)


_RETYPED = "another type of the ids"


async def _refuse(
    refusal: Refusal, place: Path, cluster: Cluster | None, count: int, report: Report
) -> None:
    title = f"{refusal.engine}: {refusal.name}"
    who = "as many" if refusal.half else "one"
    promise = (
        f"{title}: {count} good clients beside {who} that it refuses: each is answered 200, and "
        f"keeps {refusing.KEPT:g} of its rate where syncs are slower by {refusing.DELAY} ms"
    )
    if refusal.bad is None:
        promise = f"{title}: {count} clients, of whom it refuses none: each is answered 200"
    with report.part(title, promise, 1) as part:
        if refusal.engine == "postgresql" and cluster is None:
            part.figure(f"left out: {MISSING}")
            return
        # PostgreSQL delays its syncs itself.
        traced = refusal.engine == "sqlite"
        reason = syncing.missing() if traced else None
        slow = [False, True] if reason is None else [False]
        seen = await refusing.compare(refusal, place, cluster, count, report.seed, slow=slow)
        part.show(1, f"{seen.lost.total():,} not 200")
        part.figure(f"{seen.good:,} good answers, {seen.lost.total():,} not 200")
        if seen.lost:
            part.figure(f"they were {_counted(seen.lost)}")
        if refusal.bad is not None:
            part.figure(f"the refused are told {_counted(seen.culprit)}")
            part.demand(
                "4xx for the refused", kept=all(400 <= status < 500 for status in seen.culprit)
            )
        for is_slow in slow:
            kept, alone = seen.kept(slow=is_slow), seen.alone[is_slow]
            how = f"slow syncs: {alone:,.0f} a second" if is_slow else f"{alone:,.0f} a second"
            part.figure(how if kept is None else f"{how}, beside the refused {kept:.2f} of that")
            part.demand(f"{how}, {kept} kept", kept=not is_slow or _enough(kept))
        if reason is not None:
            part.figure(f"slow syncs left out: {reason}")
        part.demand("every good request is 200", kept=not seen.lost)
        part.demand(f"{len(seen.wrong):,} wrong: {seen.wrong[:3]}", kept=not seen.wrong)
        part.demand(f"lost: {seen.verdict.lost[:3]}", kept=not seen.verdict.lost)
        part.demand(f"strays: {seen.verdict.strays[:3]}", kept=not seen.verdict.strays)


def _enough(kept: float | None) -> bool:
    return kept is None or kept >= refusing.KEPT


def _counted(statuses: Counter[int]) -> str:
    return ", ".join(f"{status} ({n:,} times)" for status, n in statuses.items())


async def _retype(directory: Path, cluster: Cluster | None, report: Report) -> None:
    title = f"postgresql: {_RETYPED}"
    promise = f"{title}, changed under load: creates, gets and pages go on without a restart"
    with report.part(title, promise, 1) as part:
        if cluster is None:
            part.figure(f"left out: {MISSING}")
            return
        place = directory / "retyped"
        place.mkdir()
        seen = await refusing.retype(place, cluster)
        part.show(1, f"{seen.failed.total():,} not 200")
        part.figure(f"{seen.answers:,} answers, {seen.failed.total():,} not 200")
        part.figure(f"{seen.at_last.total():,} in the last third of the time")
        part.demand(f"{dict(seen.failed)}", kept=not seen.failed)
        part.demand(f"at last {dict(seen.at_last)}", kept=not seen.at_last)


async def vanishing(directory: Path, count: int, report: Report) -> None:
    """Clients that vanish at random points."""
    chance = random.Random(report.seed)
    with (
        report.part(
            "vanishing", "clients that vanish at random points leave nothing over", count
        ) as part,
        serving(directory, read_connections=1) as server,
    ):
        before = await warm_up(server)
        for done in range(0, count, AT_ONCE):
            await vanish(server, chance, min(AT_ONCE, count - done))
            part.show(min(done + AT_ONCE, count), f"{server.descriptors()} descriptors")
        after = await settle(server, before)
        part.figure(f"{count:,} vanished; {after.descriptors} descriptors before and after")
        part.demand(f"nothing left over: {before}, then {after}", kept=after == before)
        part.demand("nobody waits", kept=await busy(server) == 0)
        served = await statuses(server)
        part.figure(f"then a create and a get are answered {served}")
        part.demand(f"the service serves on: {served}", kept=served == [200, 200])
        part.demand("an empty log", kept=not server.log.read_text())


async def meddling(directory: Path, count: int, report: Report) -> None:
    """Another program that uses the file of the service."""
    file, answers = directory / "heroes.db", Counter[int]()
    with report.part(
        "meddling",
        "another program writes, vacuums and checkpoints the file at random: every create and "
        "`/readyz` is 200",
        count,
    ) as part:
        rounds = 0
        async for statuses in meddle(file, random.Random(report.seed), count):
            answers.update(statuses)
            rounds += 1
            part.show(rounds, f"{answers.total():,} answers")
        part.figure(f"{rounds:,} rounds; {_counted(answers)}")
        part.demand(f"every answer is 200: {dict(answers)}", kept={*answers} == {200})
        part.demand("integrity_check is ok", kept=integrity(file) == "ok")


async def starts(directory: Path, count: int, report: Report) -> None:
    """Eight servers that start together on no file."""
    failed = 0
    with report.part(
        "starts", "servers that start together on no file make one schema, and none fails", count
    ) as part:
        for number in range(count):
            place = directory / str(number)
            place.mkdir()
            failed += sum(status != 0 for status in starting.serve_together(place))
            made = starting.schema(place / "heroes.db")
            part.show(number + 1, f"{failed} failed")
            part.demand(f"one schema: {made}", kept=made == starting.SCHEMA)
        part.figure(f"{count:,} rounds of {starting.PROCESSES} servers, {failed} failed")
        part.demand("no start fails", kept=failed == 0)
