"""The whole completion of one image as an ONNX graph: view, inpainter, choice, blend.

    image, mask --resize--> target, known --bank, fill, U-Net--> draws --order--> answers --detail, Poisson--> images

It computes what `pixmend.completion` does for the method ``default`` and the whole image. Matrices take the place of slices
and sparse solvers, so that one graph fits images of any size. Numbers are float32, also positions, which are exact;
fills and alignment are computed in float64.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from pixmend.images import channel_count, parse_colour, to_channels
from pixmend.models import DCGAN, Calibration
from pixmend.models.calibration import CORRECT_TOLERANCE
from pixmend.models.inpainter import HOLE_WEIGHT
from pixmend.onnx.enlargement import enlarge, resizing
from pixmend.onnx.networks import DRAWS, UNet, look_up
from pixmend.onnx.values import Graph, Value, typed

_ALIKE = 8 / 127.5  # see `pixmend.completion.pipeline`
_LEVELS = 6  # of the multilevel preconditioner
_MAX_STEPS = 500  # of conjugate gradients; half of 512 px takes 60
_CONVERGED = 1e-8  # squared residual, preconditioned: an error well below a grey level
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)
_CROSS = np.array([[[[0, 1, 0], [1, 0, 1], [0, 1, 0]]]], np.float32)
_BILINEAR = np.outer([1, 3, 3, 1], [1, 3, 3, 1])[None, None].astype(np.float32) / 16
_IMAGE: list[int | str] = [1, "height", "width", "channels"]
_INPUTS = [
    typed("image", TensorProto.UINT8, _IMAGE),
    typed("mask", TensorProto.UINT8, _IMAGE[:3]),
    typed("count", TensorProto.INT64, [1]),
    typed("average", TensorProto.BOOL, [1]),
]
_OUTPUTS = [
    typed("best", TensorProto.UINT8, _IMAGE),
    typed("candidates", TensorProto.UINT8, ["count", *_IMAGE[1:]]),
    typed("uncertainty", TensorProto.FLOAT, _IMAGE[:3]),
    typed("confidence", TensorProto.FLOAT, [1]),
]


def completion_graph(model: DCGAN, *, half: bool = False) -> onnx.GraphProto:
    """Return the graph; its inputs and outputs are in docs/reference.md."""
    graph = Graph()
    image, mask, count, average = (
        Value(graph, name) for name in ("image", "mask", "count", "average")
    )
    hole = mask.floats()[0] >= 128.0  # [H, W]
    outside = _background(model)
    colours, seen = _colours(image.floats()[0], model)
    to_model, from_model = _conversions(colours, model)
    seen = (seen @ to_model)("Round")("Transpose", perm=[2, 0, 1]) / 127.5 - 1.0
    frame = _Frame(hole, model)
    target, known = frame.view(seen, hole, outside)

    network, evidence = UNet(graph, model, half=half), look_up(graph, model, target, known)
    maps = network.encode(evidence)
    mean, log_variance = network.estimate(maps, evidence)
    draws, variance = network.draw(maps, evidence), log_variance("Exp")
    order = _distinct(draws, mean, known, evidence.misfits()) + 1
    order = average.where(
        graph.concat(np.zeros(1, np.int64), order),
        graph.concat(order, order[np.zeros(1, np.int64)]),
    )
    chosen = graph.concat(mean, draws)[order.part(0, 0, count)]  # [K, C, S, S]

    levels = ((chosen + 1.0) * 127.5)("Round")("Clip", 0.0, 255.0)("Transpose", perm=[0, 2, 3, 1])
    native = _without_hidden((levels @ from_model)("Round"), 3, model)(
        "Transpose", perm=[0, 3, 1, 2]
    )
    planes = colours("Transpose", perm=[2, 0, 1])
    # Detail is found in the opacity, too: an answer of a model without alpha is opaque.
    shown, answers = planes, native
    if model.settings.channels != "RGBA":
        alpha = image.floats()[0].part(2, 3, 4)("Transpose", perm=[2, 0, 1])
        shown = graph.concat(planes, alpha)
        opaque = native.part(1, 0, 1) * 0.0 + 255.0
        answers = graph.concat(native, opaque, axis=1).part(1, 0, image.length(3))
    enlarged = frame.add_detail(answers, shown, hole, count, average)
    enlarged = enlarged.part(1, 0, planes.length(0))
    difference = frame.inside.where(planes - enlarged, 0.0)
    blended = planes - difference + _extend(difference, hole)
    pixels = blended("Round")("Clip", 0.0, 255.0)("Transpose", perm=[0, 2, 3, 1])
    if model.settings.channels != "RGBA":  # a model without alpha generates opaque pixels
        opaque = pixels.part(3, 0, 1) * 0.0 + 255.0
        pixels = graph.concat(pixels, opaque, axis=3).part(3, 0, image.length(3))
    candidates = hole.expand(2).where(pixels("Cast", to=TensorProto.UINT8), image)
    deviation = frame.enlarge(variance("Sqrt") * 127.5)[0]
    outputs = {
        "best": candidates.part(0, 0, 1),
        "candidates": candidates,
        "uncertainty": hole.where(deviation, 0.0),
        "confidence": _confidence(variance, known, Calibration.of(model.card)),
    }
    for name, value in outputs.items():
        graph.rename(value, name)
    return graph.finish(_INPUTS, _OUTPUTS)


def _background(model: DCGAN) -> NDArray[np.float32]:
    """Return the colour beyond the image's edges, [C] in [-1, 1]."""
    colour, channels = _background_colour(model), model.settings.channels
    paint = np.array([[[*colour, 0] if channels == "RGBA" else colour]], np.uint8)
    levels: NDArray[np.float32] = to_channels(paint, channels, colour)[0, 0].astype(np.float32)
    return levels / np.float32(127.5) - 1


