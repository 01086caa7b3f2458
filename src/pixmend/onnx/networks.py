"""The inpainter and its evidence as ONNX: what `pixmend.models` computes for one image.

Images are [1, C, S, S] in [-1, 1] and known shares [1, 1, S, S]. Matrix products resize and differentiate, since their
sizes are constants here.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto

from pixmend.models import DCGAN, LEAST_WEIGHT, NEIGHBOURS, Inpainter, inpainter_latents
from pixmend.models.alignment import LEVELS, ROUNDED_AT, WARPED, Axis
from pixmend.models.inpainter import CANDIDATES, FAR, NEAR
from pixmend.onnx.values import Graph, Value

DRAWS = 8  # as in the method `default`
_CHUNK = 128  # bank images compared at a time, within a CPU's cache
# Bank images whose differences are summed again, without the rounding of large terms.
_CLOSE = 2 * CANDIDATES
_GROUPS = 8  # of group norm
_SWEEPS, _RADIUS = 8, 0.97  # these and what follows: see `pixmend.models.smooth_fill`
_STEPS = 48
_MIN_SIDE, _BIHARMONIC_MIN_SIDE = 4, 16
_TINY = 1e-12


@dataclass(frozen=True)
class Seen:
    """What the inpainter sees: as `pixmend.models.Evidence`, neighbours [K, C, S, S], distances [K]."""

    target: Value
    known: Value
    neighbours: Value | None
    distances: Value | None
    fill: Value

    def misfits(self) -> Value | float:
        """Return the squared differences of the neighbours that draws follow on the known pixels, [DRAWS]; 0 without any."""
        if self.distances is None:
            return 0.0
        weight = (self.target * 0.0 + self.known).sum(1, 2, 3, keep=True)
        return (self.distances.squared() * weight).reshape(-1)[np.arange(DRAWS) % NEIGHBOURS]


def look_up(graph: Graph, model: DCGAN, target: Value, known: Value) -> Seen:
    """Return the evidence; the bank is stored once, as uint8."""
    fill, bank = biharmonic_fill(target, known, model.settings.size), model.retrieval
    if bank is None:
        return Seen(target * known, known, None, None, fill)
    shape, count = bank.images.shape[1:], len(bank)
    images = F.pad(bank.images.flatten(1), (0, 0, 0, -count % _CHUNK))
    chunks = graph.value(images.view(-1, _CHUNK, images.shape[1]).numpy())
    weights = (target * 0.0 + known).reshape(-1, 1)  # [P, 1]
    pixels = ((target + 1.0) * 127.5)("Round").reshape(-1, 1)
    weighted = weights * pixels * 2.0

    def search(step: Value, least: Value, nearest: Value) -> list[Value]:
        values = chunks[step].floats()  # [_CHUNK, P]
        distances = (values.squared() @ weights - values @ weighted).reshape(-1)
        numbers = graph.value(np.arange(_CHUNK)) + step * _CHUNK
        distances = (numbers < count).where(distances, np.inf)
        least, places = graph.smallest(graph.concat(least, distances), _CLOSE)
        return [least, graph.concat(nearest, numbers)[places]]

    state = [np.full(_CLOSE, np.inf), np.zeros(_CLOSE, np.int64)]
    kinds = [TensorProto.FLOAT, TensorProto.INT64]
    least, nearest = graph.loop(search, state, times=-(-count // _CHUNK), kinds=kinds)
    values = chunks.reshape(-1, images.shape[1])[nearest].floats()  # [_CLOSE, P]
    exact = ((values - pixels.T).squared() @ weights).reshape(-1)
    _, order = graph.smallest((least < np.inf).where(exact, np.inf), min(CANDIDATES, count))
    shown = min(NEIGHBOURS, count)
    warped = min(max(shown, WARPED), count)
    candidates = values[order].reshape(-1, *shape)
    neighbours, distances = _align(candidates, target, known, model.settings.size, warped, shown)
    places = np.arange(NEIGHBOURS).clip(max=shown - 1)
    return Seen(target * known, known, neighbours[places], distances[places], fill)


def _align(
    images: Value, target: Value, known: Value, size: int, warped: int, count: int
) -> tuple[Value, Value]:
    """Return the ``count`` best of [N, C, S, S] in grey levels, and their distances: see `pixmend.models.alignment.align`.

    The best ``warped`` at whole positions are compared on all pixels.
    """
    graph, axis = images.graph, Axis.of(size)
    pixels = ((target + 1.0) * (127.5 * LEVELS) + ROUNDED_AT)("Floor").sum(0, 1) / float(LEVELS)
    least, warps = _warps(images.sum(1), pixels, known.sum(0, 1), axis)
    _, first = graph.smallest(least, warped)
    number = np.array(len(axis.positions))
    rows, columns = warps[first]("Div", number), warps[first]("Mod", number)
    shown = _warped(images[first], rows, columns, axis) / 127.5 - 1.0
    shown, squared = _fit_gain(shown, target, known)
    _, order = graph.smallest(squared.reshape(-1), count)
    weight = (target * 0.0 + known).sum(1, 2, 3, keep=True)
    distances = (squared[order].singles() / weight.at_least(1e-6))("Sqrt")
    return shown[order], (weight > 1e-6).where(distances, 2.0)


def _warps(images: Value, pixels: Value, known: Value, axis: Axis) -> tuple[Value, Value]:
    """Return the least penalised squared differences of images [N, S, S] from pixels [S, S], [N], and their warps."""
    graph, (warps, size) = images.graph, axis.positions.shape
    lattice = np.arange(0, size, axis.every)
    with graph.doubles():
        share, seen = (
            each.floats()("Gather", lattice, axis=0)("Gather", lattice, axis=1)
            for each in (known, pixels)
        )
        selection = graph.value(axis.selection().numpy())  # [A, L, S]
        squares = (share @ selection).reshape(warps, -1)
        products = ((share * seen) @ selection).reshape(warps, -1)
        rows = images.floats()("Gather", axis.nearest.numpy(), axis=1).reshape(0, 0, -1)
        total = rows.squared() @ squares.T - (rows @ products.T) * 2.0
        total = total + (share * seen.squared()).sum(0, 1)
        total = total.at_least(0.0) * axis.penalty().numpy()  # [N, A, A]
    total = total.reshape(0, -1)
    return total.extreme("Min", 1), total("ArgMin", axis=1, keepdims=0)


def _warped(images: Value, rows: Value, columns: Value, axis: Axis) -> Value:
    graph, low = images.graph, axis.positions.floor().clamp_max(axis.positions.shape[1] - 2)
    lows = graph.value(low.long().numpy())
    parts = graph.value((axis.positions - low).numpy().astype(np.float32))
    for dim, warps in ((2, rows), (3, columns)):
        others = (1, 5 - dim)
        index = lows[warps].expand(*others)("Expand", images("Shape"))
        before = images("GatherElements", index, axis=dim)
        after = images("GatherElements", index + 1, axis=dim)
        images = before + (after - before) * parts[warps].expand(*others)
    return images


def _fit_gain(images: Value, target: Value, known: Value) -> tuple[Value, Value]:
    """Return the images, brightened where this explains most of their difference, and its squared sum, float64 [K, 1, 1, 1]."""

    def squared(images: Value) -> Value:
        with images.graph.doubles():
            return (known * (images - target).squared()).floats().sum(1, 2, 3, keep=True)

    least, light = squared(images), images + 1.0
    seen = known * (target + 1.0)
    gain = (seen * light).sum(1, 2, 3, keep=True)
    gain = gain / (known * light.squared()).sum(1, 2, 3, keep=True).at_least(1e-6)
    scaled = (gain * light - 1.0)("Clip", -1.0, 1.0)
    errors = squared(scaled)
    explained = (errors + errors) < least
    return explained.where(scaled, images), explained.where(errors, least)


def biharmonic_fill(target: Value, known: Value, size: int) -> Value:
    """Return the biharmonic fill: see `pixmend.models.smooth_fill`."""
    with target.graph.doubles():
        seen, share = target.floats(), known.floats()
        filled = _clamp_to_known(_biharmonic(seen * share, share, size), seen, share)
    return filled.floats()


def _biharmonic(total: Value, share: Value, size: int) -> Value:
    fixed, values = (share > 0.0).floats(), total / share.at_least(1e-6)
    if size < 2 * _BIHARMONIC_MIN_SIDE:
        return _conjugate_gradients(_harmonic_fill(values, fixed, size), 1.0 - fixed, size)
    coarse = _biharmonic(_halve(total, size), _halve(share, size), size // 2)
    filled = _double(coarse, size, "bicubic")
    return _conjugate_gradients(filled + fixed * (values - filled), 1.0 - fixed, size)


def _conjugate_gradients(filled: Value, free: Value, size: int) -> Value:
    def total(values: Value) -> Value:
        return values.squared().sum(2, 3, keep=True)

    def step(
        _: Value, filled: Value, residual: Value, direction: Value, squared: Value
    ) -> list[Value]:
        curved = _laplacian(direction, size)
        length = squared / total(curved).at_least(_TINY)
        residual = residual - length * free * _laplacian(curved, size)
        after = total(residual)
        turned = residual + after / squared.at_least(_TINY) * direction
        return [filled + length * direction, residual, turned, after]

    residual = free * _laplacian(_laplacian(filled, size), size) * -1.0
    state = [filled, residual, residual, total(residual)]
    return filled.graph.loop(step, state, times=_STEPS)[0]


def _harmonic_fill(target: Value, known: Value, size: int) -> Value:
    sums, shares, sides = [target * known], [known], [size]
    while sides[-1] >= 2 * _MIN_SIDE:
        side = sides[-1]
        sums, shares = [*sums, _halve(sums[-1], side)], [*shares, _halve(shares[-1], side)]
        sides.append(sides[-1] // 2)
    share = shares[-1]("ReduceMean", np.array([2, 3])).at_least(1e-6)
    filled = sums[-1]("ReduceMean", np.array([2, 3])) / share + sums[-1] * 0.0
    for total, share, side in zip(sums[::-1], shares[::-1], sides[::-1], strict=True):
        if side != sides[-1]:
            filled = _double(filled, side, "bilinear")
        fixed = share if side == size else (share > 0.0).floats()
        values = total / share.at_least(1e-6)
        filled = _relax(filled + fixed * (values - filled), values, fixed, side)
    return _clamp_to_known(filled, target, known)


def _relax(filled: Value, values: Value, fixed: Value, side: int) -> Value:
    previous, step = filled, 1.0
    for sweep in range(_SWEEPS):
        mean = filled + _laplacian(filled, side) * 0.25
        swept = mean + fixed * (values - mean)
        if sweep:
            step = 1 / (1 - _RADIUS**2 * step / (2 if sweep == 1 else 4))
        filled, previous = previous + (swept - previous) * step, filled
    return filled


def _clamp_to_known(filled: Value, target: Value, known: Value) -> Value:
    seen = known > 0.0
    low = seen.where(target, 1.0).extreme("Min", 2, 3, keep=True)
    high = seen.where(target, -1.0).extreme("Max", 2, 3, keep=True)
    return filled.at_least(low.at_most(high)).at_most(low.at_least(high))


def _laplacian(values: Value, side: int) -> Value:
    """Return the divergence of the gradient, which is 0 across the edges of the image."""
    gradient = np.diff(np.eye(side), axis=0)  # [side - 1, side]
    back, graph = np.ascontiguousarray(gradient.T), values.graph
    vertical = graph.value(back) @ (graph.value(gradient) @ values)
    return (vertical + (values @ back) @ gradient) * -1.0


def _halve(values: Value, size: int) -> Value:
    matrix = np.eye(size // 2).repeat(2, 1) / 2
    return values.graph.value(matrix) @ values @ np.ascontiguousarray(matrix.T)


def _double(values: Value, size: int, mode: str) -> Value:
    """Return maps at ``size``, twice theirs."""
    one = torch.eye(size // 2, dtype=torch.float64)[None, None]
    matrix = F.interpolate(one, (size, size // 2), mode=mode, align_corners=False)[0, 0].numpy()
    return values.graph.value(matrix) @ values @ np.ascontiguousarray(matrix.T)


class UNet:
    """`pixmend.models.Inpainter` for one image; weights are stored as float16 with ``half``."""

    def __init__(self, graph: Graph, model: DCGAN, *, half: bool) -> None:
        assert isinstance(model.inpainter, Inpainter)
        self._graph, self._half = graph, half
        self._weights: dict[str, NDArray[np.float32]] = {
            name: value.numpy() for name, value in model.inpainter.state_dict().items()
        }
        self.fold, self.size = model.inpainter.fold, model.settings.size
        self.experts = model.inpainter.neighbours + 2
        self.depth = len(model.inpainter.downs)
        self._z = inpainter_latents(DRAWS, seed=0).numpy()
        followed = np.zeros((DRAWS, self.experts), np.float32)
        followed[:, : self.experts - 2] = self._z[:, : self.experts - 2] * self._weights["follow"]
        self._followed = followed[:, :, None, None]

    def encode(self, seen: Seen) -> list[Value]:
        """Return the maps of the way down."""
        parts = [seen.target, seen.known * 2.0 - 1.0]
        if seen.neighbours is not None:
            parts.append(seen.neighbours.reshape(1, -1, self.size, self.size))
        maps = self._graph.concat(*parts, seen.fill, axis=1)
        inner, fold = self.size // self.fold, self.fold
        if fold > 1:  # DepthToSpace inverts this, but SpaceToDepth has another order
            maps = maps.reshape(-1, inner, fold, inner, fold)("Transpose", perm=[0, 2, 4, 1, 3])
            maps = maps.reshape(1, -1, inner, inner)
        if seen.distances is not None:
            planes = seen.distances.reshape(1, -1, 1, 1)
            planes = planes("Expand", np.array([1, self.experts - 2, inner, inner]))
            maps = self._graph.concat(maps, planes, axis=1)
        skips = [self._block("downs.0", inner, maps)]
        for level in range(1, self.depth):
            halved = skips[-1]("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
            skips.append(self._block(f"downs.{level}", inner >> level, halved))
        return skips

    def estimate(self, maps: list[Value], seen: Seen) -> tuple[Value, Value]:
        """Return the mean of all plausible completions, [1, C, S, S], and its log variance, [1, 1, S, S]."""
        return self._mix(self._way_up("estimator", maps), seen)

    def draw(self, maps: list[Value], seen: Seen) -> Value:
        """Return the draws, [DRAWS, C, S, S]."""
        return self._mix(self._way_up("drawer", maps), seen, self._followed)[0]

    def _way_up(self, part: str, maps: list[Value]) -> Value:
        inner, above = self.size // self.fold, maps[-1]
        for up, level in enumerate(range(self.depth - 2, -1, -1)):
            above = above("Resize", None, np.array([1, 1, 2, 2], np.float32), mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
            above = self._block(f"{part}.ups.{up}", inner >> level, above, maps[level])
        return (
            self._convolve(f"{part}.head", above)
            + self._weights[f"{part}.head.bias"][:, None, None]
        )

    def _block(self, name: str, side: int, maps: Value, skip: Value | None = None) -> Value:
        maps = self._convolve(f"{name}.first", maps, skip)
        maps = self._convolve(
            f"{name}.second", _silu(self._normalise(f"{name}.first_norm", side, maps))
        )
        maps = self._normalise(f"{name}.second_norm", side, maps)
        if f"{name}.modulate.weight" in self._weights:
            weight, bias = (self._weights[f"{name}.modulate.{each}"] for each in ("weight", "bias"))
            scale, shift = np.split((self._z @ weight.T + bias)[:, :, None, None], 2, axis=1)
            maps = maps * (1 + scale) + shift  # from here on a map for each draw
        return _silu(maps)

    def _convolve(self, name: str, maps: Value, skip: Value | None = None) -> Value:
        """Convolve maps and, with other weights, a skip, which all draws share."""
        weight = self._weights[f"{name}.weight"]
        if skip is None:
            return maps("Conv", self._weight(weight), pads=[1, 1, 1, 1])
        below = weight.shape[1] - weight.shape[0]  # a skip is as wide as what comes out
        parts = zip((maps, skip), np.split(weight, [below], axis=1), strict=True)
        one, other = (
            each("Conv", self._weight(weights), pads=[1, 1, 1, 1]) for each, weights in parts
        )
        return one + other

    def _weight(self, weight: NDArray[np.float32]) -> Value:
        return (
            self._graph.value(weight.astype(np.float16)).floats()
            if self._half
            else self._graph.value(weight)
        )

    def _normalise(self, name: str, side: int, maps: Value) -> Value:
        weight, bias = (self._weights[f"{name}.{each}"] for each in ("weight", "bias"))
        groups = maps.reshape(0, _GROUPS, -1)
        normal = groups(
            "InstanceNormalization", np.ones(_GROUPS, np.float32), np.zeros(_GROUPS, np.float32)
        )
        return (
            normal.reshape(-1, len(weight), side, side) * weight[:, None, None]
            + bias[:, None, None]
        )

    def _mix(
        self, output: Value, seen: Seen, followed: NDArray[np.float32] | None = None
    ) -> tuple[Value, Value]:
        """Mix the experts and own colours by a softmax of each pixel."""
        if self.fold > 1:
            output = output("DepthToSpace", blocksize=self.fold, mode="CRD")
        last, end = self.experts - 1, np.iinfo(np.int64).max
        logits = output.part(1, 0, self.experts)
        if seen.distances is not None:
            closeness = ((seen.distances + NEAR) / FAR)("Log") * -float(self._weights["trust"])
            others = np.zeros((1, self.experts - NEIGHBOURS, 1, 1), np.float32)
            trusted = self._graph.concat(closeness.reshape(1, -1, 1, 1), others, axis=1)
            logits = logits + trusted
        weights = (logits if followed is None else logits + followed)("Softmax", axis=1)
        weights = (weights - LEAST_WEIGHT)("Relu")
        weights = weights / weights.sum(1, keep=True)
        experts = (
            seen.fill if seen.neighbours is None else self._graph.concat(seen.neighbours, seen.fill)
        )
        mixed = (weights.part(1, 0, last).expand(2) * experts.expand(0)).sum(1)
        own = output.part(1, self.experts, -1)("Tanh") * weights.part(1, last, self.experts)
        return mixed + own, output.part(1, -1, end)("Clip", -8.0, 2.0)


def _silu(maps: Value) -> Value:
    return maps * maps("Sigmoid")
