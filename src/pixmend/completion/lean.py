"""The starts that an encoder gives, and which of the training images it leans on."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pixmend.completion.average import average
from pixmend.completion.methods import Method
from pixmend.completion.objective import Objective
from pixmend.completion.refine import tuned_encoder
from pixmend.completion.start import Encoded, encoded_starts
from pixmend.completion.state import ROWS
from pixmend.models import DCGAN

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
    ranked: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> Encoded:
    """Return the starts of image x lane, the best lane first, then spare rows up to whole blocks.

    With ``method.refine`` each image has an encoder of its own: see `tuned_encoder`.

    Parameters
    ----------
    target, known
        [B, C, S, S] in [-1, 1] and [B, 1, S, S].
    ranked
        Whether the order of lanes matters where all there are will be taken: to find it costs a pass of G.
    should_stop
        Asked before every step of tuning: once it says yes, what has been reached is enough.
    """
    if not method.refine:
        return _padded(_best(method, model, target, known, lanes, seed=seed, ranked=ranked))
    starts = []
    for one, given in zip(torch.split(target, 1), torch.split(known, 1), strict=True):
        encoder = tuned_encoder(
            model, one, given, steps=method.refine, seed=seed, should_stop=should_stop
        )
        tuned = replace(model, encoder=encoder)
        starts.append(_best(method, tuned, one, given, lanes, seed=seed, ranked=ranked))
    return _padded(Encoded.join(starts))


def _best(
    method: Method,
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    lanes: int,
    *,
    seed: int,
    ranked: bool,
) -> Encoded:
    """Return the starts that fit best, image x lane, of as many as the memory has neighbours to lean on."""
    among = 0 if model.memory is None else min(method.neighbours, len(model.memory))
    choose = among > lanes or (among > 1 and ranked)
    among = max(among, lanes)
    images = max(1, _AT_ONCE // among)
    parts = zip(torch.split(target, images), torch.split(known, images), strict=True)
    return Encoded.join(
        [
            _best_among(method, model, *part, lanes, among, seed=seed, choose=choose)
            for part in parts
        ]
    )


def _best_among(
    method: Method,
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    lanes: int,
    among: int,
    *,
    seed: int,
    choose: bool,
) -> Encoded:
    count = len(target)
    rows = _whole_blocks(torch.arange(count, device=target.device).repeat_interleave(among))
    starts = encoded_starts(model, target, known, rows, among, seed=seed)
    chosen = torch.arange(count * lanes, device=rows.device)
    if choose:
        condition = starts.encoding.condition
        objective = method.objective(model, target[rows], known[rows], condition)
        chosen = agreeing(objective, starts, count, among)[:, :lanes].flatten()
    return starts.take(chosen)


@torch.no_grad()
def agreeing(objective: Objective, starts: Encoded, count: int, lanes: int) -> Tensor:
    """Return the rows of the ``lanes`` answers to each image, those that fit best first, int64 [B, lanes].

    The objective of each, and a tenth of its distance (L1, over the missing pixels) from the `average` of all: a draw still, but the
    one from which the others that fit are least far (minimum Bayes risk, Kumar and Byrne 2004, equation 1).

    Parameters
    ----------
    objective, starts
        Of all rows, laid out as ``count`` images x lane, then spare ones.
    """
    images = objective.draw(starts.z)
    rows = torch.arange(count * lanes, device=images.device).view(count, lanes)
    drawn = images[: count * lanes].view(count, lanes, *images.shape[1:])
    mean = average(drawn, starts.encoding.estimate, starts.log_weight).mean[:, None]
    missing = 1 - objective.known[: count * lanes].view(count, lanes, 1, *images.shape[2:])
    far = (missing * (drawn - mean)).abs().flatten(2).sum(2)
    total = objective.of_images(images, starts.z).total[: count * lanes].view(count, lanes)
    order = torch.argsort(total + _CONSENSUS * far, dim=1, stable=True)
    return rows.gather(1, order)


def _padded(starts: Encoded) -> Encoded:
    return starts.take(_whole_blocks(torch.arange(len(starts.z), device=starts.z.device)))


def _whole_blocks(rows: Tensor) -> Tensor:
    """Return numbers of rows with the first of them again until they fill whole blocks."""
    return torch.cat([rows, rows[:1].expand(-len(rows) % ROWS)])
