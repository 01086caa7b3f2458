"""Three machines on one: each a raylet with its own object store and one core."""

import contextlib
import os
import signal
import socket
import time
import uuid
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_MARK = "PIXMEND_TEST_CLUSTER"
_NODE = {
    "num_cpus": 1,
    "include_log_monitor": False,
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,
}
_HELPERS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)
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
    """Time as Ray's starter of nodes is to see it: the 30 seconds that it gives a machine are five minutes."""

    sleep = staticmethod(time.sleep)
    time = staticmethod(time.time)

    @staticmethod
    def monotonic():
        return time.monotonic() / 10


def node_options():
    """Return options of a machine whose helpers have their ports: else Ray waits for them, and not for long."""
    with contextlib.ExitStack() as free:
        ports = []
        for _ in _HELPERS:
            probe = free.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    return {**_NODE, **dict(zip(_HELPERS, ports, strict=True))}


class Machines:
    """The cluster, and what befalls it."""

    def __init__(self):
        import ray
        from ray._private import node
        from ray.cluster_utils import Cluster

        node.time = Patience
        self.ray = ray
        # Inherited by all its processes.
        os.environ[_MARK] = self._mark = uuid.uuid4().hex
        os.environ["RAY_agent_register_timeout_ms"] = "300000"  # noqa: SIM112 - Ray spells it so
        root = Path(__file__).parents[2]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "src")])
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={**node_options(), "_system_config": _CONFIG},
        )
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
        """Return the processes of a kind of worker."""
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
        """Kill one at work."""
        os.kill(self.workers(name)[0], signal.SIGKILL)

    def kill_node(self):
        """Take a machine away in the middle of what it does."""
        self._cluster.remove_node(self._others.pop(), allow_graceful=False)

    def mend(self):
        """Bring back what was killed."""
        while len(self._others) < 2:
            self._others.append(self._cluster.add_node(**node_options()))

    def end(self):
        self.ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def all_machines():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, at its start
        made = Machines()
    yield made
    made.end()


@pytest.fixture
def machines(all_machines):
    yield all_machines
    all_machines.mend()


@pytest.fixture
def cluster(machines):
    from pixmend.cluster import connect

    with connect(machines.address) as connected:
        yield connected


@pytest.fixture
def make_images(tmp_path):
    """Return a maker of folders of small colour images in two classes."""

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
    """All files under a folder but hidden ones, by their relative names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }
