"""The losses, against their definitions written with sigmoids and logarithms."""

import torch

from pixmend.training.losses import (
    critic,
    discriminator_loss,
    feature_matching,
    hinge,
    minimax,
    nonsaturating,
)

LOGITS = torch.linspace(-6, 6, 25, dtype=torch.float64)


def test_ds_loss_is_minus_log_d_of_x_minus_log_one_minus_d_of_g():
    real, fake = LOGITS, LOGITS.flip(0)
    expected = -torch.log(torch.sigmoid(real)) - torch.log(1 - torch.sigmoid(fake))
    torch.testing.assert_close(discriminator_loss(real, fake), expected)


def test_nonsaturating_is_minus_log_d_of_g():
    torch.testing.assert_close(nonsaturating(LOGITS), -torch.log(torch.sigmoid(LOGITS)))


def test_minimax_is_log_one_minus_d_of_g():
    torch.testing.assert_close(minimax(LOGITS), torch.log(1 - torch.sigmoid(LOGITS)))


def test_hinge_is_what_is_missing_to_a_margin_of_one_on_either_side():
    real, fake = LOGITS, LOGITS.flip(0)
    expected = [
        max(0, 1 - r) + max(0, 1 + f) for r, f in zip(real.tolist(), fake.tolist(), strict=True)
    ]
    torch.testing.assert_close(hinge(real, fake), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(critic(LOGITS), -LOGITS)


def test_losses_stay_finite_where_the_sigmoid_is_0_or_1():
    far = torch.tensor([-1e4, 1e4])
    for loss in (nonsaturating(far), minimax(far), discriminator_loss(far, far)):
        assert torch.isfinite(loss).all()


def test_g_has_a_gradient_where_d_is_sure_only_if_the_loss_does_not_saturate():
    sure_fake = torch.tensor([-20.0], requires_grad=True)
    (strong,) = torch.autograd.grad(nonsaturating(sure_fake).sum(), sure_fake)
    (weak,) = torch.autograd.grad(minimax(sure_fake).sum(), sure_fake)
    assert strong.abs() > 0.99
    assert weak.abs() < 1e-8


def test_each_images_loss_is_its_own():
    for loss in (nonsaturating, minimax, critic):
        assert torch.equal(loss(LOGITS)[3:5], loss(LOGITS[3:5]))


def test_feature_matching_compares_means_over_the_batch():
    real, fake = torch.randn(6, 2, 3, 3), torch.randn(4, 2, 3, 3)
    expected = sum(
        (real[:, c, i, j].mean() - fake[:, c, i, j].mean()) ** 2
        for c in range(2)
        for i in range(3)
        for j in range(3)
    )
    torch.testing.assert_close(feature_matching(real, fake), expected)
