"""A player's update with a loss or a gradient that is not finite is left out, and leaves no trace.

Whether it is left out is decided on the device, from one norm over all gradients, so that the host need not wait for it: it
learns of it from the loss that it fetches anyway.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pixmend.distributed import SINGLE_PROCESS, Group


@torch.no_grad()
def update_if_finite(
    loss: Tensor, *optimisers: torch.optim.Adam, group: Group = SINGLE_PROCESS
) -> Tensor:
    """Take the ``optimisers``' steps if loss [B] and all gradients are finite; return the loss, NaN where the steps were left out.

    In a group, loss and gradients are those of each process's share of the batch. All processes take the step of the mean gradient,
    or leave it out where one of them has a value that is not finite.

    The optimisers are fused ones: they read ``found_inf`` on the device, and then change neither weights nor moments nor counts.
    """
    gradients = [
        weight.grad
        for optimiser in optimisers
        for group in optimiser.param_groups
        for weight in group["params"]
        if weight.grad is not None
    ]
    total = loss.detach().sum()
    # One exchange: what is not finite in one process is then so in all, and all decide alike.
    group.all_reduce_mean([*gradients, total])
    norm = torch.nn.utils.get_total_norm(gradients)
    left_out = ~torch.isfinite(norm + total)
    for optimiser in optimisers:
        optimiser.found_inf = left_out.to(torch.float32)  # type: ignore[attr-defined]
        optimiser.step()
    return loss.detach().masked_fill(left_out, torch.nan)


class Statistics:
    """The buffers of some networks (batch norm's running statistics), to be put back when a step is left out.

    In training mode no pass reads them, but each writes them, also one that is not finite, and NaN would stay in them for ever.
    """

    def __init__(self, *networks: nn.Module) -> None:
        self._live = [buffer for network in networks for buffer in network.buffers()]
        self._kept = [buffer.clone() for buffer in self._live]

    def keep(self) -> None:
        """Remember them as they are now."""
        torch._foreach_copy_(self._kept, self._live)

    def put_back(self) -> None:
        """Make them what they were when `keep` was called."""
        torch._foreach_copy_(self._live, self._kept)


def is_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity."""
    return all(
        bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point()
    )
