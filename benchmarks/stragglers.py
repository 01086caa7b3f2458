"""Simulate stragglers and failures: the work that a large job wastes, with and without a ledger.

A job consists of shards of equal work. A worker takes the next open shard, keeps it until it is
done, and records it in the ledger. Workers differ in speed, some are stragglers, and each fails at
random: its current shard is lost and goes to another worker, and it restarts after a while. If the
driver fails, all current shards are lost, and the ledger tells which ones are done. A straggler
keeps its shard: no shard is started twice. All draws come from one seed. `benchmarks/scale.py`
prints the tables.
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
    """The workers and the driver of a job.

    Attributes
    ----------
    count, spread
        Number of workers; standard deviation of their log speed.
    stragglers, slowness
        Fraction of slow workers, and their slow-down.
    failures, driver_failures
        Mean seconds between failures of a worker and of the driver, exponential; or infinity.
    restart
        Seconds until a worker is back, or all after a failure of the driver.
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
    """The result of a job; times but `seconds` are summed over workers.

    Attributes
    ----------
    seconds
        Total time.
    worked, wasted
        Time on shards, and its part on lost shards.
    idle
        Waiting time at the end, without an open shard.
    failures, driver_failures
        Failures that lost one shard, and that lost all current ones.
    """

    seconds: float
    worked: float
    wasted: float
    idle: float
    failures: int
    driver_failures: int

    @property
    def share(self) -> float:
        """Wasted fraction of the work."""
        return self.wasted / self.worked


@dataclass
class _Job:
    """The state of a job; `free` and `busy` are heaps of the next events."""

    shards: int
    free: list[tuple[float, int]]  # time at which the worker became free, worker
    busy: list[tuple[float, int, float, bool]]  # end, worker, start, success
    last: list[float]  # end of each worker's last shard
    worked: float = 0.0
    wasted: float = 0.0
    failures: int = 0
    driver_failures: int = 0

    def end(self, now: float, worker: int, since: float, back: float, *, well: bool) -> None:
        """End the shard of a worker: it is done, or open again."""
        self.worked += now - since
        self.last[worker] = now
        if not well:
            self.wasted += now - since
            self.shards += 1
        heapq.heappush(self.free, (back, worker))


def simulate(shards: int, seconds: float, crowd: Crowd, *, seed: int = _SEED) -> Outcome:
    """Run a job of ``shards``, each of ``seconds`` of work for a worker of speed 1.

    Speeds are drawn once per worker. Failures are memoryless, so they are drawn per shard.
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
    """Return the wasted fraction for equal workers: 1 - x / (e^x - 1), x = seconds / failures.

    An attempt takes (1 - e^-x) / rate on average, and e^x attempts are needed per success.
    """
    x = seconds / failures
    return 1 - x / math.expm1(x)


def interval(save: float, failures: float) -> float:
    """Return the optimal seconds between checkpoints, sqrt(2 save failures) (Young 1974)."""
    return math.sqrt(2 * save * failures)


def tables(costs: Costs, *, workers: int = 1000, images: int = 10**8) -> str:
    """Return the markdown tables of the simulated job."""
    return "\n\n".join(
        ("### Stragglers and failures", of_shards(costs, workers, images), of_checkpoints(costs))
    )


def of_shards(costs: Costs, workers: int, images: int) -> str:
    """Return the table of jobs by images per shard, first those of `pixmend pack` and `complete`."""
    lines = [
        f"{images:,} images, {workers:,} workers, log speeds spread by 10 %, 2 % of workers five times slower; a worker "
        f"fails every "
        f"{costs['worker_failures'] / 3600:.0f} h on average, like the driver, "
        f"and restarts after {costs['restart_seconds']:.0f} s; seed {_SEED}.\n",
        "| job | images/shard | s/shard | time | ratio to ideal | failures, of the driver | work lost | formula | "
        "idle at the end | failures without a ledger |",
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
            # Without a ledger a job must finish without a failure: e^(time / mean time) attempts.
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
    """Return the expected number of failures before the first success."""
    return f"{attempts - 1:,.1f}" if attempts < 1e6 else f"10^{math.log10(attempts):.0f}"


def of_checkpoints(costs: Costs) -> str:
    """Return the table of training by hosts; one failed process stops all."""
    save, down = costs["checkpoint_seconds"], costs["restart_seconds"]
    lines = [
        "| hosts | mean time to failure | best s between checkpoints | work lost | every 600 s | every 3,600 s |",
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
    """Return the fraction of time lost to saving, repeated steps and restarts."""
    whole = between + save
    # Expected time of an interval and its save: (failures + down) (e^x - 1).
    took = (failures + down) * math.expm1(whole / failures)
    return 1 - between / took
