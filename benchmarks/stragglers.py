"""Stragglers and failures, simulated: what a job of many workers wastes, with a ledger of its shards and without.

A job is shards of equal work. A worker takes the next one that is not done, keeps it until it is done, and writes it to the ledger.
Workers differ in speed, some are stragglers, and each dies at random moments: what it had of the shard at hand is lost, the shard is
taken by another, and the worker comes back after a while. The driver dies too: then every shard at hand is lost, and the ledger says
which are done. A straggler keeps its shard: nobody begins it a second time. Every draw is of one seed. `benchmarks/scale.py` prints the
tables.
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Costs = Mapping[str, float]

_SEED = 0


@dataclass(frozen=True)
class Crowd:
    """The workers of a job, and its driver.

    Attributes
    ----------
    count, spread
        How many; standard deviation of the logarithm of their speeds.
    stragglers, slowness
        Share of them that is slower, and how many times.
    failures, driver_failures
        Mean seconds between the failures of a worker and of the driver, exponentially distributed; infinity for none.
    restart
        Seconds until one is back; of the driver, until all are.
    """

    count: int
    spread: float = 0.1
    stragglers: float = 0.02
    slowness: float = 5.0
    failures: float = 86_400.0
    driver_failures: float = 86_400.0
    restart: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """What became of a job, in seconds of one worker but for `seconds`.

    Attributes
    ----------
    seconds
        From start to end.
    worked, wasted
        On shards in all, and of that on what was lost.
    idle
        With no shard left to take, until the last was done.
    failures, driver_failures
        How many ended a shard at hand, and how many ended all of them.
    """

    seconds: float
    worked: float
    wasted: float
    idle: float
    failures: int
    driver_failures: int

    @property
    def share(self) -> float:
        """Wasted share of the work."""
        return self.wasted / self.worked


@dataclass
class _Job:
    """A job under way: `free` and `busy` are heaps of what happens next, to whom."""

    shards: int
    free: list[tuple[float, int]]  # since when a worker could take a shard
    busy: list[
        tuple[float, int, float, bool]
    ]  # when, who, since when, and whether the shard is done then
    last: list[float]  # when each worker last worked
    worked: float = 0.0
    wasted: float = 0.0
    failures: int = 0
    driver_failures: int = 0

    def end(self, now: float, worker: int, since: float, back: float, *, well: bool) -> None:
        """Take a shard from a worker: it is done, or to be done again."""
        self.worked += now - since
        self.last[worker] = now
        if not well:
            self.wasted += now - since
            self.shards += 1
        heapq.heappush(self.free, (back, worker))


def simulate(shards: int, seconds: float, crowd: Crowd, *, seed: int = _SEED) -> Outcome:
    """Run a job of ``shards``, each of so many ``seconds`` for a worker of speed 1.

    Speeds are drawn once for each worker. Failures have no memory, so what the next shard of a worker meets is drawn when it takes it.
    """
    random = np.random.default_rng(seed)
    speeds = np.exp(crowd.spread * random.standard_normal(crowd.count))
    speeds[random.random(crowd.count) < crowd.stragglers] /= crowd.slowness

    def until_failure(mean: float) -> float:
        return float(random.exponential(mean)) if math.isfinite(mean) else math.inf

    job = _Job(shards, [(0.0, worker) for worker in range(crowd.count)], [], [0.0] * crowd.count)
    now, driver_dies = 0.0, until_failure(crowd.driver_failures)
    while job.shards or job.busy:
        next_end = job.busy[0][0] if job.busy else math.inf
        next_start = max(job.free[0][0], now) if job.shards and job.free else math.inf
        now = min(next_end, next_start, driver_dies)
        if now == driver_dies:
            for _, worker, since, _ in job.busy:
                job.end(now, worker, since, now + crowd.restart, well=False)
            job.busy.clear()
            job.free = [(max(since, now + crowd.restart), worker) for since, worker in job.free]
            heapq.heapify(job.free)
            job.driver_failures += 1
            driver_dies = now + crowd.restart + until_failure(crowd.driver_failures)
        elif now == next_end:
            _, worker, since, well = heapq.heappop(job.busy)
            job.failures += not well
            job.end(now, worker, since, now if well else now + crowd.restart, well=well)
        else:
            _, worker = heapq.heappop(job.free)
            needs, dies = seconds / float(speeds[worker]), until_failure(crowd.failures)
            heapq.heappush(job.busy, (now + min(needs, dies), worker, now, dies >= needs))
            job.shards -= 1
    idle = sum(now - each for each in job.last)
    return Outcome(now, job.worked, job.wasted, idle, job.failures, job.driver_failures)


def expected_waste(seconds: float, failures: float) -> float:
    """Return the wasted share of work on shards of so many seconds, by workers of one speed: 1 - x / (e^x - 1), x = seconds / failures.

    An attempt lasts until its end or a failure, (1 - e^-x) / rate on the mean, and e^x of them are made for each that is of use.
    """
    x = seconds / failures
    return 1 - x / math.expm1(x)


def interval(save: float, failures: float) -> float:
    """Return the seconds of work between checkpoints that waste least, sqrt(2 save failures) (Young 1974)."""
    return math.sqrt(2 * save * failures)


def tables(costs: Costs, *, workers: int = 1000, images: int = 10**8) -> str:
    """Return the tables of the simulation of a job of so many images as markdown."""
    return "\n\n".join(
        ("### Stragglers and failures", of_shards(costs, workers, images), of_checkpoints(costs))
    )


def of_shards(costs: Costs, workers: int, images: int) -> str:
    """Return the table of jobs, by images a shard; the first of each are those of `pixmend pack` and `pixmend complete` on a cluster."""
    lines = [
        f"{images:,} images, {workers:,} workers, speeds spread by 10 %, 2 % of them five times slower; each worker fails every "
        f"{costs['worker_failures'] / 3600:.0f} h, as the driver does, and is back after {costs['restart_seconds']:.0f} s; seed {_SEED}.\n",
        "| job | images a shard | s a shard | time | times the ideal | failures, of the driver | work lost | by the formula | "
        "idle at the end | failures if nothing were kept |",
        "|---" * 10 + "|",
    ]
    failures, restart = costs["worker_failures"], costs["restart_seconds"]
    crowd = Crowd(workers, failures=failures, driver_failures=failures, restart=restart)
    kinds = {
        "pack": ("pack_seconds", (4096, 512, 65_536)),
        "complete, `default`": ("default_seconds", (64, 1024, 16_384)),
    }
    for job, (cost, sizes) in kinds.items():
        for size in sizes:
            shards, seconds = -(-images // size), size * costs[cost]
            met = simulate(shards, seconds, crowd)
            ideal = shards * seconds / workers
            # A job that keeps nothing must get through without one: e^(time / time between failures) attempts.
            attempts = math.exp(min(ideal * (workers + 1) / failures, 700))
            cells = (
                *(job, f"{size:,}", f"{seconds:,.1f}", f"{met.seconds / 3600:,.2f} h"),
                *(f"{met.seconds / ideal:.2f}", f"{met.failures:,}, {met.driver_failures}"),
                *(f"{met.share:.3%}", f"{expected_waste(seconds, failures):.3%}"),
                *(f"{met.idle / (met.seconds * workers):.1%}", tried(attempts)),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tried(attempts: float) -> str:
    """Return how many failures to expect before a first attempt gets through."""
    return f"{attempts - 1:,.1f}" if attempts < 1e6 else f"10^{math.log10(attempts):.0f}"


def of_checkpoints(costs: Costs) -> str:
    """Return the table of training, whose processes all stop with one of them, by hosts."""
    save, down = costs["checkpoint_seconds"], costs["restart_seconds"]
    lines = [
        "| hosts of a run | a failure in | best s between checkpoints | work lost there | every 600 s | every 3,600 s |",
        "|---" * 6 + "|",
    ]
    for hosts in (1, 8, 64, 1000):
        failures = costs["host_failures"] / hosts
        best = interval(save, failures)
        shares = [lost(each, save, down, failures) for each in (best, 600.0, 3600.0)]
        lines.append(
            f"| {hosts:,} | {failures / 3600:,.1f} h | {best:,.0f} | "
            + " | ".join(f"{share:.2%}" for share in shares)
            + " |"
        )
    return "\n".join(lines)


def lost(between: float, save: float, down: float, failures: float) -> float:
    """Return the share of time that is no training: saving, what is done twice after a failure, and the restart."""
    whole = between + save
    # Until a stretch and its save are through, with a restart after each failure: (failures + down) (e^x - 1).
    took = (failures + down) * math.expm1(whole / failures)
    return 1 - between / took
