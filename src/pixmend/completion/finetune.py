"""Fine-tuning G's first layer on the known pixels of one image, after a search.

A tenth of the known pixels is hidden from the fit, and the iterate that draws those best is kept (early stopping).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixmend.completion.objective import Losses, Objective
from pixmend.completion.solvers import adam
from pixmend.models import DCGANSettings
from pixmend.rng import generator_for

_HIDDEN = 0.1  # share of the known pixels
_BALL = 0.3  # root mean square of the offset of maps that batch norm has scaled to about 1
_RATE = 0.05


def hide(known: Tensor, *, seed: int, label: str = "hidden") -> tuple[Tensor, Tensor]:
    """Split the known share [B, 1, S, S] into a visible part and a hidden tenth, the same pixels in all images."""
    chance = torch.rand(known.shape[-2:], generator=generator_for(seed, label)).to(known.device)
    hidden = known * (chance < _HIDDEN)
    return known - hidden, hidden


def finetuned_first_layer(
    objective: Objective,
    z: Tensor,
    settings: DCGANSettings,
    *,
    steps: int,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Return images [B, C, S, S] of G at z [B, latent_dim], its first layer's maps offset to fit the known pixels better.

    Intermediate layer optimisation (Daras et al. 2021, section 3), in a ball around the layer's maps at z. A later layer could
    fit the known pixels and leave the hole unchanged, or worse.
    ``should_stop`` is asked before every step; on True, the best so far is returned.
    """
    seen, hidden = hide(objective.known, seed=seed)
    shares = seen / objective.known.clamp_min(1e-6)
    inner = _FirstLayer(replace(objective, weights=objective.weights * shares), z, settings)
    offset = z.new_zeros(len(z), math.prod(inner.shape))
    with torch.no_grad():
        images = objective.draw(z)
    least = _error(images, objective.target, hidden)
    for state in adam(inner, offset, steps=steps, learning_rate=_RATE, projection=_ball):
        if should_stop():
            break
        with torch.no_grad():
            generated = inner.draw(state.z)
        error = _error(generated, objective.target, hidden)
        better = error < least
        images = torch.where(better[:, None, None, None], generated, images)
        least = torch.where(better, error, least)
    return images


@dataclass(frozen=True)
class _FirstLayer:
    """The objective of the first layer's offset in place of z: [B, widest * start * start]."""

    objective: Objective
    z: Tensor
    settings: DCGANSettings

    @property
    def shape(self) -> tuple[int, int, int]:
        start = self.settings.start
        return self.settings.widths(self.settings.filters)[0], start, start

    def __call__(self, z: Tensor) -> Losses:
        return self.objective.of_images(self.draw(z), self.z)

    def draw(self, offset: Tensor) -> Tensor:
        """Return images [B, C, S, S]."""
        images: Tensor = self.objective.generator(self.z, offset.view(-1, *self.shape))
        return images

    def take(self, rows: Tensor) -> "_FirstLayer":
        return replace(self, objective=self.objective.take(rows), z=self.z[rows])


def _ball(z: Tensor) -> Tensor:
    length = z.square().mean(1, keepdim=True).sqrt()
    return z * (_BALL / length.clamp_min(_BALL))


def _error(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of |images - target|, [B]; 0 where nothing has weight."""
    share = weights.flatten(1).sum(1) * target.shape[1]
    return (weights * (images - target).abs()).flatten(1).sum(1) / share.clamp_min(1e-6)
