"""Measure the cost of one image at each stage and write it as JSON, the input of benchmarks/scale.py.

    python benchmarks/costs.py [--out benchmarks/costs/measured.json] [--images 2000] [--steps 6]
                               [--complete 16]

All figures are of one thread, in CPU seconds, which depend little on other programs. Images are the
files of benchmarks/packing.py (PNG and JPEG of about 128 px, packed to 64 px); the network is the
default one (64 px, 64 filters, batch 64). Memory is that of Python and NumPy.
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
from speed import tasks_of
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

_UNITS = 11  # forward passes of G or D per sample and step: see benchmarks/training.py
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
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, value, unit in (
            *of_packing(Path(folder), options.images),
            *of_training(Path(folder), options.steps),
            *of_completing(options.complete),
        ):
            print(f"{name}: {value:.3g} {unit}", flush=True)
            costs[name] = {"value": float(f"{value:.4g}"), "unit": unit, "source": where}
    write_text(options.out, json.dumps(costs, indent=1) + "\n")


def of_packing(folder: Path, count: int) -> Iterator[Cost]:
    """Yield the cost per image of packing to ``folder``/records and of opening the records."""
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
    """Yield the cost per image before the first step, of every process and of the first one."""
    count = len(records)
    seconds, _ = timed(lambda: open_split(folder / "once.json", records, seed=0, share=0.05))
    # A separate call, because tracing memory is slow.
    peak = watched(lambda: open_split(folder / "again.json", records, seed=0, share=0.05))
    yield "split_seconds", seconds / count, "s an image, in the first process"
    yield "split_bytes", peak / count, "bytes an image, in the first process"
    order = Shuffle(_ORDER, 0)
    seconds, _ = timed(lambda: order.positions(0, 64))
    yield "order_seconds", seconds / _ORDER, "s an image and pass, in every process"
    yield (
        "order_bytes",
        8 + 16 + 8,
        "bytes an image, in every process: order, list of records, what is trained on",
    )


def of_training(folder: Path, steps: int) -> Iterator[Cost]:
    """Yield the cost of a training step of the default network at batch 64."""
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
    """Return the number of collectives in a step with synchronised batch norm."""
    collectives = [0]

    class Counting(Group):
        def mean(self, tensor: torch.Tensor) -> torch.Tensor:
            collectives[0] += 2  # in the forward and in the backward pass
            return tensor

    state = initial_state(settings.model_copy(update={"batch_size": 4}), torch.device("cpu"))
    for network in (state.generator, state.discriminator):
        synchronise_batchnorm(network, Counting())
    real = torch.zeros(4, 3, settings.size, settings.size)
    fake = state.generator(torch.randn(4, settings.latent_dim))
    for images in (real, fake.detach(), fake):  # D's step on real and fake images, and G's step
        state.discriminator(images)
    return collectives[0] + 3.0  # the gradients of D and of G, and the losses


def of_completing(count: int) -> Iterator[Cost]:
    """Yield the cost of completing an image with the bundled model."""
    model = load_model("characters")
    tasks = tasks_of(model, count, "center", None)
    for name in ("instant", "default"):
        options = CompletionOptions(METHODS[name], snapshots=(), batch=64)
        run = partial(finish, model, tasks, options)
        run()
        yield f"{name}_seconds", timed(run)[0] / count, "s an image of 32 px"
    yield "answer_bytes", 1000.0, "bytes an image of 32 px, as PNG, and its line of results.jsonl"


def finish(model: DCGAN, tasks: Sequence[Task], options: CompletionOptions) -> None:
    """Complete all tasks."""
    for _ in complete(model, tasks, options):
        pass


def timed(act: Callable[[], object]) -> tuple[float, object]:
    """Return the CPU seconds of a call, and its result."""
    started = time.process_time()
    made = act()
    return time.process_time() - started, made


def watched(act: Callable[[], object]) -> int:
    """Return the peak memory of Python and NumPy during a call, bytes."""
    tracemalloc.start()
    act()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


if __name__ == "__main__":
    main()
