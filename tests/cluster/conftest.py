"""A Ray cluster of three nodes on one machine, each with an object store and one core."""

import contextlib
import os
import signal
import time
import uuid
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tests.stores import environment_for

_MARK = "PIXMEND_TEST_CLUSTER"
_NODE = {
    "num_cpus": 1,
    "include_log_monitor": False,
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,
}
_CONFIG = {
    # A dead machine is noticed in seconds.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10000,
    "health_check_failure_threshold": 3,
    # Where other tests run beside, processes take their time to start.
    "worker_register_timeout_seconds": 300,
    "agent_register_timeout_ms": 300_000,
}


class Patience:
    """A slow clock for Ray's node launcher: its timeout of 30 seconds becomes 90."""

    sleep = staticmethod(time.sleep)
    time = staticmethod(time.time)

    @staticmethod
    def monotonic():
        return time.monotonic() / 3


class Machines:
    """The cluster, and the faults that befall it."""

    def __init__(self, environment):
        import ray
        from ray._private import node
        from ray.cluster_utils import Cluster

        node.time = Patience
        self.ray = ray
        self._mark, root = uuid.uuid4().hex, Path(__file__).parents[2]
        self._environment = {  # of all its processes
            **environment,
            _MARK: self._mark,
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")]),
            "RAY_agent_register_timeout_ms": "300000",
        }
        head = {**_NODE, "_system_config": _CONFIG}
        self._cluster = None
        for _ in range(4):
            with contextlib.suppress(Exception), mock.patch.dict(os.environ, self._environment):
                self._cluster = self._cluster or Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        self._others = []
        self.mend()
        ray.init(
            self.address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"worker_process_setup_hook": "tests.cluster.poison.arm"},
        )

    def workers(self, name):
        """Return the processes of a worker class."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes()
                ours = self._mark.encode() in (folder / "environ").read_bytes()
            except OSError:
                continue
            if ours and name.encode() in line:
                found.append(int(folder.name))
        return found

    def kill_worker(self, name):
        """Kill a worker."""
        os.kill(self.workers(name)[0], signal.SIGKILL)

    def kill_node(self):
        """Remove a node while it works."""
        self._cluster.remove_node(self._others.pop(), allow_graceful=False)

    def mend(self):
        """Restore removed nodes."""
        for _ in range(8):
            # A machine gives up where its helpers take over 15 seconds, as they do on one that is busy with other tests.
            with contextlib.suppress(Exception), mock.patch.dict(os.environ, self._environment):
                if len(self._others) < 2:
                    self._others.append(self._cluster.add_node(**_NODE))

    def end(self):
        self.ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def all_machines(s3_url):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, at its start
        made = Machines(environment_for(s3_url))
    yield made
    made.end()


@pytest.fixture
def machines(all_machines):
    yield all_machines
    all_machines.mend()


@pytest.fixture
def cluster(machines):
    from pixmend.cluster.session import connect

    with connect(machines.address) as connected:
        yield connected


@pytest.fixture
def quiet_reporters(monkeypatch):
    """Let workers of `OneMachine` report to nobody."""
    from .one_machine import Reporter

    monkeypatch.setattr("pixmend.cluster.worker_pool.Reporter", Reporter)


@pytest.fixture
def make_images(tmp_path):
    """Return a factory of folders of small colour images in two classes."""

    def make(count, name="images", side=12):
        folder = tmp_path / name
        for number in range(count):
            path = folder / f"Sample{number % 2 + 1:03d}" / f"img{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (side, side + 3, 3), np.uint8)
            Image.fromarray(pixels).save(path)
        return folder

    return make


def tree(folder):
    """Return the contents of all files under a folder but hidden ones, by relative name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }
