"""Draw flat icons for the tutorial: 300 to train on, 256 others, and twelve of those damaged.

    python examples/icons.py icons

The damage is magenta (#ff00ff). docs/benchmarks.md has figures of these icons.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

TRAIN, WHOLE, DAMAGED = 300, 256, 12
SIDE, SCALE = 32, 4  # drawn four times as large, then averaged: smooth edges


def draw_icon(number: int) -> Image.Image:
    """Draw one or two shapes on white: disc, rectangle, triangle, ring or star."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), "white")
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 3)):
        red, green, blue = map(int, rng.integers(0, 256, 3))
        (x, y), (width, height) = rng.integers(40, 88, 2), rng.integers(20, 50, 2)
        colour, disc = (red, green, blue), [x - width, y - width, x + width, y + width]
        shape = rng.integers(0, 5)
        if shape == 0:
            canvas.ellipse(disc, fill=colour)
        elif shape == 1:
            canvas.rectangle([x - width, y - height, x + width, y + height], fill=colour)
        elif shape == 2:
            canvas.polygon(
                [(x, y - height), (x - width, y + height), (x + width, y + height)], colour
            )
        elif shape == 3:
            canvas.ellipse(disc, outline=colour, width=int(width // 3))
        else:
            canvas.polygon([star_tip(x, y, width, tip) for tip in range(10)], colour)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def star_tip(x: float, y: float, radius: float, tip: int) -> tuple[float, float]:
    """Return tip 0 to 9 of a star; the odd ones are the inner corners."""
    turn, length = math.pi * (tip / 5 - 0.5), radius * (0.45 if tip % 2 else 1)
    return x + math.cos(turn) * length, y + math.sin(turn) * length


def damage(icon: Image.Image, number: int) -> Image.Image:
    """Return a copy with a thick scratch of magenta through the middle."""
    rng, damaged = np.random.default_rng([1, number]), icon.copy()
    top, middle, bottom = map(int, rng.integers([4, 12, 4], [28, 20, 28]))
    line = [(top, 2), (middle, 16), (bottom, 30)]
    ImageDraw.Draw(damaged).line(line, fill="#ff00ff", width=6)
    return damaged


def main() -> None:
    """Write OUT/train, OUT/whole and OUT/damaged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    for folder in ("train", "whole", "damaged"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for number in range(TRAIN + WHOLE):
        icon, name = draw_icon(number), f"icon-{number:03}.png"
        icon.save(out / ("train" if number < TRAIN else "whole") / name)
        if TRAIN <= number < TRAIN + DAMAGED:
            damage(icon, number).save(out / "damaged" / name)


if __name__ == "__main__":
    main()
