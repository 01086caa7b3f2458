"""Fine-tuning on the known pixels of one image: of its encoder, or without one of the maps of G's first layer.

Both hide a tenth of the known pixels from the fit, and keep the iterate that draws those best (early stopping).
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixmend.completion.objective import Losses, Objective
from pixmend.completion.solvers import adam
from pixmend.models import DCGAN, Condition, DCGANSettings, Encoder
from pixmend.rng import generator_for

_HIDDEN = 0.1  # share of the known pixels
_BALL = 0.3  # root mean square of the offset of maps that batch norm has scaled to about 1
_MASKINGS = 8  # of the image in one step of fine-tuning
_ENCODER_RATE, _LAYER_RATE = 3e-4, 0.05


def hide(known: Tensor, *, seed: int, label: str = "hidden") -> tuple[Tensor, Tensor]:
    """Split the known share [B, 1, S, S] into a visible part and a hidden tenth, the same pixels in all images."""
    chance = torch.rand(known.shape[-2:], generator=generator_for(seed, label)).to(known.device)
    hidden = known * (chance < _HIDDEN)
    return known - hidden, hidden


def finetuned_encoder(
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    *,
    steps: int,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Encoder:
    """Return a copy of E trained briefly to draw further hidden pixels of one image.

    As PTI (Roich et al. 2021, section 3.2) and IAGAN (Hussein et al. 2020) fit G to an image, but G stays fixed and the loss counts
    hidden pixels, as in training. Hidden are shifted copies of the hole or, where they leave too little, blocks.

    Parameters
    ----------
    target, known
        One image, [1, C, S, S] in [-1, 1] and [1, 1, S, S].
    should_stop
        Asked before every step; on True, the best so far is returned.
    """
    assert model.encoder is not None
    # In evaluation mode: batch norm keeps its statistics.
    encoder = copy.deepcopy(model.encoder).requires_grad_(True)
    tuned = replace(model, encoder=encoder)
    seen, hidden = hide(known, seed=seed)
    if not bool(hidden.any()):
        return model.encoder
    neighbours = _neighbours(model, target, seen)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=_ENCODER_RATE)
    least, best = _hidden_error(tuned, target, seen, hidden, neighbours), model.encoder
    for masks in _random_masks(seen, steps, seed):
        if should_stop():
            break
        loss = _masked_loss(tuned, target, seen, masks, neighbours)
        optimizer.zero_grad()
        with torch.enable_grad():
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        error = _hidden_error(tuned, target, seen, hidden, neighbours)
        if error < least:
            least, best = error, copy.deepcopy(encoder).requires_grad_(False)
    return best


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

    Parameters
    ----------
    objective
        Of an unconditional G.
    should_stop
        Asked before every step; on True, the best so far is returned.
    """
    seen, hidden = hide(objective.known, seed=seed)
    shares = seen / objective.known.clamp_min(1e-6)
    inner = _FirstLayer(replace(objective, weights=objective.weights * shares), z, settings)
    offset = z.new_zeros(len(z), inner.shape[0] * inner.shape[1] ** 2)
    with torch.no_grad():
        images = objective.draw(z)
    least = _error(images, objective.target, hidden)
    for state in adam(inner, offset, steps=steps, learning_rate=_LAYER_RATE, projection=_ball):
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

    def take(self, rows: Tensor) -> "_FirstLayer":
        """Return the function restricted to row numbers ``rows`` [N]."""
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
    """Return a neighbour for each of `_MASKINGS` maskings, the nearest four in turn."""
    if model.retrieval is None:
        return None
    count = min(4, len(model.retrieval))
    nearest = model.retrieval.nearest(target, seen, count)[0]
    return model.retrieval.take(nearest[torch.arange(_MASKINGS, device=nearest.device) % count])


@torch.no_grad()
def _hidden_error(
    model: DCGAN, target: Tensor, seen: Tensor, hidden: Tensor, neighbours: Tensor | None
) -> float:
    """Return the mean error at the hidden pixels, which no step has seen."""
    assert model.encoder is not None
    rows = _MASKINGS if neighbours is not None else 1
    one = target.expand(rows, -1, -1, -1)
    encoding = model.encoder(one, seen.expand(rows, -1, -1, -1), neighbours)
    images = model.generator(encoding.mean, encoding.condition)
    return float(_error(images, one, hidden).mean())


def _masked_loss(
    model: DCGAN, target: Tensor, seen: Tensor, masks: Tensor, neighbours: Tensor | None
) -> Tensor:
    """Return the loss of one step: L1 of G(z) and squared error of E's estimate; pixels that E sees weigh a tenth."""
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


def _random_masks(seen: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield the masks of each step, [_MASKINGS, 1, S, S]: the visible pixels less a shifted copy of the hole."""
    generator = generator_for(seed, "tuning")
    side = seen.shape[-1]
    hole = 1 - seen
    for _ in range(steps):
        masks = []
        for _ in range(_MASKINGS):
            down, right = torch.randint(side, (2,), generator=generator).tolist()
            shown = seen * (1 - torch.roll(hole, (down, right), (2, 3)))
            blocks = torch.rand(1, 1, side // 4, side // 4, generator=generator) < 0.3
            if shown.sum() < 0.4 * seen.sum():
                large = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3).to(seen)
                shown = seen * (1 - large)
            masks.append(shown)
        yield torch.cat(masks)
