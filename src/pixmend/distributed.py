"""Devices, and the group of processes that compute together.

A group always exists: a single process is a group of one, whose operations do nothing. torchrun
starts larger groups; all their processes then call the same operations in the same order. Only this
module communicates between them.
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
import torch.distributed as dist  # noqa: TID251 - only here
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store  # noqa: TID251
from torch.distributed.rendezvous import rendezvous  # noqa: TID251

from pixmend.errors import PeerError, PixmendError, SettingsError, StoppedError

# A dead process is noticed at once by its closed connections; this is for a dead host.
_TIMEOUT = timedelta(minutes=30)
_POLL_SECONDS = 0.05


@dataclass(frozen=True, eq=False)
class Group:
    """The processes that compute together; without a ``store``, operations do nothing."""

    rank: int = 0  # number of this process
    world: int = 1  # number of processes
    local_rank: int = 0  # the same on this host
    local_world: int = 1
    store: Store | None = None  # of JSON values; tensors go by gloo (CPU) or nccl (GPU)

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and messages."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Return this process's device for a setting; each process on a host has its own GPU."""
        alone = self.store is None
        if not alone and name == "auto" and not torch.cuda.is_available():
            name = "cpu"
        device = choose_device(name)
        if alone or device.type == "cpu":
            return device
        if device.type == "mps":
            raise SettingsError("device = mps: several processes train on CPUs or CUDA GPUs only")
        if device.type == "cuda":
            if ":" in name:
                raise SettingsError(f"device = {name}: each process takes its own; say cuda")
            count = torch.cuda.device_count()
            if self.local_rank >= count:
                raise SettingsError(
                    f"{self.local_world} processes on a host of {count} GPUs; start as many as "
                    f"GPUs (torchrun --nproc-per-node {count}), or set device=cpu"
                )
            device = torch.device("cuda", self.local_rank)
            torch.cuda.set_device(device)
        return device

    def shard(self, count: int) -> slice:
        """Return this process's contiguous share of ``count`` items, a multiple of `world`."""
        each, rest = divmod(count, self.world)
        assert not rest, "checked where the count is chosen"
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the processes; differentiable any number of times."""
        mean: Tensor = tensor
        if self.store is not None:
            mean = _Mean.apply(tensor, self)  # type: ignore[no-untyped-call]
        return mean

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, all in one exchange."""
        if self.store is None:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self.sum_in_place(flat)
        parts = torch.split(flat.div_(self.world), [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the main process's values."""
        with torch.no_grad(), _peer_errors():
            for tensor in tensors if self.store is not None else ():
                contiguous = tensor.contiguous()  # as the backends require
                dist.broadcast(contiguous, src=0)
                tensor.copy_(contiguous)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        flags = torch.tensor(int(flag))
        self.sum_in_place(flags)
        return bool(flags)

    def broadcast_object(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Return the main process's JSON value; the others wait for it without limit."""
        if self.store is None:
            return value
        with _peer_errors():
            # Every process counts its own calls, and all make the same ones.
            key = f"objects/{self.store.add(f'calls/{self.rank}', 1)}"
            if self.is_main:
                self.store.set(key, json.dumps(value))
                return value
            # Hours, if the main process packs, but not beyond the end of the group.
            while not self.store.check([key]):
                if self.store.add("failures", 0):
                    raise PeerError("another process of the group failed and reports the error")
                time.sleep(_POLL_SECONDS)  # the store's own wait warns at each timeout
            return json.loads(self.store.get(key))

    def sum_in_place(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes."""
        if self.store is not None:
            with _peer_errors():
                dist.all_reduce(tensor)

    def is_first_to_fail(self) -> bool:
        """Return whether this process is the first to fail, which reports the error."""
        try:
            return self.store is None or self.store.add("failures", 1) == 1
        except RuntimeError:  # the store was in a dead process
            return True

    def __deepcopy__(self, memo: dict[int, Any]) -> "Group":
        # Copies of a module belong to the same group.
        return self


SINGLE_PROCESS = Group()


@contextlib.contextmanager
def open_group() -> Iterator[Group]:
    """Join the group of torchrun's environment variables; without them, be a group of one.

    Only one process raises a user error; the others exit quietly with code 2. SettingsError: the
    variables are incomplete. PeerError: another process ended without an error.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SINGLE_PROCESS
        return
    group = _join()
    try:
        yield group
        # The main process may still be writing, and torchrun ends all processes with the first that
        # exits.
        group.any(False)
    except BaseException as error:
        if not group.is_first_to_fail() and isinstance(error, PixmendError | StoppedError):
            raise SystemExit(2) from error
        raise
    finally:
        # gloo's threads must not outlive the interpreter. nccl may wait for a dead process: it ends
        # with this one.
        if dist.get_backend() == "gloo" or sys.exception() is None:
            dist.destroy_process_group()


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device; ``auto`` prefers a GPU. SettingsError if it is not available."""
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
    return f"{device.type} with {torch.get_num_threads()} threads"


class _Mean(torch.autograd.Function):
    """The mean over the processes; its own adjoint, as all values have equal weights."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:  # noqa: ANN401
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        group.sum_in_place(total)
        return total / group.world

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return ctx.group.mean(gradients[0]), None


def _join() -> Group:
    # Otherwise an optimiser's first step imports it, and then it keeps an open group alive.
    importlib.import_module("torch.distributed.nn")
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        store, _, _ = next(rendezvous("env://", timeout=_TIMEOUT))
    except (KeyError, ValueError) as error:
        raise SettingsError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but of a group's other variables: {error}; "
            "start the processes with torchrun, or unset WORLD_SIZE"
        ) from error
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    with _peer_errors():
        # A script may train twice: the second group must not see the first one's values.
        store = PrefixStore(str(store.add(f"opened/{rank}", 1)), store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=PrefixStore("tensors", store),
            rank=rank,
            world_size=world,
            timeout=_TIMEOUT,
        )
    objects = PrefixStore("objects", store)
    return Group(rank, world, local_rank, local_world, store=objects)


@contextlib.contextmanager
def _peer_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerError(
            "another process of the group ended, or cannot be reached; "
            "the last checkpoint is good: run the same command again"
        ) from error
