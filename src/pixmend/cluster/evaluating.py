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
from pixmend.evaluation import (
    BatchResult,
    EvaluationBatch,
    EvaluationSpec,
    ModelUnderTest,
    open_training,
    run_batch,
    select_methods,
)
from pixmend.models import find_model
from pixmend.records import Records


@dataclass(frozen=True)
class Evaluating:
    """An engine for `pixmend.api.evaluate`, to be given what that is given.

    Attributes
    ----------
    models
        One, or two to be compared; they travel as their files' bytes.
    train_data
        A record folder that all machines see, or None.
    workers
        How many; by default one a GPU, or one a core where there is none.
    """

    cluster: Cluster
    models: Sequence[str | Path]
    spec: EvaluationSpec
    train_data: str | Path | None = None
    device: str = "auto"
    workers: int | None = None

    def run(
        self, batches: Iterable[EvaluationBatch], *, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[EvaluationBatch, BatchResult]]:
        """Yield the result of each batch, in the order in which they are done.

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

        cluster, most = self.cluster, self.cluster.fit(self.device)
        files = [cluster.ray.put(find_model(each).read_bytes()) for each in self.models]
        pool: Pool[EvaluationBatch, BatchResult] = Pool(
            cluster,
            _Evaluator,
            (self.spec, self.train_data, self.device, *files),
            workers=self.workers or most.workers,
            gpus=most.gpus,
        )
        yield from pool.run(batches, on_tick=look)
        if pool.failed:
            raise RunError(
                f"{len(pool.failed)} batches failed twice: {pool.failed[0].reason}; the others are kept: mend that and run "
                "the same command again"
            )


class _Evaluator:
    """The actor: it holds the models."""

    def begin(
        self,
        terms: WorkerContract,
        board: object,
        spec: EvaluationSpec,
        train_data: str | Path | None,
        device: str,
        *models: bytes,
    ) -> None:
        terms.accept()
        self._pen = Reporter(board)
        networks = [model_of(content, device).networks for content in models]
        train = None if train_data is None else open_training(Records(train_data), networks[0])
        methods, _ = select_methods([ModelUnderTest(each) for each in networks], train, spec)
        self._methods = {each.label: each for each in methods}

    def work(self, batch: EvaluationBatch, care: RetryPolicy) -> BatchResult:
        del care  # its images are decoded, and a search that dies twice is no matter of one image
        if batch.label not in self._methods:
            raise ClusterError(
                f"node {platform.node()}: cannot run {batch.label}; install the same packages on all machines"
            )

        def stopped() -> bool:
            return self._pen.report(batch.number, Note())

        return run_batch(batch, self._methods[batch.label], stopped)