def _background_colour(model: DCGAN) -> tuple[int, int, int]:
    return parse_colour(str(model.card.get("background", "white")))


def _colours(image: Value, model: DCGAN) -> tuple[Value, Value]:
    """Return the colours that flow into the hole, [H, W, 1 or 3] (4 for a model of RGBA), and those that the model sees.

    The colours of fully transparent pixels are arbitrary, and become the background.
    """
    if model.settings.channels == "RGBA":
        image = _without_hidden(image, 2, model)
        return image, image
    colours, bands = image.part(2, 0, 3), image.length(2)
    behind = image.graph.value(np.array(_background_colour(model), np.float32)).part(0, 0, bands)
    opaque = image.part(2, 0, 1) * 0.0 + 255.0
    alpha = image.graph.concat(image.part(2, 3, 4), opaque, axis=2).part(2, 0, 1) * (1 / 255)
    composited = (colours * alpha + (1.0 - alpha) * behind)("Round")
    return (alpha > 0.0).where(colours, behind), composited


def _without_hidden(image: Value, axis: int, model: DCGAN) -> Value:
    """Give the fully transparent pixels of a model with alpha the background's colour; channels are the last ``axis``."""
    if model.settings.channels != "RGBA":
        return image
    behind = ((_background(model) + 1) * 127.5).round()
    return (image.part(axis, 3, 4) > 0.0).where(image, behind)


def _conversions(colours: Value, model: DCGAN) -> tuple[Value, Value]:
    """Return matrices from the image's colours to the model's, and back."""
    channels, graph = model.settings.channels, colours.graph
    there = _LUMA if channels == "L" else np.eye(channel_count(channels), dtype=np.float32)
    if channels == "RGBA":
        return graph.value(there), graph.value(there)
    back = np.ones((1, 3), np.float32) if channels == "L" else there
    bands = colours.length(2)
    colour, grey = bands > 1, np.broadcast_to(back @ _LUMA, back.shape)
    to_model = colour.where(there, np.ones_like(there)).part(0, 0, bands)
    return to_model, colour.where(back, grey).part(1, 0, bands)


