"""What one image costs at each stage, measured small and written as JSON: what benchmarks/scale.py reckons with.

    python benchmarks/costs.py [--out benchmarks/costs/measured.json] [--images 2000] [--steps 6] [--complete 16]

All on one thread, in seconds of CPU time, which other programs on the machine hardly change. Sizes are those of the files of
benchmarks/packing.py (PNG and JPEG of about 128 px, packed to 64 px) and of the default net (64 px, 64 filters, batch 64). Memory is
what Python and NumPy hold.
"""

import argparse
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from packing import cpu_name, make_files
from speed import jobs_of
from training import forward_flops, our_loop

from pixmend.completion import METHODS, CompletionOptions, Task, complete
from pixmend.distributed import Group
from pixmend.models import DCGAN, load_model
from pixmend.records import PackSettings, Records, pack
from pixmend.storage import write_text
from pixmend.training import TrainSettings, resolve
from pixmend.training.checkpoint import checkpoint_of, write_checkpoint
from pixmend.training.data import Shuffle
from pixmend.training.data_parallel import synchronise_batchnorm
from pixmend.training.split import open_split
from pixmend.training.train_state import initial_state

Cost = tuple[str, float, str]  # name, value, unit

_UNITS = 11  # forwards of G or D a sample in a step: see benchmarks/training.py
_ORDER = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "costs/measured.json")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--complete", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = f"{cpu_name()}, one thread, {datetime.now(UTC):%Y-%m-%d}, benchmarks/costs.py"
    held = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, value, unit in (
            *of_packing(Path(folder), options.images),
            *of_training(Path(folder), options.steps),
            *of_completing(options.complete),
        ):
            print(f"{name}: {value:.3g} {unit}", flush=True)
            held[name] = {"value": float(f"{value:.4g}"), "unit": unit, "source": where}
    write_text(options.out, json.dumps(held, indent=1) + "\n")


def of_packing(folder: Path, count: int) -> Iterator[Cost]:
    """Yield what packing, and then opening the records, costs an image; they stay in ``folder``/records."""
    images, out = folder / "images", folder / "records"
    total, _ = make_files(images, count)
    yield "input_bytes", total / count, "bytes an image"
    seconds, _ = timed(lambda: pack(images, out, PackSettings(size=64), workers=1))
    yield "pack_seconds", seconds / count, "s an image"
    shards = sum(path.stat().st_size for path in out.glob("*.tfrecord"))
    yield "record_bytes", shards / count, "bytes an image"
    beside = (out / "inputs.jsonl").stat().st_size
    beside += sum(path.stat().st_size for path in out.glob("*.index"))
    yield "note_bytes", beside / count, "bytes an image, inputs.jsonl and index"
    records = Records(out)
    seconds, _ = timed(
        lambda: [records.images(range(at, at + 64)) for at in range(0, count - 64, 64)]
    )
    yield "read_seconds", seconds / (len(range(0, count - 64, 64)) * 64), "s an image, decoded"
    yield from of_opening(folder, records)


def of_opening(folder: Path, records: Records) -> Iterator[Cost]:
    """Yield what every process, and the first one, does for each image before the first step."""
    count = len(records)
    seconds, _ = timed(lambda: open_split(folder / "once.json", records, seed=0, share=0.05))
    # Measured apart: to watch memory makes it slower.
    held = watched(lambda: open_split(folder / "again.json", records, seed=0, share=0.05))
    yield "split_seconds", seconds / count, "s an image, in the first process"
    yield "split_bytes", held / count, "bytes an image, in the first process"
    order = Shuffle(_ORDER, 0)
    seconds, _ = timed(lambda: order.positions(0, 64))
    yield "order_seconds", seconds / _ORDER, "s an image and pass, in every process"
    yield (
        "order_bytes",
        8 + 16 + 8,
        "bytes an image, in every process: order, list of records, what is trained on",
    )


def of_training(folder: Path, steps: int) -> Iterator[Cost]:
    """Yield what a step of the default net at batch 64 costs."""
    settings = resolve({"batch_size": 64})
    yield "image_flops", _UNITS * forward_flops(settings), "FLOP an image and step"
    step = our_loop(settings)
    step()
    seconds = min(timed(step)[0] for _ in range(steps))
    yield "cpu_step_seconds", seconds, "s a step of 64 images"
    state = initial_state(settings, torch.device("cpu"))
    weights = [*state.generator.parameters(), *state.discriminator.parameters()]
    yield "gradient_bytes", 4.0 * sum(weight.numel() for weight in weights), "bytes a step"
    yield "exchanges", exchanges(settings), "a step: batch norms forward and back, gradients"
    step()
    out = folder / "checkpoints"
    out.mkdir()
    took, _ = timed(lambda: write_checkpoint(checkpoint_of(state), out, keep=3))
    yield "checkpoint_seconds", took, "s a checkpoint"
    yield (
        "checkpoint_bytes",
        next(out.iterdir()).stat().st_size,
        "bytes a checkpoint, before the first step",
    )


def exchanges(settings: TrainSettings) -> float:
    """Return how often processes speak to each other in a step with synchronised statistics."""
    asked = [0]

    class Counting(Group):
        def mean(self, tensor: torch.Tensor) -> torch.Tensor:
            asked[0] += 2  # on the way forward, and back
            return tensor

    state = initial_state(settings.model_copy(update={"batch_size": 4}), torch.device("cpu"))
    for network in (state.generator, state.discriminator):
        synchronise_batchnorm(network, Counting())
    real = torch.zeros(4, 3, settings.size, settings.size)
    drawn = state.generator(torch.randn(4, settings.latent_dim))
    for images in (real, drawn.detach(), drawn):  # D's step, real and drawn, and G's
        state.discriminator(images)
    return asked[0] + 3.0  # gradients of D and of G, and the losses


def of_completing(count: int) -> Iterator[Cost]:
    """Yield what completing an image costs, with the bundled model."""
    model = load_model("characters")
    jobs = jobs_of(model, count, "center", None)
    for name in ("instant", "default"):
        options = CompletionOptions(METHODS[name], snapshots=(), batch=64)
        run = partial(finish, model, jobs, options)
        run()
        yield f"{name}_seconds", timed(run)[0] / count, "s an image of 32 px"
    yield "answer_bytes", 1000.0, "bytes an image of 32 px, as PNG, and its line of results.jsonl"


def finish(model: DCGAN, jobs: Sequence[Task], options: CompletionOptions) -> None:
    """Complete all of them."""
    for _ in complete(model, jobs, options):
        pass


def timed(act: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds of CPU time that a call takes, and what it returns."""
    started = time.process_time()
    made = act()
    return time.process_time() - started, made


def watched(act: Callable[[], object]) -> int:
    """Return the most bytes that Python and NumPy hold during a call."""
    tracemalloc.start()
    act()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


if __name__ == "__main__":
    main()
