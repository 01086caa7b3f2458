"""The protocol: the same images, masks and seeds for all, batch by batch, each figure kept as it is found."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pixmend.errors import SettingsError, StoppedError
from pixmend.evaluation import metrics
from pixmend.evaluation.contestants import Answered, Contestant
from pixmend.evaluation.heldout import HeldOut
from pixmend.evaluation.ledger import Ledger, Row
from pixmend.evaluation.peak import watch_memory
from pixmend.evaluation.rivals import Images
from pixmend.masks import Mask, make_mask
from pixmend.randomness import seed_for

__all__ = ["MASKS", "Protocol", "Step", "carry_out", "digest_of", "masks_for"]

MASKS = ("center", "half", "random:0.8", "grid", "strokes")


@dataclass(frozen=True)
class Protocol:
    """What is done to whom.

    Attributes
    ----------
    masks
        SPECs, as `pixmend.masks.make_mask` takes them.
    seed
        Of the masks.
    batch
        Images at a time; what a killed process loses at most.
    """

    masks: tuple[str, ...] = MASKS
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        """Check the values.

        Raises
        ------
        MaskError
            Unknown mask; the names are offered.
        SettingsError
            No mask, or a batch of none.
        """
        if not self.masks:
            raise SettingsError("--masks: none given; try --masks center,half")
        if self.batch < 1:
            raise SettingsError(f"--batch {self.batch}: needs a whole number of at least 1")
        for spec in self.masks:
            make_mask(spec, 64, 64)


@dataclass(frozen=True)
class Step:
    """One contestant's batch with one mask, done: ``done`` of ``total`` answers; ``fresh`` if it was not there before."""

    done: int
    total: int
    mask: str
    label: str
    fresh: bool


def masks_for(protocol: Protocol, spec: str, numbers: Sequence[int], size: int) -> list[Mask]:
    """Return the mask of each image, by its place in the draw: two images have two masks, an image the same for all methods."""
    return [
        make_mask(spec, size, size, seed=seed_for(protocol.seed, "evaluate", "mask", number))
        for number in numbers
    ]


def carry_out(
    held: HeldOut,
    contestants: Sequence[Contestant],
    protocol: Protocol,
    ledger: Ledger,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Let each contestant complete each image with each mask, all of a batch of images before the next, so that time to go can be told.

    What the ledger has is not done again.

    Raises
    ------
    StoppedError
        ``should_stop`` said yes; the batch at hand is lost, the same call goes on.
    """
    count, size = len(held.images), held.images.shape[1]
    digests = [digest_of(image) for image in held.images]
    total, done = count * len(protocol.masks) * len(contestants), 0
    for start in range(0, count, protocol.batch):
        numbers = list(range(start, min(start + protocol.batch, count)))
        for spec in protocol.masks:
            masks = masks_for(protocol, spec, numbers, size)
            for contestant in contestants:
                if should_stop():
                    raise StoppedError
                keys = [
                    (number, digests[number], spec, contestant.method, contestant.answer)
                    for number in numbers
                ]
                rows = [ledger.rows[key] for key in keys if key in ledger.rows]
                fresh = len(rows) < len(numbers) or not ledger.has_picture(rows[0])
                if fresh:
                    _batch(held, digests, numbers, spec, masks, contestant, ledger, should_stop)
                done += len(numbers)
                yield Step(done, total, spec, contestant.label, fresh)


def digest_of(image: Images) -> str:
    """Return a short hash of an image's pixels."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=6).hexdigest()


def measured(answered: Answered, image: Images, mask: Mask) -> dict[str, float | None]:
    """Return the figures of one answer, by the names of `Row`."""
    answer, hole, whole = answered.pixels, mask.hole, np.ones_like(mask.known)
    similar = metrics.ssim_map(answer, image)
    expected = None
    if answered.uncertainty is not None:
        expected = math.sqrt(np.square(answered.uncertainty.astype(np.float64))[hole].mean())
    return {
        "psnr": metrics.psnr(answer, image, hole),
        "ssim": float(similar[hole].mean()),
        "l1": metrics.l1(answer, image, hole),
        "whole_psnr": metrics.psnr(answer, image, whole),
        "whole_ssim": float(similar.mean()),
        "whole_l1": metrics.l1(answer, image, whole),
        "border": metrics.border_step(answer, mask.known),
        "border_true": metrics.border_step(image, mask.known),
        "expected": expected,
        "observed": metrics.rms(answer, image, hole),
        "confidence": answered.confidence,
        "right": metrics.right_share(answer, image, hole),
        "best_of": max(metrics.psnr(each, image, hole) for each in answered.candidates),
        "diversity": metrics.diversity(answered.candidates, hole),
        "covered": metrics.covers(answered.candidates, image, hole),
    }


def _batch(
    held: HeldOut,
    digests: Sequence[str],
    numbers: Sequence[int],
    spec: str,
    masks: Sequence[Mask],
    contestant: Contestant,
    ledger: Ledger,
    should_stop: Callable[[], bool],
) -> None:
    images = held.images[numbers[0] : numbers[-1] + 1]
    with watch_memory() as peak:
        answers = _answers(contestant, images, spec, numbers, masks, should_stop)
    if should_stop():  # they are the best so far, not what the method would have found
        raise StoppedError
    rows = [
        Row(
            number=number,
            image=held.names[number],
            family=held.families[number],
            digest=digests[number],
            mask=spec,
            missing=mask.missing,
            method=contestant.method,
            answer=contestant.answer,
            read=None,
            warnings="; ".join(answered.warnings),
            peak=peak.mib,
            seconds=answered.seconds,
            **measured(answered, image, mask),  # type: ignore[arg-type]
        )
        for number, image, mask, answered in zip(numbers, images, masks, answers, strict=True)
    ]
    doubts = [answered.uncertainty for answered in answers]
    told = [np.clip(2 * each, 0, 255).round()[..., None] for each in doubts if each is not None]
    ledger.add(
        rows,
        np.stack([answered.pixels for answered in answers]),
        np.stack(told).astype(np.uint8) if len(told) == len(rows) else None,
    )


def _answers(
    contestant: Contestant,
    images: Images,
    spec: str,
    numbers: Sequence[int],
    masks: Sequence[Mask],
    should_stop: Callable[[], bool],
) -> list[Answered]:
    outside = contestant.outside
    if outside is None:
        return contestant.run(images, masks, should_stop)
    found = []
    for number, image, mask in zip(numbers, images, masks, strict=True):
        answer = outside.read(spec, number, image, mask)
        pixels = np.where(mask.known[..., None], image, answer)
        found.append(Answered(pixels, (pixels,), outside.seconds))
    return found


def rows_of(
    held: HeldOut, contestants: Sequence[Contestant], protocol: Protocol, ledger: Ledger
) -> list[Row]:
    """Return the rows that this call asks for, in order of image, mask and contestant, with the families of this call."""
    return [
        replace(
            ledger.rows[number, digest_of(image), spec, each.method, each.answer],
            image=held.names[number],
            family=held.families[number],
        )
        for number, image in enumerate(held.images)
        for spec in protocol.masks
        for each in contestants
    ]
