"""Refining: what is fixed while z is searched is freed a little, for one image and on nothing but its known pixels.

With an encoder, its weights (`tuned_encoder`); without, the maps of G's first layer (`inner_layer`). Both hide a tenth of what is known
from the fit and keep the iterate at which those pixels are drawn best, so that it ends before it has learned them by heart.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixmend.completion.objective import Losses, Objective
from pixmend.completion.search import adam
from pixmend.models import DCGAN, Condition, DCGANSettings, Encoder
from pixmend.rng import generator_for

_HIDDEN = 0.1  # share of the known pixels
_BALL = 0.3  # root mean square of what is added to maps that batch norm has brought to about 1
_TOGETHER = 8  # maskings of an image that one step of tuning looks at
_TUNING_RATE, _INNER_RATE = 3e-4, 0.05


def hide(known: Tensor, *, seed: int, label: str = "hidden") -> tuple[Tensor, Tensor]:
    """Part what is known, [B, 1, S, S], into what may still be seen and a tenth that is hidden; the same pixels in all images."""
    chance = torch.rand(known.shape[-2:], generator=generator_for(seed, label)).to(known.device)
    hidden = known * (chance < _HIDDEN)
    return known - hidden, hidden


def tuned_encoder(
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    *,
    steps: int,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Encoder:
    """Return a copy of E after a short training on one image: more of what is known is hidden from it, and it has to draw that.

    A network is fitted to the image at hand, on a copy, as G is by Roich et al. 2021 (PTI, section 3.2) and Hussein et al. 2020 (IAGAN);
    but the loss counts what was hidden, as in training, and G stays as it is. Hidden are the hole's shape moved about and, where
    that leaves too little, blocks.

    Parameters
    ----------
    target, known
        Of one image, [1, C, S, S] in [-1, 1] and [1, 1, S, S].
    should_stop
        Asked before every step; once it says yes, the best so far is returned.
    """
    assert model.encoder is not None
    encoder = copy.deepcopy(model.encoder).requires_grad_(
        True
    )  # in evaluation mode: statistics stay
    tuned = replace(model, encoder=encoder)
    seen, hidden = hide(known, seed=seed)
    if not bool(hidden.any()):
        return model.encoder
    neighbours = _neighbours(model, target, seen)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=_TUNING_RATE)
    least, best = _misdrawn(tuned, target, seen, hidden, neighbours), model.encoder
    for masks in _maskings(seen, steps, seed):
        if should_stop():
            break
        loss = _missed(tuned, target, seen, masks, neighbours)
        optimizer.zero_grad()
        with torch.enable_grad():
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        error = _misdrawn(tuned, target, seen, hidden, neighbours)
        if error < least:
            least, best = error, copy.deepcopy(encoder).requires_grad_(False)
    return best


def inner_layer(
    objective: Objective,
    z: Tensor,
    settings: DCGANSettings,
    *,
    steps: int,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Return images [B, C, S, S] of G at z with something added to the maps of its first layer, which fit what is known better.

    Intermediate layer optimisation (Daras et al. 2021, section 3), in a ball around what z makes of the layer. Only the first: a few
    numbers at every place of a later one can draw the known pixels and leave the hole as it was, or worse.

    Parameters
    ----------
    objective
        Of a G that is told nothing of the image.
    z
        [B, latent_dim].
    should_stop
        Asked before every step; once it says yes, the best so far is returned.
    """
    seen, hidden = hide(objective.known, seed=seed)
    shares = seen / objective.known.clamp_min(1e-6)
    inner = _Inner(replace(objective, weights=objective.weights * shares), z, settings)
    offset = z.new_zeros(len(z), inner.shape[0] * inner.shape[1] ** 2)
    with torch.no_grad():
        images = objective.draw(z)
    least = _error(images, objective.target, hidden)
    for state in adam(inner, offset, steps=steps, learning_rate=_INNER_RATE, projection=_ball):
        if should_stop():
            break
        with torch.no_grad():
            drawn = inner.draw(state.z)
        error = _error(drawn, objective.target, hidden)
        better = error < least
        images = torch.where(better[:, None, None, None], drawn, images)
        least = torch.where(better, error, least)
    return images


