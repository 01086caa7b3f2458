"""What keeps the networks of several processes equal: equal starts, and batch statistics over the whole batch.

All is applied from outside: the networks and the steps do not know how many processes there are.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pixmend.distributed import Group


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the (micro-)batches of all processes of a group, as if they were one (Ioffe 2015, Algorithm 1).

    In training mode mean and variance are exchanged, and the gradients that flow back through them; it may be differentiated
    twice. Weights and running statistics are those of the layer whose place it takes. All must hold equally many values.
    """

    def __init__(self, norm: nn.BatchNorm2d, group: Group) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)
        self.group = group

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, C, H, W], each channel normalised, scaled and shifted."""
        if not self.training:
            return super().forward(maps)
        exact = maps.to(torch.promote_types(maps.dtype, torch.float32))
        variance, mean = torch.var_mean(exact, (0, 2, 3), correction=0)  # [C] each, of this process
        # E x and E x^2 of all processes in one exchange; in float64, where E x^2 - (E x)^2 loses nothing.
        mean, variance = mean.double(), variance.double()
        mean, square = self.group.mean(torch.stack([mean, variance + mean**2]))
        variance = square - mean**2
        self._remember(mean, variance, maps.numel() // self.num_features * self.group.world)
        scale = self.weight * torch.rsqrt(variance + self.eps).to(exact.dtype)
        shift = self.bias - mean.to(exact.dtype) * scale
        normal = torch.addcmul(shift.view(1, -1, 1, 1), exact, scale.view(1, -1, 1, 1))
        return normal.to(maps.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; as torch's own layer does, with the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        unbiased = variance * count / (count - 1)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)


def synchronise_statistics(network: nn.Module, group: Group) -> None:
    """Put synchronised layers in the place of all batch norms of a network."""
    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, SynchronisedBatchNorm2d(child, group))


def start_alike(networks: Iterable[nn.Module], group: Group, *, synchronised: bool) -> None:
    """Give all processes the first one's weights and statistics, and the batch norms, if ``synchronised``, all of the batch."""
    for network in networks:
        # Equal seeds give equal weights on equal machines; a group need not be of equal machines.
        group.broadcast([*network.parameters(), *network.buffers()])
        # A whole batch in one place keeps torch's own layer, which is faster and rounds as it always did.
        if synchronised and group.world > 1:
            synchronise_statistics(network, group)
