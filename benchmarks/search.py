"""What each solver makes of the same starts: objective and hole PSNR against steps and wall time.

    python benchmarks/search.py [--images 16] [--mask center] [--steps 5 20 100] [--restarts 4]

The model is the bundled one, the images its bundled glyphs, of fonts that it was not trained on, at its size. The objective and the
starts are those of `default`; each solver has the rate named in the table. Prints a markdown table of means over the images.
"""

import argparse
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.completion import METHODS, Method
from pixmend.completion.latent import init_latents
from pixmend.completion.solvers import SearchState, whole_blocks
from pixmend.images import find_images, open_image, to_channels, to_tensor
from pixmend.masks import make_mask
from pixmend.models import BUNDLED, DCGAN, load_model

_OWN = METHODS["default"]
_PLAIN = replace(_OWN, scheduled=False)
_SOLVERS = {
    "adam 0.05": replace(_PLAIN, solver="adam", learning_rate=0.05),
    "adam 0.05, scheduled": _OWN,
    "nesterov 0.001": replace(_PLAIN, solver="nesterov", learning_rate=0.001),
    "lbfgs 1": replace(_PLAIN, solver="lbfgs", learning_rate=1.0),
}


@dataclass(frozen=True)
class _Row:
    step: int
    seconds: float  # of all images together, since the first state was asked for
    loss: float
    psnr: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--mask", default="center")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--solvers", nargs="+", choices=_SOLVERS, default=list(_SOLVERS))
    options = parser.parse_args()
    model = load_model("characters")
    images = _glyphs(model, options.images)
    masks = [make_mask(options.mask, *images.shape[2:], seed=n) for n in range(len(images))]
    known = torch.from_numpy(np.stack([mask.known for mask in masks])).float()[:, None]
    print(
        f"{len(images)} glyphs, mask {options.mask}, {options.restarts} starts an image, {datetime.now(UTC):%Y-%m-%d}, "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| solver | step | seconds | loss | hole PSNR, dB |")
    print("|---|---|---|---|---|")
    for name in options.solvers:
        method = replace(_SOLVERS[name], steps=max(options.steps))
        for row in _rows(model, method, images, known, options.restarts):
            if row.step in (0, *options.steps):
                cells = f"{row.step} | {row.seconds:.2f} | {row.loss:.3f} | {row.psnr:.2f}"
                print(f"| {name} | {cells} |", flush=True)


def _glyphs(model: DCGAN, count: int) -> Tensor:
    """Return bundled glyphs at the model's size, spread over the characters, [N, C, S, S] in [-1, 1]."""
    paths = list(find_images(BUNDLED / "characters"))
    chosen = np.linspace(0, len(paths) - 1, count).astype(int)
    pixels = [to_channels(open_image(paths[n]).pixels, model.settings.channels) for n in chosen]
    size = model.settings.size
    return torch.stack([F.adaptive_avg_pool2d(to_tensor(each), size) for each in pixels])


def _rows(
    model: DCGAN, method: Method, images: Tensor, known: Tensor, lanes: int
) -> Iterator[_Row]:
    """Search and tell of each step's best: of each image's lanes the one of the least objective."""
    count = len(images)
    starts = init_latents(method, method.objective(model, images, known), model.settings, lanes, 0)
    rows = whole_blocks(torch.arange(count).repeat_interleave(lanes))
    z = torch.cat([starts.flatten(0, 1), starts[0, :1].expand(len(rows) - count * lanes, -1)])
    objective = method.objective(model, images[rows], known[rows])
    spent, last = 0.0, time.perf_counter()
    for state in method.search(objective, z, model.settings):
        spent += time.perf_counter() - last
        yield _row(model, state, images, known, lanes, spent)
        last = time.perf_counter()


@torch.no_grad()
def _row(
    model: DCGAN, state: SearchState, images: Tensor, known: Tensor, lanes: int, spent: float
) -> _Row:
    count = len(images)
    least, lane = state.best.total[: count * lanes].view(count, lanes).min(1)
    drawn = model.generator(state.best_z[torch.arange(count) * lanes + lane])
    hole = (1 - known).expand_as(images)
    error = ((drawn - images).square() * hole).flatten(1).sum(1) / hole.flatten(1).sum(1)
    psnr = 10 * torch.log10(4 / error.clamp_min(1e-6))
    return _Row(state.step, spent, float(least.mean()), float(psnr.mean()))


if __name__ == "__main__":
    main()
