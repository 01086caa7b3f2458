"""Packing, completing and evaluating on a Ray cluster: the verbs of one process, their jobs handed to workers.

    with connect("auto") as cluster:
        records.pack(images, out, settings, engine=Packing(cluster))
        complete(cluster, model, folder, out, options)
        spec = EvaluationSpec()
        api.evaluate(model, images, out, spec, engine=Evaluating(cluster, [model], spec))

driver: listing ─jobs, one a worker at a time─▶ workers ─files, whole, then their note─▶ OUT
        progress, failures ◀──── board (who is how far) ◀──── reports

What is written does not depend on how many workers there are, nor on which of them die: a job writes the files it would
write anywhere, and a note that it is done, with their hashes, last. Whoever runs the same command again, on any number
of machines, does what has no note.
"""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["Cluster", "Completed", "Evaluating", "Packing", "complete", "connect"]

# Names and their modules: workers that pack images need not wait for torch.
_MODULES = {
    "Cluster": "session",
    "Completed": "completing",
    "Evaluating": "evaluating",
    "Packing": "packing",
    "complete": "completing",
    "connect": "session",
}

if TYPE_CHECKING:
    from pixmend.cluster.completing import Completed, complete
    from pixmend.cluster.evaluating import Evaluating
    from pixmend.cluster.packing import Packing
    from pixmend.cluster.session import Cluster, connect


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module holds
    if name not in _MODULES:
        raise AttributeError(f"module 'pixmend.cluster' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pixmend.cluster.{_MODULES[name]}"), name)
