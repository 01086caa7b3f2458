"""What keeps D smooth: a penalty on its gradient at real images, and a bound on each layer's largest gain."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pixmend.models import DCGANSettings, Discriminator
from pixmend.rng import generator_for

_FIRST_ITERATIONS = 15  # before the first step, so that it starts near the true norm


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return ||grad_x D(x)||^2 per image, [B], of logits [B] and the images [B, C, H, W] they were computed from.

    Half of gamma times its mean over real images is R1 (Mescheder 2018, equation 9). It can be differentiated again. Batch norm in D
    lets an image's logit depend on its batch mates, so the gradient is that of the sum of the logits.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def normalise_spectrally(discriminator: Discriminator, *, seed: int) -> None:
    """Make every layer of D use W / sigma(W) in place of its weight W (Miyato 2018, equation 8); W is what is trained."""
    for name, layer, weight in _layers(discriminator):
        part = _SpectralNorm(weight, generator_for(seed, "spectral", name))
        parametrize.register_parametrization(layer, "weight", part)
    for _ in range(_FIRST_ITERATIONS):
        iterate_powers(discriminator)


def iterate_powers(discriminator: Discriminator) -> None:
    """Take one power iteration for every layer that is normalised (Miyato 2018, Algorithm 1, step 1)."""
    for _, _, part, weight in _normalised(discriminator):
        part.iterate(weight)


def plain(discriminator: Discriminator, settings: DCGANSettings) -> Discriminator:
    """Return a D of ordinary weights, W / sigma(W) where they are normalised, that gives the same logits: what is exported."""
    weights = discriminator.state_dict()
    for name, layer, _, _ in _normalised(discriminator):
        for held in [key for key in weights if key.startswith(f"{name}.parametrizations.")]:
            del weights[held]
        weights[f"{name}.weight"] = cast("Tensor", layer.weight).detach()
    # A new one: the parametrised layers of a copy would share their class with the original's.
    ordinary = Discriminator(settings)
    ordinary.load_state_dict(weights)
    return ordinary


class _SpectralNorm(nn.Module):
    """W -> W / sigma(W), where sigma = u^T W v and u, v follow W's leading singular vectors by power iteration.

    W is seen as a matrix [out, in * k * k] (Miyato 2018, section 2.1). u and v are buffers, so a checkpoint holds them.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        for name, count in zip("uv", matrix.shape, strict=True):
            start = torch.randn(count, generator=generator).to(matrix)
            self.register_buffer(name, F.normalize(start, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        # In full precision, whatever the layer's own is.
        with torch.autocast(weight.device.type, enabled=False):
            return weight / (self.u @ (weight.flatten(1) @ self.v))

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        matrix = weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))


def _layers(discriminator: Discriminator) -> list[tuple[str, nn.Module, Tensor]]:
    """Return name, layer and weight where that is a matrix or a kernel; the gains of batch norms are neither."""
    found = []
    for name, layer in discriminator.named_modules():
        weight = layer._parameters.get("weight")
        if weight is not None and weight.ndim > 1:
            found.append((name, layer, weight))
    return found


def _normalised(
    discriminator: Discriminator,
) -> list[tuple[str, nn.Module, _SpectralNorm, Tensor]]:
    """Return name and layer where one is normalised, what normalises it, and the weight that is trained."""
    found = []
    for name, layer in discriminator.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            held = layer.get_submodule("parametrizations.weight")
            assert isinstance(held, parametrize.ParametrizationList)
            part = held[0]
            assert isinstance(part, _SpectralNorm)
            found.append((name, layer, part, held.original))
    return found
