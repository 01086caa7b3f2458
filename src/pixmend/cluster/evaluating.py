"""An evaluation over a cluster: workers that hold the models complete and measure, the driver keeps the ledger."""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixmend.cluster.board import Note, Reporter
from pixmend.cluster.part import model_of
from pixmend.cluster.pool import Pool, RetryPolicy
from pixmend.cluster.session import Cluster, WorkerContract
from pixmend.errors import ClusterError, RunError, StoppedError
from pixmend.evaluation import Batch, ModelUnderTest, Order, answer, methods_of, open_training
from pixmend.models import find_model
from pixmend.records import Records


@dataclass(frozen=True)
class EvaluationSpec:
    """Who takes part, as `pixmend.api.evaluate` is told; the models travel as their files' bytes.

    Attributes
    ----------
    train_data
        A record folder that all machines see, or None.
    methods, candidates, seconds, device
        See `pixmend.api.evaluate`.
    seed
        Of the protocol.
    """

    train_data: str | Path | None = None
    methods: Sequence[str] | None = None
    seed: int = 0
    candidates: int = 1
    seconds: float | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Evaluating:
    """An engine for `pixmend.api.evaluate`, to be given what that is given.

    Attributes
    ----------
    models
        One, or two to be compared.
    workers
        How many; by default one a GPU, or one a core where there is none.
    """

    cluster: Cluster
    models: Sequence[str | Path]
    contest: EvaluationSpec
    workers: int | None = None

    def run(
        self, orders: Iterable[Order], *, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Order, Batch]]:
        """Yield what came of each order, in the order in which they are done.

        Raises
        ------
        StoppedError
            ``should_stop`` said yes.
        RunError
            Some failed, also at the second try; the others are kept.
        """

        def look() -> None:
            if should_stop():
                raise StoppedError

        cluster, most = self.cluster, self.cluster.fit(self.contest.device)
        files = [cluster.ray.put(find_model(each).read_bytes()) for each in self.models]
        pool: Pool[Order, Batch] = Pool(
            cluster,
            _Evaluator,
            (self.contest, *files),
            workers=self.workers or most.workers,
            gpus=most.gpus,
        )
        yield from pool.run(orders, on_tick=look)
        if pool.failed:
            raise RunError(
                f"{len(pool.failed)} batches failed twice: {pool.failed[0].reason}; the others are kept: mend that and run "
                "the same command again"
            )


class _Evaluator:
    """The actor: it holds the models."""

    def begin(
        self, terms: WorkerContract, board: object, contest: EvaluationSpec, *models: bytes
    ) -> None:
        terms.accept()
        self._pen = Reporter(board)
        networks = [model_of(content, contest.device).networks for content in models]
        train = None
        if contest.train_data is not None:
            train = open_training(Records(contest.train_data), networks[0])
        found, _ = methods_of(
            [ModelUnderTest(each) for each in networks],
            train,
            contest.methods,
            seed=contest.seed,
            candidates=contest.candidates,
            seconds=contest.seconds,
        )
        self._contestants = {each.label: each for each in found}

    def work(self, order: Order, care: RetryPolicy) -> Batch:
        del care  # its images are decoded, and a search that dies twice is no matter of one image
        if order.label not in self._contestants:
            raise ClusterError(
                f"node {platform.node()}: cannot let {order.label} take part; install the same packages on all machines"
            )

        def stopped() -> bool:
            return self._pen.report(order.number, Note())

        return answer(order, self._contestants[order.label], should_stop=stopped)
