"""The faults that peers ship, and where each is held; those with no better home are held here."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixmend.errors import counted
from pixmend.models import BUNDLED, load_model
from pixmend.training import resolve

HELD = {
    "prior taken as a batch mean": "completion.test_parts:test_the_prior_is_log_one_minus_d_and_per_image",
    "networks in training mode at completion": "completion.test_laws:test_completion_changes_no_statistic_of_the_networks",
    "bad alone, good in a batch": "completion.test_laws:test_an_image_alone_and_among_others_gets_the_same_answer",
    "statistics and Adam state not saved": "training.test_run:test_k_steps_and_a_resume_are_n_steps",
    "resume restarts the count": "training.test_run:test_a_run_abandoned_between_checkpoints_goes_on_from_the_last_and_logs_each_step_once",
    "step parsed from a file name": "training.test_run:test_the_step_comes_from_the_checkpoint_not_from_its_name",
    "last iterate returned, not the best": "completion.test_laws:test_the_best_iterate_is_kept_so_more_steps_are_never_worse",
    "weight mask inverted": "completion.test_parts:test_weights_are_high_beside_the_hole_and_zero_in_it",
    "blending alters known pixels": "completion.test_laws:test_known_pixels_size_and_mode_come_back_as_they_were",
    "Poisson on the wrong axis": "completion.test_parts:test_poisson_is_the_dense_solution",
    "a clip that does nothing": "completion.test_parts:test_solvers_count_steps_respect_the_clip_and_keep_the_best",
    "odd files break or vanish": "test_images:test_odd_files_give_the_pixels_that_pil_shows",
    "upper-case suffixes vanish": "test_images:test_images_are_found_in_any_case_in_sub_folders_but_not_hidden",
    "a set smaller than the batch trains nothing": "training.test_run:test_fewer_images_than_a_batch_train",
    "32, 128, 256 px break the nets": "models.test_dcgan:test_g_draws_images_of_the_size_asked_and_d_judges_each_with_one_logit",
    "height and width swapped": "test_images:test_an_image_keeps_its_height_and_width",
    "own mask file unsupported": "test_masks:test_white_is_hole_whatever_the_mask_image_is",
    "output size differs, pixels change": "completion.test_laws:test_known_pixels_are_sacred_in_every_method_fit_and_size",
    "alpha turns black": "test_images:test_alpha_is_composited_on_the_background_named",
    "EXIF rotation lost": "test_images:test_exif_rotation_is_applied_once",
    "ICC profile lost": "test_images:test_pixels_mode_and_profile_survive_saving",
    "equal names overwrite each other": "cli.test_complete:test_colliding_names_are_kept_apart",
    "one bad file stops the rest": "cli.test_complete:test_a_bad_file_in_the_middle_is_told_and_stops_nothing",
    "pickled checkpoints": "test_faults:test_no_file_of_ours_is_a_pickle_and_no_module_reads_one",
    "a truncated file is taken as done": "models.test_file:test_a_truncated_file_is_refused_in_one_line_that_names_it",
    "own settings ignored": "test_faults:test_settings_are_frozen",
}


@pytest.mark.parametrize("place", HELD.values(), ids=HELD)
def test_each_fault_has_the_test_named(place):
    module, name = place.split(":")
    assert callable(getattr(importlib.import_module(f"tests.{module}"), name))


def test_no_file_of_ours_is_a_pickle_and_no_module_reads_one():
    source = Path(__file__).parent.parent / "src"
    text = "\n".join(path.read_text() for path in source.rglob("*.py"))
    assert not re.search(
        r"^\s*(import|from) (pickle|dill|joblib)|torch\.save\(|torch\.load\((?!.*weights_only=True)",
        text,
        re.MULTILINE,
    )
    for path in BUNDLED.glob("*.safetensors"):
        assert b"__metadata__" in path.read_bytes()[:100]


def test_settings_are_frozen():
    settings = resolve({})
    with pytest.raises(ValueError, match="frozen"):
        settings.size = 32


def test_the_bundled_model_and_glyphs_are_within_their_sizes_and_say_what_they_are():
    (path,) = BUNDLED.glob("*.safetensors")
    assert path.stat().st_size <= 24e6
    glyphs = sorted((BUNDLED / "characters").rglob("*.png"))
    assert sum(glyph.stat().st_size for glyph in glyphs) <= 2e6
    assert len({glyph.parent.name for glyph in glyphs}) == 62
    card = load_model("characters").card
    assert {"steps", "held_out_families", "figures", "licence"} <= card.keys()


def test_the_bundled_model_draws_ink_on_paper():
    from pixmend.api import load

    samples = load("characters").sample(64)
    assert samples.shape == (64, 64, 64, 1)
    ink = (samples < 64).mean()
    assert 0.03 < ink < 0.5
    assert np.median(samples) > 240
    # Not one image 64 times.
    assert samples.std(0).mean() > 20


def test_an_rgba_image_keeps_its_known_alpha(untrained, tmp_path):
    from pixmend.api import Model

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    result = Model(untrained("RGB"), "cpu").complete(Image.fromarray(pixels), "center", steps=2)
    after = np.asarray(result.best)
    hole = result.mask.hole
    assert np.array_equal(after[~hole], pixels[~hole])
    # A model without alpha draws opaque pixels: a hole cut as transparency must not stay one.
    assert (after[hole][:, 3] == 255).all()


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (2000, "step", "2,000 steps"),
     (1, "class", "1 class"), (62, "class", "62 classes")],
)  # fmt: skip
def test_a_number_agrees_with_its_noun(number, noun, words):
    assert counted(number, noun) == words
