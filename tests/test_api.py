"""The library's verbs, one after the other, on a real folder."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixmend
from pixmend.api import Model
from pixmend.errors import ImageError, InputError, MaskError, OutputError, SettingsError
from pixmend.models import BUNDLED


def test_pack_train_load_and_complete_from_python(tmp_path):
    manifest = pixmend.pack(
        BUNDLED / "characters", tmp_path / "records", size=16, channels="L", workers=1
    )
    assert manifest.count == 124
    settings = {"filters": 4, "steps": 2, "batch_size": 8, "device": "cpu"}
    seen = []
    model = pixmend.train(
        tmp_path / "records", tmp_path / "run", settings=settings, on_progress=seen.append
    )
    assert seen[-1].step == 2
    assert model.settings.size == 16
    assert model.sample(3).shape == (3, 16, 16, 1)
    assert model.walk(12).shape == (12, 16, 16, 1)
    image = np.full((20, 30), 255, np.uint8)
    answer = pixmend.load(tmp_path / "run").complete(image, "half:top", steps=2)
    assert answer.best.shape == (20, 30)
    assert (answer.best[10:] == 255).all()


def test_equal_calls_of_sample_give_equal_images():
    model = pixmend.load("characters")
    assert np.array_equal(model.sample(8, seed=3), model.sample(8, seed=3))
    assert not np.array_equal(model.sample(8, seed=3), model.sample(8, seed=4))


# What complete takes and returns

RGB = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
HOLE = np.zeros((20, 24), bool)
HOLE[4:12, 6:18] = True
QUICK = {"method": "classic", "steps": 2}


@pytest.fixture(scope="module")
def model(lively):
    return Model(lively(), "cpu")


@pytest.fixture(scope="module")
def answer(model):
    return model.complete(RGB, HOLE, **QUICK).best


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.int32])
def test_masks_of_0_and_1_of_any_type_are_the_same_mask(model, answer, dtype):
    assert np.array_equal(model.complete(RGB, HOLE.astype(dtype), **QUICK).best, answer)
    tensor = torch.from_numpy(HOLE.astype(dtype))
    assert np.array_equal(model.complete(RGB, tensor, **QUICK).best, answer)
    assert np.array_equal(model.complete(RGB, tensor[None], **QUICK).best, answer)


def test_a_list_a_stack_and_single_calls_give_the_same_answers(model, answer):
    images = np.stack([RGB, RGB[::-1], RGB[:, ::-1]])
    masks = np.stack([HOLE, HOLE[::-1], HOLE[:, ::-1]])
    single = [
        model.complete(image, mask, **QUICK).best for image, mask in zip(images, masks, strict=True)
    ]
    for given in (images, list(images), tuple(images)):
        for each in (masks, list(masks)):
            results = model.complete(given, each, **QUICK)
            assert len(results) == 3
            assert all(np.array_equal(r.best, s) for r, s in zip(results, single, strict=True))
    shared = model.complete([RGB, RGB], HOLE, **QUICK)
    assert all(np.array_equal(result.best, answer) for result in shared)
    assert model.complete([], HOLE) == []
    with pytest.raises(MaskError, match="2 for 3 images"):
        model.complete(images, masks[:2])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(3, 20, 24), (1, 20, 24), (20, 24), (2, 3, 20, 24)])
def test_a_tensor_comes_back_as_one_with_its_known_values(model, dtype, shape):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    image = (values * 255).to(dtype) if dtype == torch.uint8 else values.to(dtype)
    results = model.complete(image, HOLE, **QUICK)
    batch = [results] if image.ndim < 4 else results
    for each, result in zip([image] if image.ndim < 4 else image, batch, strict=True):
        assert (result.best.dtype, result.best.shape) == (each.dtype, each.shape)
        assert torch.equal(result.best[..., ~torch.from_numpy(HOLE)], each[..., ~torch.from_numpy(HOLE)])  # fmt: skip
        assert not torch.equal(result.best, each)


def test_a_range_keeps_type_range_and_known_values_of_arrays_tensors_and_masked_arrays(model):
    values = np.random.default_rng(0).integers(-1000, 3000, (20, 24), np.int16)
    masked, floats = np.ma.masked_array(values, HOLE), np.where(HOLE, np.nan, values)
    tensor = torch.from_numpy(values)
    for image, mask in ((values, HOLE), (masked, "auto"), (floats, "nan"), (tensor, HOLE)):
        best = model.complete(image, mask, range=(-1000, 3000), **QUICK).best
        assert type(best) is (torch.Tensor if image is tensor else np.ndarray)
        assert best.dtype == image.dtype
        best = np.asarray(best)
        assert np.array_equal(best[~HOLE], values[~HOLE])
        assert -1000 <= best[HOLE].min() < best[HOLE].max() <= 3000
    with pytest.raises(ImageError, match=r"floats must be in \[0, 1\].*range=\(MIN, MAX\)"):
        model.complete(floats, "nan", **QUICK)
    with pytest.raises(SettingsError, match="range 3:1"):
        model.complete(values, HOLE, range=(3, 1), **QUICK)


class Labelled:
    """An array of another library, such as xarray or jax, which NumPy can read."""

    def __init__(self, array):
        self._array, self.ndim, self.shape = array, array.ndim, array.shape

    def __array__(self, dtype=None, copy=None):
        return self._array


def test_arrays_of_other_libraries_are_arrays(model, answer):
    result = model.complete(Labelled(RGB), Labelled(HOLE), **QUICK)
    assert np.array_equal(result.best, answer)


def test_paths_and_pil_images_may_be_mixed(model, answer, tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    results = model.complete([tmp_path / "a.png", Image.fromarray(RGB), RGB], HOLE, **QUICK)
    assert [type(result.best) for result in results[:2]] == [Image.Image, Image.Image]
    assert all(np.array_equal(np.asarray(result.best), answer) for result in results)


# Saving and showing


@pytest.mark.parametrize("value", [io.BytesIO(b"x"), io.StringIO("x"), None, b"x", 3, {}])
def test_what_is_no_image_or_mask_is_named_as_what_it_was_given_for(model, value):
    with pytest.raises(ImageError, match=f"^image: a {type(value).__name__} is no image"):
        model.complete(value, "center")
    with pytest.raises(MaskError, match=f"^mask image: a {type(value).__name__} is no image"):
        model.complete(RGB, value)


@pytest.mark.parametrize("path", ["a\0b.png", Path("a\0b.png")])
def test_a_path_with_a_nul_is_refused_in_a_line(model, path):
    with pytest.raises(InputError, match=r"a\\x00b.png.* NUL"):
        model.complete(path, "center")
    with pytest.raises(InputError, match=r"a\\x00b.png.* NUL"):
        model.complete(RGB, path)


def test_a_result_saves_its_answer_where_known_pixels_stay_exact(model, answer, tmp_path):
    result = model.complete(RGB, HOLE, **QUICK)
    for name in ("a.png", "a.tif", "a.webp", "a.bmp"):
        result.save(tmp_path / name)
        with Image.open(tmp_path / name) as saved:
            assert np.array_equal(np.asarray(saved), answer)
    for name in ("a.jpg", "a", "a.xyz"):
        with pytest.raises(OutputError, match=r"ends in \.png"):
            result.save(tmp_path / name)


def test_results_save_under_the_names_of_their_images_and_replace_none(model, tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    model.complete([tmp_path / "a.png", RGB], HOLE, candidates=2, **QUICK).save(tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "a.png", "a.png.png", "a.png.candidate-2.png", "a.png.sheet.png",
        "2.png", "2.candidate-2.png", "2.sheet.png",
    }  # fmt: skip


def test_values_show_themselves_in_a_line(model):
    assert repr(model) == "<Model of 16 px RGB images on cpu>"
    result = model.complete(RGB, HOLE, **QUICK)
    assert repr(result) == "<Completion of image, 24 x 20, 20.0% missing, classic>"
    assert len(repr(model.complete([RGB] * 2, HOLE, **QUICK))) < 200


def test_samples_show_a_grid_and_a_result_its_sheet(model, monkeypatch):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(self))
    model.sample(4).show()
    assert shown[0].size[0] == shown[0].size[1] > 2 * 16
    result = model.complete(RGB, HOLE, **QUICK)
    result.show()
    assert np.array_equal(np.asarray(shown[1]), result.sheet_pixels())


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None, True])
def test_a_count_that_is_none_is_refused_by_name(model, count):
    with pytest.raises(SettingsError, match=r"^count = "):
        model.sample(count)
    with pytest.raises(SettingsError, match=r"^frames = "):
        model.walk(count)
    with pytest.raises(SettingsError, match=r"^corners = "):
        model.walk(2, corners=count)


def test_a_model_by_its_class_is_told_of_load():
    with pytest.raises(SettingsError, match=r'pixmend\.load\("characters"\)'):
        pixmend.Model("characters")


def test_an_image_where_a_model_belongs_is_named():
    with pytest.raises(SettingsError, match="model: a ndarray; name a file"):
        pixmend.complete(RGB, HOLE)


def test_signatures_in_help_have_no_functions():
    from inspect import signature

    from pixmend import api

    for name in api.__all__:
        members = vars(getattr(api, name)).values() if name == "Model" else [getattr(api, name)]
        for each in filter(callable, members):
            assert "function" not in str(signature(each))


# Values out of range


@pytest.mark.parametrize("seed", [-1, None, 1.5, True, "1"])
def test_a_seed_is_a_whole_number_everywhere(model, seed):
    calls = [
        lambda: model.complete(RGB, HOLE, seed=seed),
        lambda: model.sample(1, seed=seed),
        lambda: model.walk(2, seed=seed),
    ]
    for call in calls:
        with pytest.raises(SettingsError, match="seed = "):
            call()
    assert json.dumps(model.complete(RGB, HOLE, seed=np.int64(3), **QUICK).record())


@pytest.mark.parametrize("field", ["candidates", "steps", "snapshots"])
@pytest.mark.parametrize("value", [2.0, 1.5, None, "2", True, -1])
def test_counts_are_whole_numbers(model, field, value):
    if field == "steps" and value is None:
        return  # the method's own
    with pytest.raises(SettingsError, match=f"{field} = "):
        model.complete(RGB, HOLE, **{field: (value,) if field == "snapshots" else value})


def test_a_training_time_is_an_argument_and_progress_is_a_line_a_percent(tmp_path, capsys):
    settings = {"filters": 4, "inpainter_filters": 8, "batch_size": 4, "device": "cpu", "size": 16}
    pixmend.train(
        BUNDLED / "characters", tmp_path / "run", settings={**settings, "steps": 3}, progress=True
    )
    assert "training: 100 %, step 3" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="minutes"):
        pixmend.train(BUNDLED / "characters", tmp_path / "run", minutes=-1)
