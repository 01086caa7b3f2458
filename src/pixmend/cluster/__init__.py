"""Packing, completion and evaluation on a Ray cluster.

    with connect("auto") as cluster:
        records.pack(images, out, settings, engine=PackingJob(cluster))
        complete(cluster, model, folder, out, options)
        spec = EvaluationSpec()
        api.evaluate(model, images, out, spec, engine=EvaluationJob(cluster, [model], spec))

The driver cuts the inputs into jobs, and each worker does one job at a time: it writes whole files
and, last, a note with their hashes. So results depend neither on the number of workers nor on which
of them die, and the same command on any cluster does what has no note.
"""

import importlib
from typing import TYPE_CHECKING, Any

# Workers that pack images need not wait for torch.
_MODULES = {
    "Cluster": "session",
    "CompletionSummary": "completion_job",
    "EvaluationJob": "evaluation_job",
    "PackingJob": "packing_job",
    "complete": "completion_job",
    "connect": "session",
}
__all__ = ["Cluster", "CompletionSummary", "EvaluationJob", "PackingJob", "complete", "connect"]

if TYPE_CHECKING:
    from pixmend.cluster.completion_job import CompletionSummary, complete
    from pixmend.cluster.evaluation_job import EvaluationJob
    from pixmend.cluster.packing_job import PackingJob
    from pixmend.cluster.session import Cluster, connect


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module holds
    if name not in _MODULES:
        raise AttributeError(f"module 'pixmend.cluster' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pixmend.cluster.{_MODULES[name]}"), name)
