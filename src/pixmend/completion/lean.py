"""The starts that an encoder gives, and which of the training images it leans on."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pixmend.completion.average import average
from pixmend.completion.methods import Method
from pixmend.completion.objective import Objective
from pixmend.completion.refine import tuned_encoder
from pixmend.completion.start import encoded_starts
from pixmend.completion.state import ROWS
from pixmend.models import DCGAN, Encoding, join_encodings

__all__ = ["agreeing", "lean"]

_AT_ONCE = 128  # rows encoded together: more take memory and, out of a CPU's cache, time
_CONSENSUS = 0.1  # weight of a missing pixel's distance from the mean answer; by measurement


def lean(
    method: Method,
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    lanes: int,
    *,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Tensor, Encoding]:
    """Return the start of each row and what the encoder makes of its image: image x lane, then spare rows up to whole blocks.

    With ``method.refine`` each image has an encoder of its own: see `tuned_encoder`.

    Parameters
    ----------
    target, known
        [B, C, S, S] in [-1, 1] and [B, 1, S, S].
    should_stop
        Asked before every step of tuning: once it says yes, what has been reached is enough.

    Returns
    -------
    tuple
        z [rows, latent_dim] and the encoding of as many rows.
    """
    if not method.refine:
        return _padded(*_best(method, model, target, known, lanes, seed=seed))
    starts, encodings = [], []
    for one, given in zip(torch.split(target, 1), torch.split(known, 1), strict=True):
        encoder = tuned_encoder(
            model, one, given, steps=method.refine, seed=seed, should_stop=should_stop
        )
        tuned = replace(model, encoder=encoder)
        z, encoding = _best(method, tuned, one, given, lanes, seed=seed)
        starts.append(z)
        encodings.append(encoding)
    return _padded(torch.cat(starts), join_encodings(encodings))


def _best(
    method: Method, model: DCGAN, target: Tensor, known: Tensor, lanes: int, *, seed: int
) -> tuple[Tensor, Encoding]:
    """Return the starts that fit best, image x lane, of as many as the memory has neighbours to lean on."""
    among = 0 if model.memory is None else min(method.neighbours, len(model.memory))
    among = max(among, lanes)
    images = max(1, _AT_ONCE // among)
    parts = zip(torch.split(target, images), torch.split(known, images), strict=True)
    found = [_best_among(method, model, *part, lanes, among, seed=seed) for part in parts]
    starts, encodings = zip(*found, strict=True)
    return torch.cat(starts), join_encodings(list(encodings))


def _best_among(
    method: Method,
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    lanes: int,
    among: int,
    *,
    seed: int,
) -> tuple[Tensor, Encoding]:
    count = len(target)
    rows = _whole_blocks(torch.arange(count, device=target.device).repeat_interleave(among))
    z, encoding = encoded_starts(model, target, known, rows, among, seed=seed)
    chosen = torch.arange(count * lanes, device=rows.device)
    if among > lanes:
        objective = method.objective(model, target[rows], known[rows], encoding.condition)
        chosen = agreeing(objective, z, encoding, count, among)[:, :lanes].flatten()
    return z[chosen], encoding.take(chosen)


@torch.no_grad()
def agreeing(objective: Objective, z: Tensor, encoding: Encoding, count: int, lanes: int) -> Tensor:
    """Return the rows of the ``lanes`` answers to each image, those that fit best first, int64 [B, lanes].

    The objective of each, and a tenth of its distance (L1, over the missing pixels) from the mean of all answers: a draw still, but the
    one from which the others that fit are least far (minimum Bayes risk, Kumar and Byrne 2004, equation 1).

    Parameters
    ----------
    objective, z, encoding
        Of all rows, laid out as ``count`` images x lane, then spare ones.
    """
    images = objective.draw(z)
    rows = torch.arange(count * lanes, device=z.device).view(count, lanes)
    drawn = images[: count * lanes].view(count, lanes, *images.shape[1:])
    told = None if encoding.estimate is None else encoding.estimate.take(rows.flatten())
    mean = average(drawn, told).mean[:, None]
    missing = 1 - objective.known[: count * lanes].view(count, lanes, 1, *images.shape[2:])
    far = (missing * (drawn - mean)).abs().flatten(2).sum(2)
    total = objective.of_images(images, z).total[: count * lanes].view(count, lanes)
    order = torch.argsort(total + _CONSENSUS * far, dim=1, stable=True)
    return rows.gather(1, order)


def _padded(z: Tensor, encoding: Encoding) -> tuple[Tensor, Encoding]:
    rows = _whole_blocks(torch.arange(len(z), device=z.device))
    return z[rows], encoding.take(rows)


def _whole_blocks(rows: Tensor) -> Tensor:
    """Return numbers of rows with the first of them again until they fill whole blocks."""
    return torch.cat([rows, rows[:1].expand(-len(rows) % ROWS)])
