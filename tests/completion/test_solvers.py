"""The solvers, each against a plain second way, and the law that rows never meet."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pixmend.completion import quasi_newton
from pixmend.completion.methods import SOLVERS
from pixmend.completion.objective import (
    Losses,
)
from pixmend.completion.quasi_newton import _CurvaturePairs, lbfgs
from pixmend.completion.solvers import BestTracker, adam, latent_clip, nesterov, unconstrained


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=dtype) * 2 - 1


@dataclass(frozen=True)
class Rows:
    """A smooth function with a minimum of its own in each row, [B, 3]; 0.1 is the least it can be."""

    centre: torch.Tensor

    def __call__(self, z):
        gap = z - self.centre
        total = (
            (torch.tensor([1.0, 4.0, 9.0]) * gap.square()).sum(1)
            + gap.square().square().sum(1)
            + 0.1
        )
        return Losses(total, total, torch.zeros_like(total))

    def take(self, rows):
        return Rows(self.centre[rows])


def solve(name, objective, z, **options):
    return list(SOLVERS[name](objective, z, **options))


FUNCTIONS = {
    "adam": Rows(draw(8, 3, dtype=torch.float32)),
    "nesterov": Rows(draw(8, 3, dtype=torch.float32)),
    "lbfgs": Rows(draw(8, 3, dtype=torch.float32)),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("rate", [0.02, 5.0])
def test_steps_are_counted_bounds_kept_and_the_best_iterate_too(name, rate):
    start = draw(8, 3, seed=1, dtype=torch.float32).clamp(-0.5, 0.5)
    states = solve(
        name, FUNCTIONS[name], start, steps=12, learning_rate=rate, projection=latent_clip(0.5)
    )
    assert [state.step for state in states] == list(range(len(states)))
    assert len(states) == 13 or not states[-1].active.any()
    assert torch.equal(states[0].z, start)
    totals = torch.stack([state.losses.total for state in states])
    for number, state in enumerate(states):
        assert state.z.abs().max() <= 0.5
        assert torch.equal(state.best.total, totals[: number + 1].amin(0))
        assert torch.allclose(FUNCTIONS[name](state.best_z).total, state.best.total)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_row_that_stops_early_is_left_alone_and_none_depends_on_the_others(name):
    function = FUNCTIONS[name]
    start = draw(8, 3, seed=1, dtype=torch.float32)
    options = {"steps": 200, "learning_rate": 0.05, "patience": 3, "tolerance": 0.05}
    together = solve(name, function, start, **options)
    ends = []
    for row in range(8):
        taken = torch.tensor([row] * 8)  # alone, but in a block of rows
        alone = solve(name, function.take(taken), start[taken], **options)
        ends.append(len(alone) - 1)
        for ours, theirs in zip(alone, together, strict=False):
            assert torch.equal(ours.z[0], theirs.z[row])
            assert torch.equal(ours.losses.total[0], theirs.losses.total[row])
        assert not alone[-1].active.any()
        assert all(torch.equal(state.z[row], alone[-1].z[0]) for state in together[ends[-1] :])
    assert len(together) - 1 == max(ends)
    assert len(set(ends)) > 1, "rows that stop at one time prove nothing"


def test_a_row_stops_when_it_has_not_got_better_by_the_tolerance_within_the_patience():
    track, z = BestTracker(patience=2, tolerance=0.1), torch.zeros(2, 1)
    falls = [[8.0, 8.0], [7.5, 4.0], [7.1, 4.0], [9.0, 3.9], [1.0, 1.0]]
    going = []
    for step, totals in enumerate(falls):
        total = torch.tensor(totals)
        going.append(track.update(step, z, Losses(total, total, total)).active.tolist())
    # Row 0: 7.5 is no tenth better than 8, 7.1 is. Row 1: 4.0 is, 3.9 is not.
    assert going == [[True, True], [True, True], [True, True], [True, False], [True, False]]
    assert track.finished is False


def test_lbfgs_is_torchs_where_every_step_is_taken():
    centre = torch.tensor([[0.3, -0.2, 0.7]])
    z = torch.tensor([[1.0, -1.0, 0.5]])
    states = list(lbfgs(Rows(centre), z, steps=7))
    for steps in range(1, 8):
        theirs = z.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([theirs], lr=1.0, max_iter=steps, max_eval=99)

        def closure(at=theirs, by=optimiser):
            by.zero_grad()
            loss = Rows(centre)(at).total.sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        torch.testing.assert_close(states[steps].z, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_the_two_loops_are_the_inverse_hessian_written_out(monkeypatch):
    monkeypatch.setattr(quasi_newton, "_MEMORY", 4)
    pairs, count = _CurvaturePairs(), 6
    steps = [draw(2, 5, seed=seed) for seed in range(count)]
    turns = [step * 2 + 0.1 * draw(2, 5, seed=9 + n) for n, step in enumerate(steps)]
    turns[4][1] *= -1  # row 1 has no such pair
    for s, y in zip(steps, turns, strict=True):
        pairs.add(s, y)
    gradient = draw(2, 5, seed=99)
    for row, kept in enumerate([[2, 3, 4, 5], [2, 3, 5]]):
        s, y = steps[kept[-1]][row], turns[kept[-1]][row]
        inverse = torch.eye(5, dtype=torch.float64) * (s @ y) / (y @ y)
        for number in kept:
            s, y = steps[number][row], turns[number][row]
            left = torch.eye(5, dtype=torch.float64) - torch.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.mT + torch.outer(s, s) / (s @ y)
        torch.testing.assert_close(pairs.times(gradient)[row], inverse @ gradient[row])


def test_lbfgs_shortens_steps_that_make_things_worse_row_by_row():
    start = draw(8, 3, seed=1, dtype=torch.float32)
    states = solve("lbfgs", FUNCTIONS["lbfgs"], start, steps=40, learning_rate=100.0)
    totals = torch.stack([state.losses.total for state in states])
    assert (totals.diff(dim=0) <= 0).all()
    assert totals[-1].max() == pytest.approx(0.1)


def test_nesterovs_rate_falls_after_each_hundred_steps():
    function, start = Rows(torch.zeros(1, 3)), torch.tensor([[0.5, -0.5, 0.2]])
    *_, last = nesterov(function, start, steps=250, learning_rate=1e-4, decay=0.5)
    z, v = start[0].double().numpy(), np.zeros(3)
    for step in range(250):
        gradient = 2 * np.array([1.0, 4.0, 9.0]) * z + 4 * z**3
        before, v = v, 0.9 * v - 1e-4 * 0.5 ** (step // 100) * gradient
        z = z - 0.9 * before + 1.9 * v
    np.testing.assert_allclose(last.z[0], z, rtol=1e-4)


def test_a_schedule_that_has_run_out_begins_again():
    function, start = Rows(torch.zeros(1, 3)), torch.tensor([[0.5, -0.5, 0.2]])
    options = {"learning_rate": 0.01, "warmup": 0.25, "cosine": True}
    once = list(adam(function, start, steps=8, **options))
    more = list(adam(function, start, steps=24, period=8, **options))
    for ours, theirs in zip(once, more, strict=False):
        assert torch.equal(ours.z, theirs.z)
    moves = torch.stack([state.z for state in more]).diff(dim=0).abs().amax((1, 2))
    assert moves[7] == moves[15] == 0 < min(moves[3], moves[11], moves[19])


# Bounds


def test_a_clip_of_infinity_is_none():
    assert latent_clip(math.inf) is unconstrained
    z = draw(4, 3) * 9
    assert torch.equal(unconstrained(z), z)
