"""The library's verbs, one after the other, on a real folder."""

import numpy as np

import pixmend
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
