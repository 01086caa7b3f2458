"""One run by several processes: equal networks, and batches shared without remainder.

A batch's images and latents do not depend on the number of processes; batch norm and gradients are
over the whole batch. So the number of processes changes a run by rounding only, even between two
sessions of a run.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pixmend.distributed import Group
from pixmend.errors import InputError, SettingsError
from pixmend.records import Records
from pixmend.training.settings import TrainSettings


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the (micro-)batches of all processes of a group (Ioffe 2015, Algorithm 1).

    Mean and variance are exchanged in training mode, twice differentiable, over equally many
    values.
    """

    def __init__(self, norm: nn.BatchNorm2d, group: Group) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)
        self.group = group

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps [B, C, H, W] per channel."""
        if not self.training:
            return super().forward(maps)
        exact = maps.to(torch.promote_types(maps.dtype, torch.float32))
        variance, mean = torch.var_mean(exact, (0, 2, 3), correction=0)  # [C] each, of this process
        # E x and E x^2 in one exchange; in float64, where E x^2 - (E x)^2 loses nothing.
        mean, variance = mean.double(), variance.double()
        mean, square = self.group.mean(torch.stack([mean, variance + mean**2]))
        variance = square - mean**2
        count = maps.numel() // self.num_features * self.group.world
        assert self.momentum is not None
        with torch.no_grad():
            unbiased = variance * count / (count - 1)
            for name, value in (("running_mean", mean), ("running_var", unbiased)):
                running = self.get_buffer(name)
                running.lerp_(value.to(running), self.momentum)
            self.get_buffer("num_batches_tracked").add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps).to(exact.dtype)
        shift = self.bias - mean.to(exact.dtype) * scale
        normal = torch.addcmul(shift.view(1, -1, 1, 1), exact, scale.view(1, -1, 1, 1))
        return normal.to(maps.dtype)


def synchronise_batchnorm(network: nn.Module, group: Group) -> None:
    """Replace all batch norms of a network by synchronised ones."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SynchronisedBatchNorm2d(child, group))


def replicate(networks: Iterable[nn.Module], group: Group, *, sync_batchnorm: bool) -> None:
    """Give all processes the main process's weights and, if asked, synchronised batch norms."""
    for network in networks:
        # Equal seeds give equal weights on equal machines only.
        group.broadcast([*network.parameters(), *network.buffers()])
        # A single process keeps torch's own layer, which is faster.
        if sync_batchnorm and group.world > 1:
            synchronise_batchnorm(network, group)


def check_shares(settings: TrainSettings, records: Records, group: Group) -> None:
    """Check that the processes see the same images and can share batches without remainder."""
    shares = group.world * settings.gradient_accumulation
    batches = {"batch_size": settings.batch_size}
    if settings.inpainter_filters:
        batches["inpainter_batch"] = settings.inpainter_batch
    for name, count in batches.items():
        if count % shares:
            raise SettingsError(
                f"{name} = {count}: not divisible by {shares} (processes x gradient_accumulation); "
                f"set {name}={count - count % shares or shares}"
            )
    if group.broadcast_object([records.digest, len(records)]) != [records.digest, len(records)]:
        raise InputError(
            f"{records.path}: process {group.rank} sees other images than the main process; "
            "give all hosts the same records"
        )


def shares_warning(before: Sequence[int], settings: TrainSettings, group: Group) -> str:
    """Return the warning of a run that resumes with other processes and micro-batches, or ""."""
    now = [group.world, settings.gradient_accumulation]
    if list(before) == now:
        return ""
    change = (
        f"this run was trained with {before[0]} processes x {before[1]} micro-batches "
        f"and resumes with {now[0]} x {now[1]}: "
    )
    # Processes may synchronise their statistics; micro-batches have their own.
    pieces = [pair[1] if settings.sync_batchnorm else math.prod(pair) for pair in (before, now)]
    size, new_size = (settings.batch_size // count for count in pieces)
    if size == new_size:
        return change + "same images and draws, but sums round differently"
    return change + f"batch norm statistics are now over {new_size} images instead of {size}"
