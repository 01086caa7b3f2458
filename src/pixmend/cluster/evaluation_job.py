"""An evaluation on a cluster: workers hold the models, complete and measure."""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixmend.cluster.completion_worker import load_model_bytes
from pixmend.cluster.session import Cluster
from pixmend.cluster.worker_pool import JobProgress, JobWorker, RetryPolicy, WorkerPool
from pixmend.errors import ClusterError, RunError, StoppedError
from pixmend.evaluation import Batch, ModelUnderTest, Order, answer, methods_of, open_training
from pixmend.models import find_model
from pixmend.records import Records


@dataclass(frozen=True)
class EvaluationSpec:
    """The settings of `pixmend.api.evaluate` that workers need."""

    train_data: str | Path | None = None  # a record folder that all machines see
    methods: Sequence[str] | None = None
    seed: int = 0
    candidates: int = 1
    seconds: float | None = None
    device: str = "auto"


@dataclass(frozen=True)
class EvaluationJob:
    """An engine for `pixmend.api.evaluate`; by default one worker a GPU, or a core without any."""

    cluster: Cluster
    models: Sequence[str | Path]  # one, or two to compare
    spec: EvaluationSpec
    workers: int | None = None

    def run(
        self, orders: Iterable[Order], *, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Order, Batch]]:
        """Yield each order and its result as they finish.

        StoppedError: ``should_stop`` returned True. RunError: some failed; the others are kept.
        """

        def on_tick() -> None:
            if should_stop():
                raise StoppedError

        workers, gpus = self.cluster.workers_for(self.spec.device)
        files = [self.cluster.ray.put(find_model(each).read_bytes()) for each in self.models]
        pool: WorkerPool[Order, Batch] = WorkerPool(
            self.cluster,
            EvaluationWorker,
            (self.spec, *files),
            workers=self.workers or workers,
            gpus=gpus,
        )
        yield from pool.run(orders, on_tick=on_tick)
        pool.raise_failures(RunError, "batches")


class EvaluationWorker(JobWorker):
    """The actor, which holds the models."""

    def setup(self, spec: EvaluationSpec, *models: bytes) -> None:
        """Load the models and prepare the methods."""
        networks = [load_model_bytes(content, spec.device).networks for content in models]
        train = None
        if spec.train_data is not None:
            train = open_training(Records(spec.train_data), networks[0])
        methods, _ = methods_of(
            [ModelUnderTest(each) for each in networks],
            train,
            spec.methods,
            seed=spec.seed,
            candidates=spec.candidates,
            seconds=spec.seconds,
        )
        self.methods = {each.label: each for each in methods}

    def work(self, order: Order, policy: RetryPolicy) -> Batch:
        """Complete and measure a batch, whose images are decoded already."""
        del policy
        if order.label not in self.methods:
            raise ClusterError(
                f"node {platform.node()}: lacks the method {order.label}; "
                "install the same packages on all machines"
            )

        def should_stop() -> bool:
            return self.reporter.report(order.number, JobProgress())

        return answer(order, self.methods[order.label], should_stop=should_stop)
