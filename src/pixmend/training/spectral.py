"""Spectral normalisation: each layer of D uses W / sigma(W) (Miyato 2018)."""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pixmend.models import DCGANSettings, Discriminator
from pixmend.rng import generator_for

_INITIAL_ITERATIONS = 15  # so that the first step starts near the true norm


def normalise_spectrally(discriminator: Discriminator, *, seed: int) -> None:
    """Let every layer of D use W / sigma(W) (Miyato 2018, equation 8); W stays the parameter."""
    for name, layer in list(discriminator.named_modules()):
        weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.ndim > 1:  # a matrix or kernel, no gain of a batch norm
            norm = _SpectralNorm(weight, generator_for(seed, "spectral", name))
            parametrize.register_parametrization(layer, "weight", norm)
    for _ in range(_INITIAL_ITERATIONS):
        iterate_powers(discriminator)


def iterate_powers(discriminator: Discriminator) -> None:
    """Take one power iteration for every normalised layer (Miyato 2018, Algorithm 1, step 1)."""
    for _, _, norm, weight in _normalised_layers(discriminator):
        norm.iterate(weight)


def plain_discriminator(discriminator: Discriminator, settings: DCGANSettings) -> Discriminator:
    """Return a D of plain weights with the same logits, for export."""
    weights = discriminator.state_dict()
    for name, layer, _, _ in _normalised_layers(discriminator):
        for key in [key for key in weights if key.startswith(f"{name}.parametrizations.")]:
            del weights[key]
        weights[f"{name}.weight"] = cast("Tensor", layer.weight).detach()
    # A new one: the parametrised layers of a copy would share their class with the original's.
    plain = Discriminator(settings)
    plain.load_state_dict(weights)
    return plain


class _SpectralNorm(nn.Module):
    """W [out, in * k * k] -> W / sigma(W), sigma = u^T W v, of W's leading singular vectors u, v."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        for name, count in zip("uv", matrix.shape, strict=True):
            start = torch.randn(count, generator=generator).to(matrix)
            self.register_buffer(name, F.normalize(start, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # full precision always
            return weight / (self.u @ (weight.flatten(1) @ self.v))

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        matrix = weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))


def _normalised_layers(
    discriminator: Discriminator,
) -> Iterator[tuple[str, nn.Module, _SpectralNorm, Tensor]]:
    """Yield name, layer, its norm and its parameter W for every normalised layer."""
    for name, layer in discriminator.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrizations = layer.get_submodule("parametrizations.weight")
            assert isinstance(parametrizations, parametrize.ParametrizationList)
            norm = parametrizations[0]
            assert isinstance(norm, _SpectralNorm)
            yield name, layer, norm, parametrizations.original
