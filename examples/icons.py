"""Draw flat icons for the tutorial: a training folder, damaged icons and the same icons undamaged.

    python examples/icons.py icons [--count 2000]

The damage is magenta (#ff00ff), which no icon has.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE, SCALE = 32, 4  # drawn four times as large, then averaged: smooth edges
COLOURS = ["#d1495b", "#edae49", "#00798c", "#30638e", "#003d5b", "#6a994e", "#8338ec", "#444444"]


def draw_icon(rng: np.random.Generator) -> Image.Image:
    """Draw a disc, ring, rectangle, triangle or star, sometimes with a smaller disc on it."""
    image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), "white")
    canvas = ImageDraw.Draw(image)
    x, y = rng.integers(52, 77, 2)  # the centre, in drawn pixels
    width, height = rng.integers(24, 48, 2)
    colour, other = rng.choice(COLOURS, 2, replace=False)
    shape = rng.integers(5)
    if shape == 0:
        canvas.ellipse([x - width, y - width, x + width, y + width], fill=colour)
    elif shape == 1:
        box = [x - width, y - width, x + width, y + width]
        canvas.ellipse(box, outline=colour, width=int(width) // 3)
    elif shape == 2:
        canvas.rectangle([x - width, y - height, x + width, y + height], fill=colour)
    elif shape == 3:
        canvas.polygon([(x, y - height), (x - width, y + height), (x + width, y + height)], colour)
    else:
        radii = [width, 0.45 * width] * 5
        turns = [math.pi * (tip / 5 - 0.5) for tip in range(10)]
        canvas.polygon(
            [
                (x + radius * math.cos(turn), y + radius * math.sin(turn))
                for radius, turn in zip(radii, turns, strict=True)
            ],
            colour,
        )
    if rng.random() < 0.5:
        canvas.ellipse([x - 10, y - 10, x + 10, y + 10], fill=other)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def damage(icon: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a copy with a thick scratch of magenta through the middle."""
    damaged = icon.copy()
    ends = [(int(rng.integers(4, 28)), 2), (int(rng.integers(12, 20)), 16)]
    ends.append((int(rng.integers(4, 28)), 30))
    ImageDraw.Draw(damaged).line(ends, fill="#ff00ff", width=6)
    return damaged


def main() -> None:
    """Write OUT/train, OUT/damaged and OUT/whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=2000, help="training images")
    arguments = parser.parse_args()
    folders = {name: arguments.out / name for name in ("train", "damaged", "whole")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.count):
        icon = draw_icon(np.random.default_rng([0, number]))
        icon.save(folders["train"] / f"icon-{number:04}.png")
    for number in range(12):
        rng = np.random.default_rng([1, number])
        icon = draw_icon(rng)
        icon.save(folders["whole"] / f"icon-{number:02}.png")
        damage(icon, rng).save(folders["damaged"] / f"icon-{number:02}.png")


if __name__ == "__main__":
    main()