@dataclass(frozen=True)
class _Inner:
    """The objective of what is added to the first maps, in the place of z: [B, widest * start * start]."""

    objective: Objective
    z: Tensor
    settings: DCGANSettings

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and side of the first maps."""
        return self.settings.widths(self.settings.filters)[0], self.settings.start

    def __call__(self, z: Tensor) -> Losses:
        return self.objective.of_images(self.draw(z), self.z)

    def draw(self, offset: Tensor) -> Tensor:
        """Return images [B, C, S, S]."""
        count, (_, side) = len(offset), self.shape
        narrower = self.settings.widths(self.settings.filters)[1:]
        maps = [offset.view(count, -1, side, side)]
        for depth, width in enumerate(narrower, 1):
            maps.append(offset.new_zeros(count, width, side * 2**depth, side * 2**depth))
        condition = Condition(maps, torch.zeros_like(self.objective.target))
        return replace(self.objective, condition=condition).draw(self.z)

    def take(self, rows: Tensor) -> "_Inner":
        """Return the function of the rows numbered ``rows`` [N]."""
        return replace(self, objective=self.objective.take(rows), z=self.z[rows])


def _ball(z: Tensor, step: int) -> Tensor:
    del step
    length = z.square().mean(1, keepdim=True).sqrt()
    return z * (_BALL / length.clamp_min(_BALL))


def _error(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of |images - target|, [B]; 0 where nothing has weight."""
    share = weights.flatten(1).sum(1) * target.shape[1]
    return (weights * (images - target).abs()).flatten(1).sum(1) / share.clamp_min(1e-6)


def _neighbours(model: DCGAN, target: Tensor, seen: Tensor) -> Tensor | None:
    """Return training images for `_TOGETHER` maskings to lean on, the nearest four by turns."""
    if model.retrieval is None:
        return None
    count = min(4, len(model.retrieval))
    nearest = model.retrieval.nearest(target, seen, count)[0]
    return model.retrieval.take(nearest[torch.arange(_TOGETHER, device=nearest.device) % count])


@torch.no_grad()
def _misdrawn(
    model: DCGAN, target: Tensor, seen: Tensor, hidden: Tensor, neighbours: Tensor | None
) -> float:
    """Return the mean error at the hidden pixels, which nothing has seen."""
    assert model.encoder is not None
    rows = _TOGETHER if neighbours is not None else 1
    one = target.expand(rows, -1, -1, -1)
    encoding = model.encoder(one, seen.expand(rows, -1, -1, -1), neighbours)
    images = model.generator(encoding.mean, encoding.condition)
    return float(_error(images, one, hidden).mean())


def _missed(
    model: DCGAN, target: Tensor, seen: Tensor, masks: Tensor, neighbours: Tensor | None
) -> Tensor:
    """Return the loss of one step: L1 of what G draws and squared error of E's estimate, a tenth of it on what E was shown."""
    assert model.encoder is not None
    one = target.expand(len(masks), -1, -1, -1)
    with torch.enable_grad():
        encoding = model.encoder(one, masks, neighbours)
        images = model.generator(encoding.mean, encoding.condition)
        weights = seen - 0.9 * masks
        gaps = (images - target).abs()
        if encoding.pixel_posterior is not None:
            gaps = gaps + 0.5 * (encoding.pixel_posterior.mean - target).square()
        loss: Tensor = (weights * gaps).sum() / weights.sum()
    return loss


def _maskings(seen: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield for each step what E is shown of the image, [_TOGETHER, 1, S, S]: each time without a hole like the image's elsewhere."""
    generator = generator_for(seed, "tuning")
    side = seen.shape[-1]
    hole = 1 - seen
    for _ in range(steps):
        masks = []
        for _ in range(_TOGETHER):
            down, right = torch.randint(side, (2,), generator=generator).tolist()
            shown = seen * (1 - torch.roll(hole, (down, right), (2, 3)))
            blocks = torch.rand(1, 1, side // 4, side // 4, generator=generator) < 0.3
            if shown.sum() < 0.4 * seen.sum():
                large = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3).to(seen)
                shown = seen * (1 - large)
            masks.append(shown)
        yield torch.cat(masks)
