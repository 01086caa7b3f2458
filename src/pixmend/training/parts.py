"""A batch worked on in parts, as if it were one: gradient accumulation, with statistics of the whole batch.

A part is to this process what a process is to its group: it has its share of every batch, and means over the batch are means over the
parts. Where such a mean is asked for on the way forward (batch norm's statistics), no part can go on before all have come there. So each
part has a thread; they run one at a time, in order, each until it must wait for the others. Values do not depend on timing.

Two ways, by what the parts have to do with each other:

- *joint*: the losses of all parts are one graph, since each depends on means over the batch. One backward pass goes through it when all
  parts have come to their loss. Values and gradients are those of the whole batch, but for rounding. What the backward pass needs is
  kept for all parts; of a GPU's, it waits in the host's memory, so that the GPU holds a layer or two of the batch and not all of them.
- apart: a part has statistics of its own. Each goes back through its graph, and lets go of it, before the next begins.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

R = TypeVar("R")
V = TypeVar("V")

_LEAST_MOVED = 2**16  # numbers: smaller tensors are not worth the way to the host and back


class Parts:
    """The parts that a process works on its share of a batch in; all of them make the same calls, in the same order.

    Parameters
    ----------
    count
        How many.
    joint
        Whether they are one graph (see above).
    """

    def __init__(self, count: int = 1, *, joint: bool = False) -> None:
        self.count, self.joint = count, joint and count > 1
        self._here = threading.local()
        self._turns: list[threading.Semaphore] = []
        self._brought: list[Any] = []
        self._made: Any = None
        self._failed: BaseException | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the first part, which does what is to be done once."""
        return self._number == 0

    def run(self, turn: Callable[[int], R], device: torch.device) -> list[R]:
        """Return what ``turn`` returns for each part, given its number.

        An error in one part ends the others, and is raised.
        """
        if self.count == 1:
            return [turn(0)]
        self._failed, self._brought = None, []
        self._turns = [threading.Semaphore(0) for _ in range(self.count)]
        # Threads of this step alone: autograd numbers what a thread records, and sums gradients in that order.
        with ThreadPoolExecutor(self.count, thread_name_prefix="pixmend-part") as threads:
            running = [threads.submit(self._turn, turn, n, device) for n in range(self.count)]
            self._turns[0].release()
        if self._failed is not None:
            raise self._failed
        return [each.result() for each in running]

    def together(self, value: V, act: Callable[[Sequence[V]], R]) -> R:
        """Return what ``act`` makes, once, of the values that the parts bring; in order of the parts."""
        if self.count == 1:
            return act([value])
        number = self._number
        self._brought.append(value)
        if number == self.count - 1:
            brought, self._brought = self._brought, []
            self._made = act(brought)
        self._next(number)
        self._wait(number)
        return cast("R", self._made)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the parts; it may be differentiated, any number of times."""
        if self.count == 1:
            return tensor
        return self.together(tensor, lambda parts: torch.stack(list(parts)).mean(0))

    def gradient(self, sums: Tensor, images: Tensor) -> Tensor:
        """Return the gradient of the sum over the parts of ``sums`` by this part's ``images``; it can be differentiated again."""
        if not self.joint:
            (gradient,) = torch.autograd.grad(sums, images, create_graph=True)
            return gradient

        def of_all(brought: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
            total = torch.stack([each for each, _ in brought]).sum()
            return torch.autograd.grad(total, [each for _, each in brought], create_graph=True)

        return self.together((sums, images), of_all)[self._number]

    def backward(self, total: Tensor) -> None:
        """Add to the gradients of the weights those of the mean over the parts of ``total``, each the mean over its part."""
        if not self.joint:
            (total / self.count if self.count > 1 else total).backward()  # type: ignore[no-untyped-call]
            return

        def back(totals: Sequence[Tensor]) -> None:
            torch.stack(list(totals)).mean().backward()  # type: ignore[no-untyped-call]

        self.together(total, back)

    @property
    def _number(self) -> int:
        # Outside of `run` only a batch that is whole has a part, so that nothing waits for parts that never come.
        number: int = 0 if self.count == 1 else self._here.number
        return number

    def __deepcopy__(self, memo: dict[int, Any]) -> "Parts":
        # As with a group: a network that belongs to parts may be copied.
        return self

    def _turn(self, turn: Callable[[int], R], number: int, device: torch.device) -> R:
        self._here.number = number
        try:
            self._wait(number)
            with _on(device), self._kept(device):
                return turn(number)
        except _Abandoned:
            raise
        except BaseException as error:
            self._failed = error
            raise
        finally:
            self._next(number)

    def _next(self, number: int) -> None:
        self._turns[(number + 1) % self.count].release()

    def _wait(self, number: int) -> None:
        self._turns[number].acquire()
        if self._failed is not None:
            raise _Abandoned

    def _kept(self, device: torch.device) -> AbstractContextManager[Any]:
        """Where what the backward pass needs is kept meanwhile."""
        if not self.joint or device.type != "cuda":
            return nullcontext()
        return torch.autograd.graph.saved_tensors_hooks(_to_host, _back)


class _Abandoned(Exception):  # noqa: N818 - no error, the end of a part whose mate met one
    """Another part failed."""


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _to_host(tensor: Tensor) -> tuple[torch.device, Tensor]:
    # Weights are on the device anyway.
    stays = tensor.numel() < _LEAST_MOVED or (tensor.is_leaf and tensor.requires_grad)
    return tensor.device, tensor if stays else tensor.cpu()


def _back(held: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = held
    return tensor.to(device)


WHOLE = Parts()
