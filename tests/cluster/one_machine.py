"""A cluster in this process, without Ray: one core, one worker at a time."""

from .test_worker_pool import FakeCluster


class Reporter:
    """Reports to nobody."""

    def __init__(self, progress):
        pass

    def report(self, number, progress):
        return False


class OneMachine(FakeCluster):
    """Calls ``happen`` before each worker starts."""

    cpus = 1

    def __init__(self, happen=lambda: None):
        super().__init__()
        self._happen = happen
        self.ray.put = lambda value: value

    def workers_for(self, device):
        return 1, 0

    def start(self, worker_class, *, gpus=0):
        self._happen()
        return super().start(worker_class, gpus=gpus)
