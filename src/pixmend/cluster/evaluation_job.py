"""An evaluation on a cluster: workers hold the models, complete and measure."""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixmend.cluster.completion_worker import load_model_bytes
from pixmend.cluster.session import Cluster
from pixmend.cluster.worker_pool import JobWorker, RetryPolicy, WorkerPool
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
from pixmend.records.pack_progress import JobProgress


@dataclass(frozen=True)
class EvaluationJob:
    """An engine for `pixmend.api.evaluate`; by default one worker a GPU, or a core without any."""

    cluster: Cluster
    models: Sequence[str | Path | None]  # one, or two to compare
    spec: EvaluationSpec
    train_data: str | Path | None = None  # a record folder that all machines see
    device: str = "auto"
    workers: int | None = None

    def __call__(
        self, batches: Iterable[EvaluationBatch], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[EvaluationBatch, BatchResult]]:
        """Yield each batch and its result as they finish; RunError: some failed, the others are kept."""

        def on_tick() -> None:
            if should_stop():
                raise StoppedError

        workers, gpus = self.cluster.workers_for(self.device)
        models = [find_model(each).read_bytes() for each in self.models if each is not None]
        files = [self.cluster.ray.put(content) for content in models]
        pool: WorkerPool[EvaluationBatch, BatchResult] = WorkerPool(
            self.cluster,
            EvaluationWorker,
            (self.spec, self.train_data, self.device, *files),
            workers=self.workers or workers,
            gpus=gpus,
        )
        yield from pool.run(batches, on_tick=on_tick)
        pool.raise_failures(RunError, "batches")


class EvaluationWorker(JobWorker):
    """The actor, which holds the models."""

    def setup(
        self, spec: EvaluationSpec, train_data: str | Path | None, device: str, *models: bytes
    ) -> None:
        networks = [load_model_bytes(content, device).networks for content in models]
        train = None if train_data is None else open_training(Records(train_data), networks[0])
        methods = select_methods([ModelUnderTest(each) for each in networks], train, spec)
        self.methods = {each.label: each for each in methods}

    def work(self, batch: EvaluationBatch, policy: RetryPolicy) -> BatchResult:
        del policy
        if batch.label not in self.methods:
            raise ClusterError(
                f"node {platform.node()}: lacks the method {batch.label}; "
                "install the same packages on all machines"
            )

        def should_stop() -> bool:
            return self.reporter.report(batch.number, JobProgress())

        return run_batch(batch, self.methods[batch.label], should_stop)
