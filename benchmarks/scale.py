"""Estimate time, money and storage of each stage for 10^6 to 10^9 images, and its bottlenecks.

    python benchmarks/scale.py [--costs FILE ...] [--images 1000000 100000000 1000000000]
                               [--cores 64 1024] [--gpus 1 8 64]

This is arithmetic, not a measurement: it uses the costs of one image in benchmarks/costs/*.json
(measured by benchmarks/costs.py, or assumed where the file says so), overridden by --costs files.
The time of a stage is the largest of its overlapping terms plus its sequential terms; the largest
term is the bottleneck. Then prints the simulations of benchmarks/stragglers.py. Prints markdown.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stragglers import tables

Costs = Mapping[str, float]

HERE = Path(__file__).parent
_SHARD = 4096  # images
_BATCH = 64  # images per GPU and step
_STEPS = 100_000
_MONTH = 30 * 24 * 3600


@dataclass(frozen=True)
class Stage:
    """The estimate of one stage.

    Attributes
    ----------
    terms
        Seconds of overlapping work, by name: the largest counts.
    before
        Seconds of sequential work before, by name: the sum counts.
    dollars, bytes
        Cost of computing and requests; size of the output.
    memory
        Bytes of the largest process.
    """

    terms: Mapping[str, float]
    before: Mapping[str, float]
    dollars: float
    bytes: float
    memory: float = 0.0

    @property
    def seconds(self) -> float:
        """Total time."""
        return max(self.terms.values()) + sum(self.before.values())

    @property
    def bottlenecks(self) -> str:
        """The two largest terms: the bottleneck, and the next one."""
        everything = {**self.terms, **self.before}
        first, second, *_ = sorted(everything, key=everything.__getitem__, reverse=True)
        return f"{first}, {duration(everything[first])}; {second}, {duration(everything[second])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--costs", type=Path, nargs="+", default=[])
    parser.add_argument("--images", type=int, nargs="+", default=[10**6, 10**8, 10**9])
    parser.add_argument("--cores", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--workers", type=int, default=1000, help="workers of the simulation")
    parser.add_argument("--simulated", type=int, default=10**8, help="images of the simulation")
    options = parser.parse_args()
    costs = read_costs([*sorted(HERE.glob("costs/*.json")), *options.costs])
    head = "| images | on | time | $ | output | $/month to store | peak memory | bottleneck; the next one |"
    for name, workers, unit in (
        ("pack", options.cores, "core"),
        ("train", options.gpus, "GPU"),
        ("complete", options.cores, "core"),
    ):
        print(f"### {name}\n\n{head}\n" + "|---" * 8 + "|")
        for images in options.images:
            for count in workers:
                on = f"{count:,} {unit}{'s' if count > 1 else ''}"
                print(row(images, on, STAGES[name](costs, images, count), costs))
        print(flush=True)
    print(tables(costs, workers=options.workers, images=options.simulated))


def read_costs(paths: Sequence[Path]) -> dict[str, float]:
    """Return the costs by name; later files override earlier ones."""
    costs: dict[str, float] = {}
    for path in paths:
        costs |= {name: float(fact["value"]) for name, fact in json.loads(path.read_text()).items()}
    return costs


def packing(costs: Costs, images: int, cores: int) -> Stage:
    """Read every image once and write shards; workers do not communicate."""
    hosts = max(1, cores // int(costs["host_cores"]))
    moved = images * (costs["input_bytes"] + costs["record_bytes"])
    terms = {
        "decoding": images * costs["pack_seconds"] / cores,
        "network": moved / (hosts * costs["host_bandwidth"]),
        "requests per prefix": images / costs["read_requests_rate"],
    }
    listing = images / 1000 * costs["list_requests_seconds"]
    kept = images * (costs["record_bytes"] + costs["note_bytes"])
    requests = images * costs["read_request_price"]
    requests += 3 * images / _SHARD * costs["write_request_price"]
    return Stage(terms, {"listing": listing}, dollars(costs, cores, terms) + requests, kept)


def training(costs: Costs, images: int, gpus: int) -> Stage:
    """Take 100,000 steps, each of 64 images per GPU."""
    share = (
        2 * (gpus - 1) / gpus
    )  # of the gradients sent by a ring all-reduce (Patarasuk and Yuan 2009)
    exchanged = share * costs["gradient_bytes"] / costs["exchange_bandwidth"]
    latency = costs["exchanges"] * costs["exchange_latency"] if gpus > 1 else 0.0
    arithmetic = _BATCH * costs["image_flops"] / costs["gpu_rate"]
    step = arithmetic + costs["gpu_step_overhead"]
    passes = _STEPS * _BATCH * gpus / images
    on_host = min(gpus, int(costs["host_gpus"]))
    read = _STEPS * _BATCH * costs["read_seconds"]
    terms = {
        "steps": _STEPS * (step + exchanged + latency),
        "decoding, one thread per GPU": read,
        "network": _STEPS * _BATCH * on_host * costs["record_bytes"] / costs["host_bandwidth"],
    }
    before = {
        "held-out groups, in the first process": images * costs["split_seconds"],
        "order of each pass": images * costs["order_seconds"] * max(1.0, passes),
    }
    time = max(terms.values()) + sum(before.values())
    money = gpus * time / 3600 * costs["gpu_price"]
    memory = images * max(costs["split_bytes"], costs["order_bytes"] * on_host)
    return Stage(terms, before, money, 3 * costs["checkpoint_bytes"], memory)


def completing(costs: Costs, images: int, cores: int) -> Stage:
    """Complete every image with the method `default` and write the result."""
    hosts = max(1, cores // int(costs["host_cores"]))
    moved = images * (costs["input_bytes"] + costs["answer_bytes"])
    terms = {
        "the networks and blending": images * costs["default_seconds"] / cores,
        "network": moved / (hosts * costs["host_bandwidth"]),
        "requests per prefix": 2 * images / costs["read_requests_rate"],
    }
    listing = images / 1000 * costs["list_requests_seconds"]
    requests = images * (costs["read_request_price"] + costs["write_request_price"])
    money = dollars(costs, cores, terms) + requests
    return Stage(terms, {"listing": listing}, money, images * costs["answer_bytes"])


STAGES = {"pack": packing, "train": training, "complete": completing}


def dollars(costs: Costs, cores: int, terms: Mapping[str, float]) -> float:
    """Return the price of the cores for the duration of the overlapping terms."""
    return cores * max(terms.values()) / 3600 * costs["cpu_core_price"]


def row(images: int, workers: str, stage: Stage, costs: Costs) -> str:
    keep = stage.bytes / 1e9 * costs["storage_price"]
    return (
        f"| {power(images)} | {workers} | {duration(stage.seconds)} | {stage.dollars:,.2f} | {size(stage.bytes)} | {keep:,.2f} | "
        f"{size(stage.memory) if stage.memory else '-'} | {stage.bottlenecks} |"
    )


def power(images: int) -> str:
    text = str(images)
    return f"10^{len(text) - 1}" if text.strip("0") == "1" else f"{images:,}"


def duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"


if __name__ == "__main__":
    main()
