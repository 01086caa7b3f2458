"""Results that do not depend on the machine: threads, memory formats, compilers, extreme numbers."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.api import Model, load
from pixmend.errors import MaskError
from pixmend.images import open_image
from pixmend.models import BUNDLED, DCGAN, Generator, load_model
from tools.prove.children import attempt
from tools.prove.tally import Row, Scale, counted

__all__ = [
    "DEVICE_LEVELS",
    "LEVELS",
    "channels_last",
    "compiled",
    "denormal_weights",
    "denormals",
    "extreme_inputs",
    "numerics",
    "on_a_gpu",
    "shown_images",
    "threads",
]

LEVELS = 1  # grey levels between two ways on one device
DEVICE_LEVELS = 2  # ... and between a CPU and a GPU
_MASKS = ("center", "half:left", "random:0.8", "grid")
Pixels: TypeAlias = NDArray[np.uint8]


def numerics(scale: Scale, folder: Path) -> list[Row]:
    """Compare ways to compute the same answers, and try extreme inputs."""
    del scale, folder
    images = shown_images()
    return [
        threads(images),
        channels_last(images),
        denormals(images),
        compiled(images),
        on_a_gpu(images),
        denormal_weights(images),
        extreme_inputs("instant"),
        extreme_inputs("default"),
    ]


def shown_images() -> list[Pixels]:
    """Return characters unseen by the bundled model, uint8 [H, W]."""
    paths = sorted((BUNDLED / "characters").rglob("*.png"))[::40]
    return [open_image(path).pixels[..., 0] for path in paths]


def threads(images: list[Pixels]) -> Row:
    """Compare one thread with two."""
    return _compared("1 and 2 threads", lambda: _answers(load(), images), lambda: _in_threads(2, images))  # fmt: skip


def channels_last(images: list[Pixels]) -> Row:
    """Compare contiguous with channels-last weights."""

    def last() -> list[Pixels]:
        return _answers(_channels_last(), images)

    return _compared("contiguous and channels_last", lambda: _answers(load(), images), last)


def denormals(images: list[Pixels]) -> Row:
    """Compare denormal numbers with flushing them to zero."""
    return _compared("denormals kept and flushed", lambda: _answers(load(), images), lambda: _flushed(images))  # fmt: skip


def extreme_inputs(method: str = "default") -> Row:
    """Complete constant and black-and-white images with holes from one pixel to everything."""
    with counted(f"constant images, holes of 1 pixel to all ({method})") as row:
        model = load()
        grids = np.indices((32, 32)).sum(0) % 2 * np.uint8(255)
        images = {str(level): np.full((32, 32), level, np.uint8) for level in (0, 1, 127, 128, 254, 255)}  # fmt: skip
        images |= {"checks": grids.astype(np.uint8), "one row": np.full((1, 40), 7, np.uint8)}
        for name, image in images.items():
            for hole, mask in _holes(image.shape).items():
                what = f"{name}, {hole}"
                try:
                    result = model.complete(image, mask, method=method, steps=4)
                except MaskError:
                    row.note("refused")
                    row.expect(bool(mask.all()), f"{what}: refused")
                    continue
                row.note("completed")
                row.expect(np.array_equal(result.best[~mask], image[~mask]), f"{what}: known pixels changed")  # fmt: skip
                row.expect(bool(np.isfinite(result.uncertainty).all()), f"{what}: uncertainty is not finite")  # fmt: skip
                losses = [candidate.loss for candidate in result.candidates]
                row.expect(bool(np.isfinite(losses).all()), f"{what}: losses {losses}")
    return row


def _holes(shape: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
    one, all_but_one = np.zeros(shape, bool), np.ones(shape, bool)
    one[shape[0] // 2, shape[1] // 2] = True
    all_but_one[0, 0] = False
    return {"one pixel": one, "all but one pixel": all_but_one, "everything": np.ones(shape, bool)}


def _compared(what: str, first: Callable[[], list[Pixels]], second: Callable[[], list[Pixels]], levels: int = LEVELS) -> Row:  # fmt: skip
    """Compare two ways to compute the same answers."""
    with counted(f"{what}: within {levels} grey level{'s' * (levels > 1)}") as row:
        for number, (left, right) in enumerate(zip(first(), second(), strict=True)):
            apart = int(np.abs(left.astype(int) - right).max())
            row.note("equal" if not apart else "within" if apart <= levels else "beyond")
            row.most("most levels", apart)
            row.expect(apart <= levels, f"answer {number} is {apart} levels off")
    return row


def _answers(model: Model, images: list[Pixels]) -> list[Pixels]:
    """Return the answers of `instant`, and G at eight fixed latents, without a search."""
    found = [model.complete(image, mask, method="instant").best for image in images for mask in _MASKS]  # fmt: skip
    return found + list(model.sample(8))


def _in_threads(count: int, images: list[Pixels]) -> list[Pixels]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return _answers(load(), images)
    finally:
        torch.set_num_threads(before)


def _channels_last() -> Model:
    networks = load_model("characters")
    for network in filter(None, (networks.generator, networks.discriminator, networks.inpainter)):
        network.to(memory_format=torch.channels_last)
    return Model(networks, "cpu")


@contextmanager
def _flushing() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _flushed(images: list[Pixels]) -> list[Pixels]:
    with _flushing():
        return _answers(load(), images)


def compiled(images: list[Pixels]) -> Row:
    """Compare compiled networks with eager ones, in a child: torch.compile leaves threads and files."""

    def compare() -> None:
        networks = load_model("characters")
        eager = _answers(Model(networks, "cpu"), images)
        networks.generator.compile()
        if networks.inpainter is not None:
            networks.inpainter.compile()
        pairs = zip(eager, _answers(Model(networks, "cpu"), images), strict=True)
        apart = [int(np.abs(left.astype(int) - right).max()) for left, right in pairs]
        print(f"levels {max(apart)} of {len(apart)}", flush=True)

    with counted(f"eager and compiled: within {LEVELS} grey level") as row:
        if shutil.which("g++") is None and shutil.which("c++") is None:
            row.left_out = "no C++ compiler, which torch.compile needs"
            return row
        ended = attempt(compare)
        row.expect(ended.code == 0, ended.last_words)
        if ended.code == 0:
            levels, _, count = ended.said.split("levels ")[-1].split()[:3]
            row.tried = int(count)
            row.counts["compared"] = int(count)
            row.most("most levels", int(levels))
            row.expect(int(levels) <= LEVELS, f"{levels} levels off")
    return row


def on_a_gpu(images: list[Pixels]) -> Row:
    """Compare the CPU with a GPU, if there is one."""
    if not torch.cuda.is_available():
        return Row(f"CPU and GPU: within {DEVICE_LEVELS} grey levels", left_out="no GPU here")

    def on(device: str) -> Callable[[], list[Pixels]]:
        return lambda: _answers(load(device=device), images)

    return _compared("CPU and GPU", on("cpu"), on("cuda"), DEVICE_LEVELS)


def denormal_weights(images: list[Pixels]) -> Row:
    """Complete with denormal first weights of G: finite and repeatable, if slow."""
    with counted("weights that are denormal") as row:
        networks: DCGAN = load_model("characters")
        generator: Generator = networks.generator
        with torch.no_grad():
            for weight in list(generator.parameters())[:2]:
                weight.mul_(1e-41)
        model = Model(replace(networks, inpainter=None, retrieval=None), "cpu")
        for image in images[:4]:
            once, again = (
                model.complete(image, "center", method="classic", steps=3) for _ in range(2)
            )
            row.note("completed")
            row.expect(np.array_equal(once.best, again.best), "two answers differ")
            row.expect(bool(np.isfinite(once.candidates[0].loss)), f"loss {once.candidates[0].loss}")  # fmt: skip
    return row
