"""A change that is not meant to change training does not: its losses are the kept ones."""

import json

import numpy as np
import pytest

from tests.training.golden import KEPT, RUNS, losses_of


@pytest.mark.parametrize("name", RUNS)
def test_twenty_steps_have_the_kept_losses(name, tmp_path):
    found, kept = losses_of(name, tmp_path), json.loads(KEPT.read_text())[name]
    assert np.shape(found) == np.shape(kept) == (20, 2)
    # Another CPU adds up in another order.
    np.testing.assert_allclose(found, kept, rtol=1e-4)
