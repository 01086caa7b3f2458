"""Compare the speed of a training step with the machine's limit and with a plain eager loop.

    python benchmarks/training.py [--steps 12] [--size 64] [--filters 64] [--batch 64] [--threads 2]

Needed FLOPs are counted from the layers' shapes; the limit is the rate of a large float32 matrix product, measured in
the same run. The plain loop is the one that PyTorch's public DCGAN tutorial describes (same widths, Adam 2e-4 with beta1
0.5, binary cross entropy on D's sigmoid, real and generated images in two backward passes, D's weight gradients computed
in G's step and thrown away), written here from its published settings, on contiguous tensors; ours is
`pixmend.training.step`'s two updates in each precision, moving average included. All run in turn, one step each, in this process, after a
few steps to warm up. With `--threads 1` seconds are those of CPU time, which other programs on the machine hardly change.
Prints markdown.
"""

import argparse
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median

import torch
from packing import cpu_name
from torch import Tensor, nn

from pixmend.images import channel_count
from pixmend.models import Discriminator, Generator, sample_latents
from pixmend.rng import generator_for
from pixmend.training import TrainSettings, resolve
from pixmend.training.step import autocast, discriminator_step, generator_step
from pixmend.training.train_state import initial_state

_CPU = torch.device("cpu")
_WARM_UP = 2
# Forward passes per sample; a weight or input gradient costs as much as a forward pass. D's step:
# G once, then D forward and its two gradients for real and for fake images. G's step: D forward and
# the gradient of its input, and G's two gradients.
FEWEST = 1 + 2 * 3 + 2 + 2
_OURS = FEWEST
# The tutorial reuses D's fake images too, but computes D's weight gradients in G's step.
_PLAIN = FEWEST + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    settings = resolve(
        {"size": options.size, "filters": options.filters, "batch_size": options.batch}
    )
    unit = forward_flops(settings)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    limits = [sgemm(clock)]
    loops = {"plain eager loop": PlainLoop(settings).step}
    for precision in ("float32", "bfloat16"):
        loops[precision] = our_loop(settings.model_copy(update={"precision": precision}))
    seconds = interleaved(loops, options.steps, clock)
    limits.append(sgemm(clock))
    print(describe(options, unit, limits))
    units = {name: _PLAIN if name == "plain eager loop" else _OURS for name in loops}
    print(table(seconds, units, settings, max(limits)))


def forward_flops(settings: TrainSettings) -> float:
    """Return the mean FLOPs of a forward pass of G and of D for one image."""
    networks = settings.networks()
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        # Two FLOPs per weight and position: a convolution's positions are those of its output, a
        # transposed one's those of its input.
        places = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        total += 2 * module.weight.numel() * (places[0, 0].numel() if places.ndim == 4 else 1)

    generator, discriminator = Generator(networks).eval(), Discriminator(networks).eval()
    for part in (*generator.modules(), *discriminator.modules()):
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            part.register_forward_hook(count)
    with torch.no_grad():
        discriminator(generator(torch.zeros(1, networks.latent_dim)))
    return total / 2


def sgemm(clock: Callable[[], float], side: int = 2048, repeats: int = 12) -> float:
    """Return the best rate of a float32 product of square matrices, FLOP/s."""
    left, right, best = torch.randn(side, side), torch.randn(side, side), float("inf")
    out = torch.empty(side, side)
    for _ in range(repeats):
        start = clock()
        torch.mm(left, right, out=out)
        best = min(best, clock() - start)
    return 2 * side**3 / best


