"""A Ray cluster, joined or started; Ray is imported only when a cluster is asked for."""

import contextlib
import importlib.metadata
import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pixmend
from pixmend.errors import ClusterError, install_hint
from pixmend.storage import StorePath, open_file

_CLIENT_PORT = 10001
_MAX_ADDRESS = 1000  # bytes
_CONNECT_SECONDS = 10
_PACKAGES = ("torch", "numpy", "pillow")  # their versions decide bytes
_ADDRESSES = "give auto, ray://HOST or HOST:PORT of a running Ray cluster"


@dataclass(frozen=True)
class WorkerContract:
    """What driver and workers must share, so that equal inputs give equal bytes."""

    versions: dict[str, str]  # of pixmend, Python and the packages that decide bytes
    folder: str  # that relative paths start from

    @classmethod
    def here(cls) -> "WorkerContract":
        versions = {
            "pixmend": pixmend.__version__,
            "python": ".".join(platform.python_version_tuple()[:2]),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        return cls(versions, str(Path.cwd()))

    def accept(self) -> None:
        """Work in the driver's folder; other versions are a ClusterError that names the machine."""
        ours = WorkerContract.here().versions
        differences = [
            f"{name} is {ours[name]} there and {version} here"
            for name, version in self.versions.items()
            if ours[name] != version
        ]
        if differences:
            raise ClusterError(
                f"node {platform.node()}: {', '.join(differences)}; "
                "install the same versions on all machines"
            )
        # A machine without the folder can still use absolute paths and URLs.
        with contextlib.suppress(OSError):
            os.chdir(self.folder)


def missing_on_node(path: StorePath) -> ClusterError:
    """Return the error of a worker that does not see a path."""
    return ClusterError(
        f"node {platform.node()}: sees no {path}; all machines need the same folders: "
        "a shared file system, or URLs"
    )


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray, and the CPUs and GPUs of all nodes."""

    ray: ModuleType
    cpus: int
    gpus: int

    def workers_for(self, device: str) -> tuple[int, int]:
        """Return how many model workers fit, and GPUs for each: one a GPU if wanted, or a core."""
        if self.gpus and device in ("auto", "cuda"):
            return self.gpus, 1
        return self.cpus, 0

    def start(self, worker_class: type, *, gpus: float = 0) -> Any:  # noqa: ANN401 - Ray's handle
        """Start an actor on one CPU; Ray does not restart it."""
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        return self.ray.remote(worker_class).options(**options).remote()

    def start_here(self, actor_class: type) -> Any:  # noqa: ANN401 - Ray's handle
        """Start an actor on this node (with a client, on the head); Ray restarts it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), True)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        return self.ray.remote(actor_class).options(**options).remote()


@contextlib.contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """Connect to a cluster for the block; ClusterError if it cannot be reached, or has no CPU.

    ``auto`` is the cluster of RAY_ADDRESS or of this machine, or else Ray started on this machine
    alone; ``ray://HOST[:10001]`` reaches one from outside, ``HOST:PORT`` of its head from inside.
    """
    # Usage reports to Ray's makers are the user's to allow.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise ClusterError(
            f"--cluster {address}: Ray is not installed; {install_hint('cluster')}"
        ) from None
    owned = not ray.is_initialized()
    if owned:
        _connect(ray, address)
    try:
        resources = ray.cluster_resources()
        cluster = Cluster(ray, int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
        if not cluster.cpus:
            raise ClusterError(f"--cluster {address}: it has no CPU to work on; add a node")
        yield cluster
    finally:
        if owned:
            ray.shutdown()


def _connect(ray: ModuleType, address: str) -> None:
    named = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    if named:
        _probe(named)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if not named:
            # Ray itself would join the cluster of any user, or what remains of a dead one.
            ray.init(_own_cluster() or "local", include_dashboard=False, **quiet)
        else:
            ray.init(_with_port(named), **quiet)
    except (ConnectionError, ValueError, RuntimeError, AssertionError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(
            f"--cluster {address}: cannot be reached: {reason}; {_ADDRESSES} of this Python and "
            f"Ray {ray.__version__}"
        ) from error


def _own_cluster() -> str | None:
    """Return the address of this user's cluster by the file that `ray start` writes, if it runs.

    All users may write to its folder. Another user who wrote the file would receive the model and
    the images, and send code back.
    """
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108
    try:
        with open_file(path, "r+b", limit=_MAX_ADDRESS) as file:  # through no link
            status = os.fstat(file.fileno())
            # Many systems give each user a group of the same number.
            others = 0o002 if status.st_gid == os.getuid() else 0o022
            if status.st_uid != os.getuid() or status.st_mode & others:
                return None
            address = file.read().decode().strip()
        _probe(address)
    except (OSError, ValueError, ClusterError):
        return None
    return address


def _probe(address: str) -> None:
    """Raise ClusterError at once if nothing listens; Ray's own clients would retry for minutes."""
    host, _, port = _with_port(address).removeprefix("ray://").rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS)
        connection.close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--cluster {address}: cannot be reached: {error}; {_ADDRESSES}"
        ) from None


def _with_port(address: str) -> str:
    if not address.startswith("ray://"):
        return address
    host = address.removeprefix("ray://").rstrip("/")
    return f"ray://{host}" if ":" in host.rpartition("]")[2] else f"ray://{host}:{_CLIENT_PORT}"
