"""Blending G's image into the hole; known pixels never change."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Blend = Literal["paste", "feather", "poisson"]

_CACHED = 8  # factorisations: 5 MB each at most
_FEW = 10_000  # unknowns up to which a factorisation is faster than setting up a multigrid
# A pixel and its neighbour to the right, and below.
_PAIRS = ((np.s_[..., :-1], np.s_[..., 1:]), (np.s_[..., :-1, :], np.s_[..., 1:, :]))


def paste(image: Tensor, generated: Tensor, known: Tensor) -> Tensor:
    """Return M * y + (1 - M) * G(z): [C, H, W] of two [C, H, W] and a bool [H, W]."""
    return torch.where(known, image, generated)


def feather(image: Tensor, generated: Tensor, known: Tensor, *, width: float = 4.0) -> Tensor:
    """Fade from the image's values at the hole's border to G's further in.

    A weighted mean over a transition zone inside the hole (Burt and Adelson 1983, section 1): x = w h + (1 - w) G(z), with h the
    harmonic extension of the known pixels (Perez 2003, equation 2) and w = max(0, 1 - d / width) at distance d from them.
    Of two [C, H, W] in [-1, 1] and a bool [H, W] with at least one True; ``width`` is in image pixels.
    """
    from scipy.ndimage import distance_transform_edt

    def join(image: Tensor, generated: Tensor, known: Tensor) -> Tensor:
        distance = torch.from_numpy(distance_transform_edt(~known.numpy())).to(image.dtype)
        weight = (1 - distance / width).clamp_min(0)  # [H, W]
        return weight * _harmonic(image, known) + (1 - weight) * generated

    return _in_the_hole(join, image, generated, known)


def poisson(image: Tensor, generated: Tensor, known: Tensor) -> Tensor:
    """Fill the hole with G's gradients and the image's values at its border (Perez 2003, equation 4; Yeh 2017, equation 6).

    With x = G(z) + u, the correction u is harmonic in the hole, y - G(z) around it, and flat across the image's edge.
    Of two [C, H, W] in [-1, 1] and a bool [H, W] with at least one True.
    """

    def join(image: Tensor, generated: Tensor, known: Tensor) -> Tensor:
        return (generated + _harmonic(image - generated, known)).clamp(-1, 1)

    return _in_the_hole(join, image, generated, known)


BLENDS: dict[Blend, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "paste": paste,
    "feather": feather,
    "poisson": poisson,
}


def _in_the_hole(
    join: Callable[[Tensor, Tensor, Tensor], Tensor],
    image: Tensor,
    generated: Tensor,
    known: Tensor,
) -> Tensor:
    """Apply ``join`` to the rectangle around the hole and its border, and keep all known pixels."""
    rows, columns = (torch.nonzero((~known).any(axis)).flatten() for axis in (1, 0))
    if not len(rows):
        return image.clone()
    part = (
        slice(max(0, int(rows[0]) - 1), int(rows[-1]) + 2),
        slice(max(0, int(columns[0]) - 1), int(columns[-1]) + 2),
    )
    here = (slice(None), *part)
    result = image.clone()
    joined = join(image[here], generated[here], known[part])
    result[here] = torch.where(known[part], image[here], joined)
    return result


def _harmonic(values: Tensor, known: Tensor) -> Tensor:
    """Extend known values [C, H, W] into the hole: each missing pixel is the mean of its neighbours."""
    hole, given = ~known.numpy(), values.double().numpy()
    extended = given.copy()
    extended[:, hole] = _solver(hole)(_border_sums(given, hole)).T
    return torch.from_numpy(extended).to(values.dtype)


def _border_sums(values: NDArray[Any], hole: NDArray[np.bool_]) -> NDArray[Any]:
    """Return b of A u = b, [N, C]: the sum of each missing pixel's known neighbours."""
    given, sums = np.where(hole, 0, values), np.zeros_like(values)
    for one, other in _PAIRS:
        sums[one] += given[other]
        sums[other] += given[one]
    return sums[:, hole].T


def _solver(hole: NDArray[np.bool_]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return a solver of A u = b [N, C]: a factorisation if N is small, else conjugate gradients with multigrid."""
    if np.count_nonzero(hole) <= _FEW:
        return _factors(np.packbits(hole).tobytes(), hole.shape)
    # Classical coarsening (Ruge and Stueben 1987) is deterministic.
    from pyamg import ruge_stuben_solver

    grids = ruge_stuben_solver(_laplace(hole))
    return lambda right: np.stack(
        [grids.solve(column, tol=1e-8, accel="cg") for column in right.T], axis=1
    )


# Images of a batch often share one hole, and factorising it is the slowest part of a blend.
@lru_cache(maxsize=_CACHED)
def _factors(bits: bytes, shape: tuple[int, int]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    from scipy.sparse.linalg import splu

    hole = np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1])
    matrix = _laplace(hole.reshape(shape).astype(np.bool_))
    options = {"SymmetricMode": True}
    solve: Callable[[NDArray[Any]], NDArray[Any]] = splu(
        matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options=options
    ).solve
    return solve


def _laplace(hole: NDArray[np.bool_]) -> "csr_array":
    """Return A [N, N] of A u = b on the N missing pixels: the grid's degree - adjacency, symmetric positive definite."""
    from scipy.sparse import coo_array

    count = np.count_nonzero(hole)
    number = np.zeros(hole.shape, np.intp)
    number[hole] = np.arange(count)
    degree, edges = np.zeros(hole.shape), []
    for one, other in _PAIRS:
        for here, there in ((one, other), (other, one)):
            degree[here] += 1
            both = hole[here] & hole[there]
            edges.append(np.stack([number[here][both], number[there][both]]))
    rows, columns = np.concatenate([np.tile(np.arange(count), (2, 1)), *edges], axis=1)
    entries = np.full(len(rows), -1.0)
    entries[:count] = degree[hole]
    return coo_array((entries, (rows, columns))).tocsr()