class PlainLoop:
    """The training step of PyTorch's public DCGAN tutorial."""

    def __init__(self, settings: TrainSettings, device: torch.device = _CPU) -> None:
        networks = settings.networks()
        widths = networks.widths(networks.filters)
        self.batch, self.latent_dim = settings.batch_size, networks.latent_dim
        colours = channel_count(networks.channels)
        generator = plain_generator(networks.latent_dim, widths, networks.start, colours)
        discriminator = plain_discriminator(widths[::-1], networks.start, colours)
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)
        self.adam_g = torch.optim.Adam(self.generator.parameters(), 2e-4, (0.5, 0.999))
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), 2e-4, (0.5, 0.999))
        shape = (self.batch, colours, networks.size, networks.size)
        self.real = torch.rand(shape, device=device) * 2 - 1
        self.criterion = nn.BCELoss()

    def step(self) -> None:
        """Take one step of D and one of G."""
        ones = torch.ones(self.batch, device=self.real.device)
        zeros = torch.zeros_like(ones)
        self.discriminator.zero_grad()
        loss_real = self.criterion(self.discriminator(self.real).view(-1), ones)
        loss_real.backward()
        fake = self.generator(torch.randn(self.batch, self.latent_dim, 1, 1, device=ones.device))
        loss_fake = self.criterion(self.discriminator(fake.detach()).view(-1), zeros)
        loss_fake.backward()
        self.adam_d.step()
        self.generator.zero_grad()
        loss_g = self.criterion(self.discriminator(fake).view(-1), ones)
        loss_g.backward()
        self.adam_g.step()
        _ = (loss_real + loss_fake).item(), loss_g.item()


def plain_generator(latent_dim: int, widths: list[int], start: int, colours: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs, shape = latent_dim, (start, 1, 0)
    for width in widths:
        layers += [
            nn.ConvTranspose2d(inputs, width, *shape, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        inputs, shape = width, (4, 2, 1)
    to_image = nn.ConvTranspose2d(inputs, colours, 4, 2, 1, bias=False)
    return nn.Sequential(*layers, to_image, nn.Tanh())


def plain_discriminator(widths: list[int], start: int, colours: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = colours
    for width in widths:
        layers.append(nn.Conv2d(inputs, width, 4, 2, 1, bias=False))
        if inputs != colours:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        inputs = width
    return nn.Sequential(*layers, nn.Conv2d(inputs, 1, start, 1, 0, bias=False), nn.Sigmoid())


def our_loop(settings: TrainSettings, device: torch.device = _CPU) -> Callable[[], None]:
    """Return the training step of `pixmend.training.loop` on images in memory."""
    state, networks = initial_state(settings, device), settings.networks()
    real = torch.rand(settings.batch_size, 3, settings.size, settings.size, device=device) * 2 - 1
    real = real.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        generator = generator_for(settings.seed, "z", str(state.step), "0")
        z = sample_latents(networks, settings.batch_size, generator).to(device)
        with autocast(settings.precision, z.device):
            fake = state.generator(z).float()
        loss_d = discriminator_step(state, real, fake, settings).mean()
        loss_g = generator_step(state, fake, real, settings).mean()
        state.step += 1
        _ = float(loss_d), float(loss_g)

    return step


def interleaved(
    loops: dict[str, Callable[[], None]], steps: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each step of each loop; the loops take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(_WARM_UP + steps):
        for name, step in loops.items():
            start = clock()
            step()
            if number >= _WARM_UP:
                seconds[name].append(clock() - start)
    return seconds


def table(
    seconds: dict[str, list[float]], units: dict[str, int], settings: TrainSettings, limit: float
) -> str:
    needed = FEWEST * forward_flops(settings) * settings.batch_size
    plain = seconds["plain eager loop"]
    lines = [
        "| loop | units/sample | s/step, median | min | images/s, median | best | speed-up, median | best | "
        "utilisation, median | best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in seconds.items():
        middle, least = median(each), min(each)
        lines.append(
            f"| {name} | {units[name]} | {middle:.2f} | {least:.2f} | {settings.batch_size / middle:.1f}"
            f" | {settings.batch_size / least:.1f} | {median(plain) / middle:.2f} | {min(plain) / least:.2f}"
            f" | {needed / middle / limit:.0%} | {needed / least / limit:.0%} |"
        )
    return "\n".join(lines)


def describe(options: argparse.Namespace, unit: float, limits: list[float]) -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    needed = FEWEST * unit * options.batch
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, {options.threads} threads, load {load}, torch {torch.__version__}.\n"
        f"{options.filters} filters, {options.size} px, RGB, kernel 4, batch {options.batch}: a forward unit is "
        f"{unit / 1e6:.1f} MFLOP/sample, a step needs at least {FEWEST} units, {needed / 1e9:.1f} GFLOP; sgemm before "
        f"and after {limits[0] / 1e9:.0f} and {limits[1] / 1e9:.0f} GFLOP/s, so at best {needed / max(limits):.2f} s/step.\n"
    )


if __name__ == "__main__":
    main()
