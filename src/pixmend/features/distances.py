"""Distances between sets of images, in features: functions of tensors, each with its source."""

import torch
from torch import Tensor

_CHUNK = 256


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Return the KID of two sets of features [N, F] and [M, F]: unbiased MMD^2, so that it may be a little below 0.

    With the kernel k(a, b) = (a.b / F + 1)^3, the means of k over pairs within each set, without the pairs of an item with itself,
    less twice the mean over pairs between them (Binkowski 2018, equations 4 and 5).
    """
    x, y = x.double(), y.double()
    within = sum(
        (kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1))
        for kernel in (_kernel(x, x), _kernel(y, y))
    )
    return float(within - 2 * _kernel(x, y).mean())


def paired_kernel_distance(x: Tensor, y: Tensor) -> float:
    """Return the unbiased MMD^2 of two sets [N, F] whose n-th rows belong together, such as images and their completions.

    As `kernel_distance`, but without the pairs (n, n) between the sets, which know of each other (Gretton 2012, lemma 6): of a set and
    itself it is 0.
    """
    x, y = x.double(), y.double()
    pairs = len(x) * (len(x) - 1)
    within, between = _kernel(x, x) + _kernel(y, y), _kernel(x, y)
    apart = within.sum() - within.trace() - 2 * (between.sum() - between.trace())
    return float(apart / pairs)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of two sets of features [N, F] and [M, F] (Heusel 2017, equation 6).

    With fewer images than features it is biased upwards: compare only figures of equal counts.
    """
    x, y = x.double(), y.double()
    ours, theirs = (
        (part - part.mean(0)) / (len(part) - 1) ** 0.5 for part in (x, y)
    )  # S = ours^T ours
    # The trace of (S S')^(1/2) is the sum of the singular values of ours theirs^T, [N, M]: no matrix root is needed.
    overlap = torch.linalg.svdvals(ours @ theirs.T).sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + ours.square().sum() + theirs.square().sum() - 2 * overlap)


def nearest_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the L2 distance of each row of x [N, D] to the nearest row of y [M, D], [N]."""
    nearest = torch.full((len(x),), torch.inf, device=x.device)
    for part in torch.split(y, _CHUNK):
        nearest = torch.minimum(nearest, torch.cdist(x, part).min(1).values)
    return nearest


def mean_pairwise_distance(x: Tensor) -> float:
    """Return the mean L2 distance of two different rows of x [N, D]."""
    return float(torch.pdist(x.cpu()).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
