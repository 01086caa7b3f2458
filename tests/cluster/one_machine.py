"""A cluster of this process alone: no Ray, one core, one worker at a time."""

from types import SimpleNamespace

from .test_pool import FakeCluster


class Reporter:
    """Writes to no board."""

    def __init__(self, board):
        pass

    def report(self, number, note):
        return False


class OneMachine(FakeCluster):
    """Something may happen before each of its workers begins."""

    cpus = 1

    def __init__(self, happen=lambda: None):
        super().__init__()
        self._happen = happen
        self.ray.put = lambda value: value

    def fit(self, device):
        return SimpleNamespace(workers=1, gpus=0)

    def start(self, kind, gpus=0):
        self._happen()
        return super().start(kind, gpus)
