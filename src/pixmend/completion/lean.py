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
from pixmend.completion.state import ROW_BLOCK
from pixmend.models import DCGAN

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

    They are the best of as many as ``method`` looks at: one for each training image of the memory that is leant on.
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
    neighbours = 0 if model.retrieval is None else min(method.neighbours, len(model.retrieval))
    among = max(neighbours, lanes)
    choose = neighbours > lanes or (neighbours > 1 and ranked)
    starts = []
    at_once = 1 if method.refine else max(1, _AT_ONCE // among)
    for some, given in zip(torch.split(target, at_once), torch.split(known, at_once), strict=True):
        used = model
        if method.refine:
            encoder = tuned_encoder(
                model, some, given, steps=method.refine, seed=seed, should_stop=should_stop
            )
            used = replace(model, encoder=encoder)
        starts.append(
            _best_among(method, used, some, given, lanes, among, seed=seed, choose=choose)
        )
    return _padded(Encoded.join(starts))


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
    """Return the ``lanes`` starts of each image that fit best ``among`` so many, or the first, where there is nothing to choose."""
    count = len(target)
    rows = _whole_blocks(torch.arange(count, device=target.device).repeat_interleave(among))
    starts = encoded_starts(model, target, known, rows, among, seed=seed)
    chosen = torch.arange(count * lanes, device=rows.device)
    if choose:
        condition = starts.encoding.condition
        objective = method.objective(model, target[rows], known[rows], condition)
        chosen = rank_by_consensus(objective, starts, count, among)[:, :lanes].flatten()
    return starts.take(chosen)


@torch.no_grad()
def rank_by_consensus(objective: Objective, starts: Encoded, count: int, lanes: int) -> Tensor:
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
    mean = average(drawn, starts.encoding.pixel_posterior, starts.log_weight).mean[:, None]
    missing = 1 - objective.known[: count * lanes].view(count, lanes, 1, *images.shape[2:])
    far = (missing * (drawn - mean)).abs().flatten(2).sum(2)
    total = objective.of_images(images, starts.z).total[: count * lanes].view(count, lanes)
    order = torch.argsort(total + _CONSENSUS * far, dim=1, stable=True)
    return rows.gather(1, order)


def _padded(starts: Encoded) -> Encoded:
    return starts.take(_whole_blocks(torch.arange(len(starts.z), device=starts.z.device)))


def _whole_blocks(rows: Tensor) -> Tensor:
    """Return numbers of rows with the first of them again until they fill whole blocks."""
    return torch.cat([rows, rows[:1].expand(-len(rows) % ROW_BLOCK)])
