"""How far all shards are, at a cost that does not grow with their square."""

from pixmend.records.shards import ShardResult
from pixmend.records.shared_progress import Row
from pixmend.records.summary import Limit, PackSummary
from pixmend.storage import StorePath


class SharedProgress:
    reads = 0

    def read(self, number):
        self.reads += 1
        return Row()


def test_a_finished_shard_costs_no_look_at_all_others():
    board, seen, shards = SharedProgress(), [], 2000
    tally = PackSummary(StorePath.of("x"), shards * 3, board, Limit(), seen.append)
    tally.begin([], range(shards))
    for number in range(shards):
        tally.add(ShardResult(number, 2, 1, 9, "", ()))
    assert board.reads < shards**2 / 8
    assert (seen[-1].done, seen[-1].bad) == (shards * 3, shards)
