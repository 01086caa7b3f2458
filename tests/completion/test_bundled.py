"""Laws of the bundled model: what it holds it gives back, and no answer is worse than what needs no training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixmend.api import Model
from pixmend.images import find_images, open_image
from pixmend.masks import make_mask
from pixmend.models import BUNDLED, biharmonic_fill, load_model

MASKS = ("center", "half:right", "random:0.8", "strokes:0.3", "grid")


@pytest.fixture(scope="module")
def model():
    return load_model("characters")


@pytest.fixture(scope="module")
def glyphs():
    """Characters of unseen fonts, [62, 1, 64, 64] in [-1, 1]."""
    paths = [next(find_images(folder)) for folder in sorted(BUNDLED.glob("characters/Sample*"))]
    pixels = np.stack([open_image(path).pixels for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def known_of(spec, images):
    known = torch.from_numpy(make_mask(spec, *images.shape[2:]).known).float()
    return known.expand(len(images), 1, -1, -1)


def hole_psnr(completed, images, known):
    missing = 1 - known
    errors = ((completed - images).square() * missing).flatten(1).sum(1)
    errors = errors / (missing.flatten(1).sum(1) * images.shape[1])
    return 10 * torch.log10(4 / errors.clamp_min(1e-6))


def best_draws(inpainted, known):
    return inpainted.draws[torch.arange(len(known)), inpainted.order(known)[:, 0]]


@pytest.mark.parametrize("spec", MASKS)
def test_what_the_bank_holds_it_gives_back(model, spec):
    images = model.retrieval.take(torch.arange(0, len(model.retrieval), 1024))
    moved = F.pad(images, (1, 0, 0, 0), mode="replicate")[..., :-1]
    darker = ((images + 1) * 127.5 * 0.9).round() / 127.5 - 1
    known = known_of(spec, images)
    for given, least in ((images, 30), (moved, 22), (darker, 22)):
        inpainted = model.inpaint(given, known, draws=8)
        assert hole_psnr(inpainted.estimate, given, known).mean() >= least
        assert hole_psnr(best_draws(inpainted, known), given, known).mean() >= least


@pytest.mark.parametrize("spec", MASKS)
def test_no_answer_is_worse_than_what_needs_no_training(model, glyphs, spec):
    known = known_of(spec, glyphs)
    nearest = model.retrieval.take(model.retrieval.nearest(glyphs, known)[:, 0])
    mean = (model.retrieval.images.float().mean(0) / 127.5 - 1).expand_as(glyphs)
    rivals = [nearest, mean, biharmonic_fill(glyphs, known)]
    best = max(float(hole_psnr(each, glyphs, known).mean()) for each in rivals)
    inpainted = model.inpaint(glyphs, known, draws=8)
    assert hole_psnr(inpainted.estimate, glyphs, known).mean() >= best - 0.1
    assert hole_psnr(best_draws(inpainted, known), glyphs, known).mean() >= best - 0.5


def test_a_search_restores_held_out_characters(model):
    gains = []
    for path in list(find_images(BUNDLED / "characters"))[::62]:
        picture, mask = open_image(path), make_mask("grid", 64, 64)
        found = Model(model, "cpu").complete(path, "grid", steps=60)
        errors = np.asarray(found.best, float) - picture.native, 255.0 - picture.native
        ours, white = (np.square(each)[mask.hole].mean() for each in errors)
        gains.append(10 * np.log10(white / ours))
    assert np.mean(gains) > 3, "completions should be far nearer the truth than blank paper"
