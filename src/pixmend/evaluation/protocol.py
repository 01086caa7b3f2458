"""The protocol: the same images, masks and seeds for all, batch by batch, each figure kept as it is found."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol as Shape

import numpy as np

from pixmend.errors import SettingsError, StoppedError
from pixmend.evaluation import metrics
from pixmend.evaluation.heldout import HeldOut
from pixmend.evaluation.ledger import ResultStore, Row
from pixmend.evaluation.methods_under_test import Answered, EvaluatedMethod
from pixmend.evaluation.peak import watch_memory
from pixmend.evaluation.rivals import Images
from pixmend.masks import Mask, make_mask
from pixmend.rng import seed_for

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


@dataclass(frozen=True, eq=False)
class Order:
    """A batch of images for one contestant to complete with one mask.

    Attributes
    ----------
    number
        The order's own, in order of being done by one process.
    numbers
        The places of the images in the draw.
    images
        uint8 [B, S, S, C].
    names, families
        Of each image.
    mask
        The SPEC.
    label
        The contestant's.
    seed
        Of the masks.
    """

    number: int
    numbers: tuple[int, ...]
    images: Images
    names: tuple[str, ...]
    families: tuple[str, ...]
    mask: str
    label: str
    seed: int


@dataclass(frozen=True, eq=False)
class Batch:
    """What came of an order: a row an image, the answers uint8 [B, S, S, C], and their uncertainty [B, S, S, 1] if it is told."""

    rows: list[Row]
    pictures: Images
    reasons: Images | None


class Engine(Shape):
    """Something else that carries out orders than this process."""

    def run(
        self, orders: Iterable[Order], *, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Order, Batch]]:
        """Yield what came of each order, in any order; raise a StoppedError once ``should_stop`` says yes."""
        ...


def masks_for(protocol: Protocol, spec: str, numbers: Sequence[int], size: int) -> list[Mask]:
    """Return the mask of each image, by its place in the draw: two images have two masks, an image the same for all methods."""
    return [
        make_mask(spec, size, size, seed=seed_for(protocol.seed, "evaluate", "mask", number))
        for number in numbers
    ]


def carry_out(
    held: HeldOut,
    methods_under_test: Sequence[EvaluatedMethod],
    protocol: Protocol,
    ledger: ResultStore,
    *,
    engine: Engine | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Let each contestant complete each image with each mask, all of a batch of images before the next, so that time to go can be told.

    What the ledger has is not done again. An ``engine`` does what is left, but for answers that another tool made.

    Raises
    ------
    StoppedError
        ``should_stop`` said yes; the batch at hand is lost, the same call goes on.
    """
    digests = [digest_of(image) for image in held.images]
    total, done = len(held.images) * len(protocol.masks) * len(methods_under_test), 0
    waiting: list[_Place] = []
    for place in _places(len(held.images), methods_under_test, protocol):
        if should_stop():
            raise StoppedError
        fresh = not _is_there(place, digests, ledger)
        if fresh and engine is not None and place.contestant.outside is None:
            waiting.append(place)
            continue
        if fresh:
            order = _order(place, held, protocol)
            _keep(ledger, answer(order, place.contestant, should_stop=should_stop))
        done += len(place.numbers)
        yield Step(done, total, place.mask, place.contestant.label, fresh)
    if engine is None:
        return
    orders = (_order(place, held, protocol) for place in waiting)
    for order, batch in engine.run(orders, should_stop=should_stop):
        _keep(ledger, batch)
        done += len(order.numbers)
        yield Step(done, total, order.mask, order.label, True)


def answer(
    order: Order, contestant: EvaluatedMethod, *, should_stop: Callable[[], bool] = lambda: False
) -> Batch:
    """Let a contestant carry out an order, and measure its answers.

    Raises
    ------
    StoppedError
        ``should_stop`` said yes.
    """
    size = order.images.shape[1]
    masks = masks_for(Protocol((order.mask,), order.seed), order.mask, order.numbers, size)
    with watch_memory() as peak:
        answers = _answers(contestant, order, masks, should_stop)
    if should_stop():  # they are the best so far, not what the method would have found
        raise StoppedError
    rows = [
        Row(
            number=number,
            image=name,
            family=family,
            digest=digest_of(image),
            mask=order.mask,
            missing=mask.missing,
            method=contestant.method,
            answer=contestant.answer,
            read=None,
            warnings="; ".join(answered.warnings),
            peak=peak.mib,
            seconds=answered.seconds,
            **measured(answered, image, mask),  # type: ignore[arg-type]
        )
        for number, name, family, image, mask, answered in zip(
            order.numbers, order.names, order.families, order.images, masks, answers, strict=True
        )
    ]
    reasons = [answered.uncertainty for answered in answers]
    told = [np.clip(2 * each, 0, 255).round()[..., None] for each in reasons if each is not None]
    return Batch(
        rows,
        np.stack([answered.pixels for answered in answers]),
        np.stack(told).astype(np.uint8) if len(told) == len(rows) else None,
    )


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


@dataclass(frozen=True, eq=False)
class _Place:
    """Where an order is in the protocol."""

    number: int
    numbers: tuple[int, ...]
    mask: str
    contestant: EvaluatedMethod


def _places(
    count: int, methods_under_test: Sequence[EvaluatedMethod], protocol: Protocol
) -> Iterator[_Place]:
    number = 0
    for start in range(0, count, protocol.batch):
        numbers = tuple(range(start, min(start + protocol.batch, count)))
        for spec in protocol.masks:
            for contestant in methods_under_test:
                yield _Place(number, numbers, spec, contestant)
                number += 1


def _is_there(place: _Place, digests: Sequence[str], ledger: ResultStore) -> bool:
    who = place.contestant
    keys = [
        (number, digests[number], place.mask, who.method, who.answer) for number in place.numbers
    ]
    rows = [ledger.rows[key] for key in keys if key in ledger.rows]
    return len(rows) == len(keys) and ledger.has_picture(rows[0])


def _keep(ledger: ResultStore, batch: Batch) -> None:
    ledger.add(batch.rows, batch.pictures, batch.reasons)


def _order(place: _Place, held: HeldOut, protocol: Protocol) -> Order:
    start, stop = place.numbers[0], place.numbers[-1] + 1
    return Order(
        place.number,
        place.numbers,
        held.images[start:stop],
        tuple(held.names[start:stop]),
        tuple(held.families[start:stop]),
        place.mask,
        place.contestant.label,
        protocol.seed,
    )


def _answers(
    contestant: EvaluatedMethod,
    order: Order,
    masks: Sequence[Mask],
    should_stop: Callable[[], bool],
) -> list[Answered]:
    outside = contestant.outside
    if outside is None:
        return contestant.run(order.images, masks, should_stop)
    found = []
    for number, image, mask in zip(order.numbers, order.images, masks, strict=True):
        read = outside.read(order.mask, number, image, mask)
        pixels = np.where(mask.known[..., None], image, read)
        found.append(Answered(pixels, (pixels,), outside.seconds))
    return found


def rows_of(
    held: HeldOut,
    methods_under_test: Sequence[EvaluatedMethod],
    protocol: Protocol,
    ledger: ResultStore,
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
        for each in methods_under_test
    ]
