"""Where this process computes, and with whom.

A group always exists: a process on its own is a group of one, whose operations leave everything as it is. torchrun starts larger
ones; all processes of a group then call the same operations in the same order, and this is the only room that knows how
they speak to each other.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist  # noqa: TID251 - the one room that may
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store  # noqa: TID251
from torch.distributed.rendezvous import rendezvous  # noqa: TID251

from pixmend.errors import PeerError, PixmendError, SettingsError, StoppedError

# A process that is gone is noticed at once, for its connections close; this is for a host that is.
_PATIENCE = timedelta(minutes=30)
_GLANCE = 0.05  # seconds from one look for a word to the next


@dataclass(frozen=True, eq=False)
class Group:
    """The processes that compute together; as it stands here, a group of one.

    Attributes
    ----------
    rank, world
        Which process of how many this is.
    local_rank, local_world
        The same among those on this host.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Return this process's device by the setting's name; of several GPUs, each process on a host has its own."""
        return choose_device(name)

    def shard(self, count: int) -> slice:
        """Return which of ``count`` things, a multiple of `world`, are this process's: a contiguous part."""
        each, rest = divmod(count, self.world)
        assert not rest, "checked where the count is chosen"
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the processes; it may be differentiated, any number of times."""
        return tensor

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes in place of each tensor, all in one exchange."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Put the first process's values in place of each tensor."""

    def any(self, wish: bool) -> bool:
        """Return whether any process has the wish."""
        return wish

    def broadcast_object(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Return the first process's value, a JSON one; the others wait for it as long as it takes."""
        return value

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the first process do a block before the others begin with it."""
        yield

    def __deepcopy__(self, memo: dict[int, Any]) -> "Group":
        # A module that belongs to a group may be copied; the group is still the same.
        return self


SINGLE_PROCESS = Group()


@contextlib.contextmanager
def open_group() -> Iterator[Group]:
    """Join the group that torchrun's environment variables tell of; without them, be a group of one.

    An error that a user can mend leaves one process with it; the others end quietly, with exit code 2, whether they met the same
    error or were only left alone by it.

    Raises
    ------
    SettingsError
        The variables are incomplete.
    PeerError
        Another process ended without a word.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SINGLE_PROCESS
        return
    group = _joined()
    try:
        yield group
        # The first process may still be writing, and torchrun ends all with the first that leaves.
        group.any(False)
    except BaseException as error:
        if not group.claims_the_word() and isinstance(error, PixmendError | StoppedError):
            raise SystemExit(2) from error
        raise
    finally:
        # gloo's threads must not outlive the interpreter. nccl's may wait for a process that is gone: it ends with this one.
        if dist.get_backend() == "gloo" or sys.exception() is None:
            dist.destroy_process_group()


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes a GPU when there is one.

    Raises
    ------
    SettingsError
        The device is not known, or not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {name!r} is not available here; try auto or cpu") from error
    return device


def describe_device(device: torch.device) -> str:
    """Return a device's name in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"{device.type} with {thread_count()} threads"


def thread_count() -> int:
    """Return how many CPU threads torch uses."""
    return torch.get_num_threads() or os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class _Joined(Group):
    """A group of several processes: tensors travel by gloo (CPU) or nccl (GPU), words by the store they met at."""

    store: Store | None = None

    def device(self, name: str) -> torch.device:
        """Return ``name``'s device; of GPUs, the one of this process's number on its host."""
        device = choose_device("cpu" if name == "auto" and not torch.cuda.is_available() else name)
        if device.type == "mps":
            raise SettingsError("device = mps: several processes train on CPUs or CUDA GPUs only")
        if device.type == "cuda":
            if ":" in name:
                raise SettingsError(f"device = {name}: each process takes its own; say cuda")
            if self.local_rank >= torch.cuda.device_count():
                raise SettingsError(
                    f"{self.local_world} processes on a host of {torch.cuda.device_count()} GPUs; "
                    f"start as many as GPUs (torchrun --nproc-per-node {torch.cuda.device_count()}), or set device=cpu"
                )
            device = torch.device("cuda", self.local_rank)
            torch.cuda.set_device(device)
        return device

    def mean(self, tensor: Tensor) -> Tensor:
        mean: Tensor = _Mean.apply(tensor, self)  # type: ignore[no-untyped-call]
        return mean

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self.sum_in_place(flat)
        parts = torch.split(flat.div_(self.world), [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad(), _while_all_are_there():
            for tensor in tensors:
                # A copy: what travels must lie in memory without gaps.
                sent = tensor.contiguous()
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)

    def any(self, wish: bool) -> bool:
        wishes = torch.tensor(int(wish))
        self.sum_in_place(wishes)
        return bool(wishes)

    def broadcast_object(self, value: Any) -> Any:  # noqa: ANN401
        # Every process counts its own calls, and all make the same ones.
        number = self._number()
        if self.is_main:
            with _while_all_are_there():
                self._words.set(f"told/{number}", json.dumps(value))
            return value
        return json.loads(self._heard(f"told/{number}"))

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        if not self.is_main:
            self.broadcast_object(None)
        yield
        if self.is_main:
            self.broadcast_object(None)

    def sum_in_place(self, tensor: Tensor) -> None:
        """Put the sum over the processes in the tensor's place."""
        with _while_all_are_there():
            dist.all_reduce(tensor)

    def claims_the_word(self) -> bool:
        """Whether this process is the first to fail, and so the one to say why."""
        try:
            return self._words.add("failures", 1) == 1
        except RuntimeError:  # the store was in a process that is gone
            return True

    @property
    def _words(self) -> Store:
        assert self.store is not None
        return self.store

    def _number(self) -> int:
        with _while_all_are_there():
            return self._words.add(f"calls/{self.rank}", 1)

    def _heard(self, key: str) -> bytes:
        """Wait for a word, which may take hours when the first process packs, but not beyond the end of the group."""
        with _while_all_are_there():
            while not self._words.check([key]):
                if self._words.add("failures", 0):
                    raise PeerError("another process of the group failed and says why")
                time.sleep(_GLANCE)  # the store's own wait warns each time it ends without the word
            return self._words.get(key)


class _Mean(torch.autograd.Function):
    """The mean over the processes. It is its own adjoint: each process's value has the same part in each one's mean."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: _Joined) -> Tensor:  # noqa: ANN401
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        group.sum_in_place(total)
        return total / group.world

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return ctx.group.mean(gradients[0]), None


def _joined() -> _Joined:
    # Imported by the first step of an optimiser, else, and then it keeps a group that is open for good.
    importlib.import_module("torch.distributed.nn")
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        meeting = rendezvous("env://", timeout=_PATIENCE)
        store, _, _ = next(meeting)
    except (KeyError, ValueError) as error:
        raise SettingsError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but of a group's other variables: {error}; "
            "start the processes with torchrun, or unset WORLD_SIZE"
        ) from error
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    with _while_all_are_there():
        # A script may train twice: what the first group left in the store is not for the second.
        store = PrefixStore(str(store.add(f"opened/{rank}", 1)), store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=PrefixStore("tensors", store),
            rank=rank,
            world_size=world,
            timeout=_PATIENCE,
        )
    return _Joined(rank, world, local_rank, local_world, PrefixStore("words", store))


@contextlib.contextmanager
def _while_all_are_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo, nccl and the store raise when a connection closes
        raise PeerError(
            "another process of the group ended, or cannot be reached; the last checkpoint is good: run the same command again"
        ) from error
