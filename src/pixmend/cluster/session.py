"""A Ray cluster, reached or started: the only module that imports Ray, and not before a cluster is asked for."""

import contextlib
import importlib.metadata
import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pixmend
from pixmend.errors import ClusterError

_PORT = 10001  # of Ray's own client server
_KNOCK_SECONDS = 10
_DECIDING = ("torch", "numpy", "pillow")  # packages whose versions decide bytes, besides our own


@dataclass(frozen=True)
class Versions:
    """What must be the same on every machine, lest equal inputs give unequal bytes."""

    pixmend: str
    python: str
    torch: str
    numpy: str
    pillow: str

    @classmethod
    def here(cls) -> "Versions":
        """Return those of this process."""
        python = ".".join(platform.python_version_tuple()[:2])
        return cls(pixmend.__version__, python, *map(importlib.metadata.version, _DECIDING))

    def check(self) -> None:
        """Refuse to work for a driver of these versions on a machine of others.

        Raises
        ------
        ClusterError
            Names the machine and what differs.
        """
        ours = asdict(Versions.here())
        other = [
            f"{name} is {ours[name]} there and {wanted} here"
            for name, wanted in asdict(self).items()
            if ours[name] != wanted
        ]
        if other:
            raise ClusterError(
                f"node {platform.node()}: {', '.join(other)}; install the same versions on all machines"
            )


@dataclass(frozen=True)
class WorkerContract:
    """What the driver asks of every worker: its own versions, and paths as they are in its own folder."""

    versions: Versions
    folder: str

    @classmethod
    def here(cls) -> "WorkerContract":
        """Return those of this process."""
        return cls(Versions.here(), str(Path.cwd()))

    def accept(self) -> None:
        """Work as the driver does.

        Raises
        ------
        ClusterError
            See `Versions.check`.
        """
        self.versions.check()
        # Where it is not there, whole paths and URLs are none the worse for it.
        with contextlib.suppress(OSError):
            os.chdir(self.folder)


class Fit(NamedTuple):
    """How many workers, and GPUs for each."""

    workers: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray.

    Attributes
    ----------
    ray
        The module, so that nobody else imports it.
    cpus, gpus
        Of all nodes together.
    """

    ray: ModuleType
    cpus: int
    gpus: int

    def fit(self, device: str) -> "Fit":
        """Return how many workers that hold a model fit: one a GPU where there is any and it is wanted, else one a core."""
        if self.gpus and device in ("auto", "cuda"):
            return Fit(self.gpus, 1)
        return Fit(self.cpus, 0)

    def start(self, kind: type, *arguments: object, cpus: float = 1, gpus: float = 0) -> Any:  # noqa: ANN401 - Ray's handle
        """Start an actor of class ``kind``; it is never restarted behind our back."""
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        return self.ray.remote(kind).options(**options).remote(*arguments)

    def start_here(self, kind: type) -> Any:  # noqa: ANN401 - Ray's handle
        """Start an actor without demands on this node (with a client, the head), again if it dies."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), True)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        return self.ray.remote(kind).options(**options).remote()


@contextlib.contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """Connect to a cluster for the length of the block.

    Parameters
    ----------
    address
        ``auto``: the cluster that RAY_ADDRESS names or that this machine belongs to, else Ray started on this machine alone;
        ``ray://HOST[:10001]`` from outside the cluster; or ``HOST:PORT`` of its head from inside.

    Raises
    ------
    ClusterError
        No Ray is installed, nothing answers there, or it has no core to work on.
    """
    # Ray's own reports of its use are the user's to allow.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise ClusterError(
            f"--cluster {address}: Ray is not installed; pip install 'pixmend[cluster]'"
        ) from None
    ours = not ray.is_initialized()
    if ours:
        _reach(ray, address)
    try:
        resources = ray.cluster_resources()
        cluster = Cluster(ray, int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
        if not cluster.cpus:
            raise ClusterError(f"--cluster {address}: it has no CPU to work on; add a node")
        yield cluster
    finally:
        if ours:
            ray.shutdown()


def _reach(ray: ModuleType, address: str) -> None:
    named = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    if named:
        _knock(named)
    quiet = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
    try:
        if not named:
            # What is left of a cluster that died would be taken for one that is there.
            alone = None if _is_current() else "local"
            ray.init(alone, include_dashboard=False, **quiet)
        elif named.startswith("ray://"):
            ray.init(_with_port(named), logging_level="ERROR", log_to_driver=False)
        else:
            ray.init(named, **quiet)
    # Whatever Ray's parsers and clients raise, it is one thing for the user.
    except (ConnectionError, ValueError, RuntimeError, AssertionError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(
            f"--cluster {address}: cannot be reached: {reason}; give auto, ray://HOST or HOST:PORT of a running Ray "
            f"cluster of this Python and Ray {ray.__version__}"
        ) from error


def _is_current() -> bool:
    """Whether this machine belongs to a cluster that runs, by the note that `ray start` leaves."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108 - Ray's own place
    try:
        _knock(note.read_text(encoding="utf-8").strip())
    except (OSError, ClusterError):
        return False
    return True


def _knock(address: str) -> None:
    """Fail at once where nothing listens: Ray's clients would ask again for minutes.

    Raises
    ------
    ClusterError
        There is no such machine or port.
    """
    host, _, port = _with_port(address).removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--cluster {address}: cannot be reached: {error}; give auto, ray://HOST or HOST:PORT of a running Ray cluster"
        ) from None


def _with_port(address: str) -> str:
    if not address.startswith("ray://"):
        return address
    host = address.removeprefix("ray://").rstrip("/")
    return f"ray://{host}" if ":" in host.rpartition("]")[2] else f"ray://{host}:{_PORT}"
