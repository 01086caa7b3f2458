"""How far all shards are, at a cost that does not grow with their square."""

from pixmend.records.pack_progress import JobProgress, PackSummary, ShardResult
from pixmend.storage import StorePath


class CountingProgress:
    reads = 0

    def read(self, number):
        self.reads += 1
        return JobProgress()


def test_a_finished_shard_costs_no_look_at_all_others():
    progress, seen, shards = CountingProgress(), [], 2000
    summary = PackSummary(StorePath.of("x"), shards * 3, progress, None, seen.append)
    summary.running |= set(range(shards))
    for number in range(shards):
        summary.add(ShardResult(number, 2, 1, 9, "", ()))
    assert progress.reads < shards**2 / 8
    assert (seen[-1].done, seen[-1].bad) == (shards * 3, shards)
