"""What a model can do where the answer is known: find its own samples again, and give whole images back."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from pixmend.errors import StoppedError
from pixmend.evaluation import metrics
from pixmend.evaluation.heldout import HeldOut
from pixmend.evaluation.methods_under_test import EvaluatedMethod
from pixmend.evaluation.protocol import Protocol, masks_for
from pixmend.evaluation.realism import draw_samples
from pixmend.images import to_pixels, to_tensor
from pixmend.models import DCGAN, infer
from pixmend.storage import parse_json, write_text

_SAMPLES = 8
_REBUILT = 64  # images


@dataclass(frozen=True)
class Rebuilt:
    """Whole images through E and G, nothing missing: mean PSNR, and that of one grey for each. What E misses here, it misses always."""

    count: int
    psnr: float
    psnr_of_grey: float


def rebuild(model: DCGAN, held: HeldOut) -> Rebuilt | None:
    """Return how whole held-out images come back; None without an encoder."""
    if model.encoder is None:
        return None
    images = held.images[:_REBUILT]
    device = next(model.generator.parameters()).device
    target = to_tensor(images).to(device)
    drawn = to_pixels(infer(model, target, torch.ones_like(target[:, :1])))
    everywhere = np.ones(images.shape[1:3], bool)
    grey = [np.broadcast_to(image.mean((0, 1)).round(), image.shape) for image in images]
    return Rebuilt(
        len(images),
        _mean([metrics.psnr(a, i, everywhere) for a, i in zip(drawn, images, strict=True)]),
        _mean([metrics.psnr(a, i, everywhere) for a, i in zip(grey, images, strict=True)]),
    )


@dataclass(frozen=True)
class SelfInversion:
    """How a search completes images that G can draw exactly: its own samples. What it misses there, the search misses.

    Attributes
    ----------
    label, mask, count
        The method, the mask and how many samples.
    psnr
        Mean hole PSNR of its answers.
    psnr_of_mean
        That of the mean sample as the answer to all.
    """

    label: str
    mask: str
    count: int
    psnr: float
    psnr_of_mean: float


def probe_samples(
    model: DCGAN,
    methods_under_test: Sequence[EvaluatedMethod],
    protocol: Protocol,
    kept: Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> SelfInversion | None:
    """Let the last of our methods that search G alone complete samples of G under the first mask.

    It is read from the file ``kept`` if it holds just that; None where no method searches so.

    Raises
    ------
    StoppedError
        ``should_stop`` said yes.
    """
    # The encoder would see G's samples as no image: what it is told of makes the most of a completion.
    ours = [each for each in methods_under_test if each.searches and each.answer == "sharp"]
    if not ours:
        return None
    contestant, spec = ours[-1], protocol.masks[0]
    earlier = _kept_probe(kept)
    if earlier is not None and (earlier.label, earlier.mask) == (contestant.label, spec):
        return earlier
    images = draw_samples(model, 64)
    mean = images.mean(0).round().astype(np.uint8)
    chosen = images[:_SAMPLES]
    masks = masks_for(protocol, spec, range(_SAMPLES), model.settings.size)
    answers = contestant.run(chosen, masks, should_stop)
    if should_stop():
        raise StoppedError
    pairs = list(zip(chosen, masks, strict=True))
    found = SelfInversion(
        contestant.label,
        spec,
        _SAMPLES,
        _mean(
            [metrics.psnr(a.pixels, i, m.hole) for a, (i, m) in zip(answers, pairs, strict=True)]
        ),
        _mean([metrics.psnr(mean, image, mask.hole) for image, mask in pairs]),
    )
    write_text(kept, json.dumps(asdict(found)) + "\n")
    return found


def _kept_probe(path: Path) -> SelfInversion | None:
    try:
        return SelfInversion(**parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
