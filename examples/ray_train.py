"""Train one run by workers that Ray Train starts and, when one of them is lost, starts anew.

    python examples/ray_train.py RECORDS RUN --workers 8 [--gpu] [--max-failures 3] [--set batch_size=512 ...]

RECORDS and RUN are paths that every worker sees. The workers train as torchrun's do: Ray gives each its rank and meets them once, and
then they meet again on a port of their own, as a group of `pixmend.train`.
"""

import argparse
import os
import socket
from pathlib import Path
from typing import Any

import torch.distributed as dist  # noqa: TID251 - this is the launcher
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

import pixmend
from pixmend.training import parse_overrides


def main() -> None:
    """Start the workers and wait for the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="one each")
    parser.add_argument("--max-failures", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "records": str(options.records.resolve()),
            "run": str(options.run.resolve()),
            "settings": parse_overrides(options.set),
        },
        # For meeting alone; what computes is a group of pixmend's, with nccl where there are GPUs.
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=options.max_failures)),
    )
    trainer.fit()


def work(job: dict[str, Any]) -> None:
    """Train as one of the workers."""
    port: list[int | None] = [free_port() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(port)
    dist.destroy_process_group()
    os.environ["MASTER_PORT"] = str(port[0])
    pixmend.train(job["records"], job["run"], settings=job["settings"])


def free_port() -> int:
    """Return a port of this host that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