class _Frame:
    """The rectangle that the model sees, as `pixmend.completion.view.Frame`, by matrices along rows and columns."""

    def __init__(self, hole: Value, model: DCGAN) -> None:
        graph, fit, size = hole.graph, model.card.get("fit", "crop"), float(model.settings.size)
        lengths = [hole.length(axis).floats() for axis in (0, 1)]
        indices = [graph.range(each) for each in lengths]
        longer = lengths[0].at_least(lengths[1])
        spans: list[tuple[Value, Value]] = [(each * 0.0, each) for each in lengths]
        if fit != "stretch":
            spans = [((each - longer) // 2.0, longer) for each in lengths]
        if fit == "crop":
            spans = _crop(hole, lengths, indices, spans)
        self._padded, cells = fit == "pad", graph.value(np.arange(size))
        places = [index - start for index, (start, _) in zip(indices, spans, strict=True)]
        sides = [side for _, side in spans]
        self._down = [
            resizing(cells.expand(1), place, side, size)
            for place, side in zip(places, sides, strict=True)
        ]
        self._up = [
            resizing(place.expand(1), cells, size, side)
            for place, side in zip(places, sides, strict=True)
        ]
        self._spans, self._size = spans, model.settings.size
        rows, columns = (
            (place >= 0.0) & (place < side) for place, side in zip(places, sides, strict=True)
        )
        self.inside = rows.expand(1) & columns  # bool [H, W]

    def view(self, image: Value, hole: Value, outside: NDArray[np.float32]) -> tuple[Value, Value]:
        """Return the content [1, C, S, S] and its known share [1, 1, S, S]."""
        rows, columns = self._down
        known = hole.where(0.0, 1.0)
        share = rows @ known @ columns.T
        total = rows @ (image * known) @ columns.T
        if self._padded:  # background beyond the edges is known
            beyond = 1.0 - rows.sum(1).expand(1) * columns.sum(1)
            beyond = (beyond > 1e-6).where(beyond, 0.0)
            share, total = share + beyond, total + beyond * outside[:, None, None]
        share = (share > 1 - 1e-6).where(1.0, (share > 1e-6).where(share, 0.0))
        content = (share > 0.0).where(total / share.at_least(1e-6), 0.0)
        return content.expand(0), share.expand(0, 1)

    def enlarge(self, generated: Value) -> Value:
        """Return images [K, C, S, S] at the image's size."""
        rows, columns = self._up
        return rows @ generated @ columns.T

    def add_detail(
        self, answers: Value, image: Value, hole: Value, count: Value, average: Value
    ) -> Value:
        """Return answers [count, C, S, S] at the size of the image [C, H, W], with its detail.

        The first has none if it is an ``average``. Values are grey levels.
        """
        graph, cut, paste = image.graph, *self._paddings(image)
        frame, known = image("Pad", cut) / 127.5 - 1.0, hole.where(0.0, 1.0).expand(0)("Pad", cut)

        def enlarged(number: Value) -> list[Value]:
            plain = average.reshape() & (number < 1)
            answer = answers[number] / 127.5 - 1.0
            return [enlarge(answer, frame, known[0] > 0.0, self._size, plain=plain)]

        stacked = graph.loop(enlarged, [], times=count.reshape())[0]
        return ((stacked + 1.0) * 127.5)("Pad", paste)

    def _paddings(self, image: Value) -> tuple[Value, Value]:
        """Return paddings, of which negative ones cut: from [C, H, W] to the frame, and from [K, C, h, w] back."""
        graph, before, after = image.graph, [], []
        for axis, (start, side) in enumerate(self._spans, start=1):
            before.append(start.reshape(1))
            after.append((image.length(axis).floats() - start - side).reshape(1))
        none = np.zeros(1, np.float32)
        back = graph.concat(none, none, *before, none, none, *after)
        cut = graph.concat(none, *before, none, *after) * -1.0
        return cut("Cast", to=TensorProto.INT64), back("Cast", to=TensorProto.INT64)


def _crop(
    hole: Value, lengths: list[Value], indices: list[Value], around: list[tuple[Value, Value]]
) -> list[tuple[Value, Value]]:
    """Return the square of a model of cropped images: see `pixmend.completion.view.frame_for`."""
    known, edges = hole.where(0.0, 1.0), _edges(hole)
    (top, bottom), (left, right) = edges
    side = lengths[0].at_most(lengths[1]).at_least((bottom - top).at_least(right - left))
    near = [_place(*edge, side, length) for edge, length in zip(edges, lengths, strict=True)]
    seen_rows, seen_columns = (
        ((index >= start) & (index < start + side)).floats()
        for index, start in zip(indices, near, strict=True)
    )
    seen = seen_rows.expand(1) * seen_columns
    share = (seen * known).sum(0, 1) / seen.sum(0, 1).at_least(1.0)
    whole = share * 2.0 < known.sum(0, 1) / (lengths[0] * lengths[1])
    return [
        (whole.where(start, close), whole.where(longer, side))
        for (start, longer), close in zip(around, near, strict=True)
    ]


def _edges(hole: Value) -> list[tuple[Value, Value]]:
    """Return the first and past-the-last missing row, and column, as floats."""
    edges, missing = [], hole.floats()
    for axis in (0, 1):
        any_missing, length = missing.extreme("Max", 1 - axis) > 0.5, hole.length(axis).floats()
        index = hole.graph.range(length)
        first = any_missing.where(index, length).extreme("Min", 0)
        edges.append((first, any_missing.where(index + 1.0, 0.0).extreme("Max", 0)))
    return edges


def _place(first: Value, last: Value, side: Value, length: Value) -> Value:
    middle = (length - side) // 2.0
    moved = (first < middle).where(first, middle.at_least(last - side))
    return (side >= length).where(middle, moved.at_least(0.0).at_most(length - side))


def _distinct(draws: Value, mean: Value, known: Value, misfits: Value | float) -> Value:
    """Return the draws best first, those like an earlier one in the hole last: int64 [DRAWS]."""
    graph = draws.graph
    errors = ((draws - mean).squared() * (1.0 - known)).sum(1, 2, 3) * HOLE_WEIGHT + misfits
    _, order = graph.smallest(errors, DRAWS)
    missing = (known < 1 - 1e-6).floats()
    missing = (missing.extreme("Max", 0, 1, 2, 3) > 0.5).where(missing, 1.0)
    images, count = draws[order], (draws[0] * 0.0 + missing[0]).sum(0, 1, 2)
    gaps = ((images.expand(1) - images).squared() * missing).sum(2, 3, 4) / count
    alike = (gaps < _ALIKE**2).floats()  # [DRAWS, DRAWS]
    distinct = graph.value(np.ones(1, np.float32))
    for position in range(1, DRAWS):
        similar = (alike[position].part(0, 0, position) * distinct).sum(0, keep=True)
        distinct = graph.concat(distinct, (similar < 0.5).floats())
    _, places = graph.smallest(distinct * -float(DRAWS) + np.arange(DRAWS, dtype=np.float32), DRAWS)
    return order[places]


def _extend(difference: Value, hole: Value) -> Value:
    """Extend known values [K, C, H, W] into the hole [H, W]: each missing pixel is the mean of its neighbours.

    Conjugate gradients with the multilevel preconditioner of Bramble, Pasciak and Xu (1990), whose number of steps hardly
    depends on the size. `pixmend.completion.blend` solves the same equations by factors.
    """
    graph = difference.graph
    box, outside = _around(hole)
    for axis, bounds in enumerate(box):
        difference, hole = difference.part(axis + 2, *bounds), hole.part(axis, *bounds)
    missing = hole.floats().expand(0, 1)
    shape = graph.concat(*(difference.length(axis).reshape(1) for axis in range(4)))
    values = graph.concat(np.array([-1, 1]), shape.part(0, 2, 4))
    degree = _neighbours(missing * 0.0 + 1.0) * missing
    border = _neighbours(1.0 - missing) * missing
    weights, sizes = [missing / degree.at_least(1.0)], [missing]
    for _ in range(_LEVELS):
        border = _coarsen(border)
        weights.append(graph.value(1.0) / (border + 4.0))
        sizes.append(border)

    def smooth(residual: Value) -> Value:
        parts = [residual]
        for _ in range(_LEVELS):
            parts.append(_coarsen(parts[-1]))
        smoothed = parts[-1] * weights[-1]
        for size, part, weight in zip(sizes[-2::-1], parts[-2::-1], weights[-2::-1], strict=True):
            smoothed = _refine(smoothed, size) + part * weight
        return smoothed * missing

    def step(
        _: Value, solution: Value, residual: Value, direction: Value, product: Value
    ) -> list[Value]:
        applied = degree * direction - _neighbours(direction) * missing
        length = product / (direction * applied).sum(2, 3, keep=True).at_least(1e-20)
        residual = residual - length * applied
        smoothed = smooth(residual)
        after = (residual * smoothed).sum(2, 3, keep=True)
        direction_after = smoothed + after / product.at_least(1e-20) * direction
        return [solution + length * direction, residual, direction_after, after]

    known = hole.where(0.0, difference * (1 / 127.5))
    residual = _neighbours(known("Reshape", values)) * missing
    direction = smooth(residual)
    state = [residual * 0.0, residual, direction, (residual * direction).sum(2, 3, keep=True)]
    solution, *_ = graph.loop(
        step,
        state,
        times=_MAX_STEPS,
        going=lambda *state: state[3].extreme("Max", 0, 1, 2, 3) > _CONVERGED,
    )
    return (solution("Reshape", shape) * 127.5)("Pad", outside)


def _around(hole: Value) -> tuple[list[tuple[Value, Value]], Value]:
    """Return the rows and columns of the hole [H, W] and of the pixels around it, and the padding back, int64 [8]."""
    graph, box, before, after = hole.graph, [], [], []
    for axis, (first, last) in enumerate(_edges(hole)):
        length = hole.length(axis).floats()
        start, stop = (first - 1.0).at_least(0.0), (last + 1.0).at_most(length)
        box.append((start("Cast", to=TensorProto.INT64), stop("Cast", to=TensorProto.INT64)))
        before.append(start.reshape(1))
        after.append((length - stop).reshape(1))
    none = np.zeros(2, np.float32)
    return box, graph.concat(none, *before, none, *after)("Cast", to=TensorProto.INT64)


def _coarsen(values: Value) -> Value:
    """Return the transpose of `_refine`: at half the size [N, 1, h, w], rounded up."""
    return values("Conv", _BILINEAR, pads=[1, 1, 2, 2], strides=[2, 2])


def _refine(values: Value, like: Value) -> Value:
    """Double [N, 1, h, w] bilinearly, to the size of another, which is a row or column less at most."""
    doubled = values("ConvTranspose", _BILINEAR, pads=[1, 1, 1, 1], strides=[2, 2])
    return doubled.part(2, 0, like.length(2)).part(3, 0, like.length(3))


def _neighbours(values: Value) -> Value:
    """Return the sum of the four neighbours in [N, 1, H, W]; there are none beyond the edges."""
    return values("Conv", _CROSS, pads=[1, 1, 1, 1])


def _confidence(variance: Value, known: Value, calibration: Calibration | None) -> Value:
    """Return the calibrated share of correct missing pixels, [1]; NaN without a calibration."""
    graph, missing = variance.graph, 1.0 - known
    if calibration is None:
        return graph.value(np.array([np.nan], np.float32))
    chance = (graph.value(CORRECT_TOLERANCE) / (variance * 2.0).at_least(1e-12)("Sqrt"))("Erf")
    share = (chance * missing).sum(0, 1, 2, 3) / missing.sum(0, 1, 2, 3).at_least(1e-6)
    predicted, observed = (
        np.array(each, np.float32) for each in (calibration.predicted, calibration.observed)
    )
    if len(predicted) == 1:
        return graph.value(observed)
    # Linear between the points, constant beyond them: a sum of ramps.
    steps, rises = np.diff(predicted).clip(1e-6), np.diff(observed)
    ramps = ((share - predicted[:-1]) / steps)("Clip", 0.0, 1.0)
    return ((ramps * rises).sum(0, keep=True)) + observed[:1]
