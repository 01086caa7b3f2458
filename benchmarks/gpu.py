"""Compare the speed of a training step on a GPU with a plain eager loop and with the GPU's own limit.

    python benchmarks/gpu.py [--steps 50] [--size 64] [--filters 64] [--batch 64]

Needs nothing but a GPU. The limit is the rate of a large bfloat16 matrix product, measured in the same run. Loops are those of
`training.py`: the plain one in float32 on contiguous tensors, ours in each precision. Each is timed by events of the GPU over all
steps. Prints markdown.
"""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import torch
from training import FEWEST, PlainLoop, forward_flops, our_loop

from pixmend.training import resolve

_WARM_UP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU here: run this on a machine with one")
    device = torch.device("cuda")
    settings = resolve(
        {"size": options.size, "filters": options.filters, "batch_size": options.batch}
    )
    needed = FEWEST * forward_flops(settings) * options.batch
    limit = product_rate(device)
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {torch.cuda.get_device_name()}, torch {torch.__version__}: {options.filters} filters, "
        f"{options.size} px, RGB, batch {options.batch}; bfloat16 products at {limit / 1e12:.0f} TFLOP/s.\n"
    )
    print("| loop | ms a step | images/s | of the rate of bfloat16 products |\n|---|---|---|---|")
    loops = {"plain eager loop": PlainLoop(settings, device).step}
    for precision in ("float32", "bfloat16"):
        chosen = settings.model_copy(update={"precision": precision})
        loops[precision] = our_loop(chosen, device)
    for name, step in loops.items():
        seconds = mean_seconds(step, options.steps)
        print(
            f"| {name} | {1e3 * seconds:.2f} | {options.batch / seconds:,.0f} | {needed / seconds / limit:.0%} |"
        )


def product_rate(device: torch.device, side: int = 8192) -> float:
    """Return the rate of a bfloat16 product of square matrices, FLOP/s."""
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return 2 * side**3 / mean_seconds(lambda: torch.mm(left, right), 20)


def mean_seconds(work: Callable[[], object], times: int) -> float:
    for _ in range(_WARM_UP):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / times


if __name__ == "__main__":
    main()
