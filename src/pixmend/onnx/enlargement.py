"""Enlarging answers in an ONNX graph, plainly or with the detail of the known pixels: see `pixmend.completion.detail`.

Images are [C, H, W] in [-1, 1]; places are numbers of pixels, row by row.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from pixmend.onnx.runtime import MAX_SIDE
from pixmend.onnx.values import Operand, Value

_SIDE, _MARGIN, _EXAMPLES, _PRODUCTS = 5, 2, 1024, 2**27  # these and _FLAT: see there
_FLAT = 2 / 127.5
_AROUND = np.array([0, _MARGIN, _MARGIN] * 2)
_SCORES = 2**22  # of patches and examples, computed at a time
_WHOLE = 1 - 1e-6  # share from which a pixel is known
# The first draws of torch's generator with seed 0.
_DRAWS = np.random.RandomState(0).randint(0, 2**32, _EXAMPLES, np.uint32).astype(np.int64)
_SQUARE = np.arange(_SIDE**2).reshape(_SIDE, _SIDE)
_TURNED = [np.rot90(_SQUARE, turns) for turns in range(4)]
_ORIENTATIONS = np.concatenate([*_TURNED, *(each[:, ::-1] for each in _TURNED)]).reshape(-1)
_LINE = np.exp(-0.5 * (np.arange(_SIDE) - _MARGIN) ** 2)
_GAUSSIAN = (np.outer(_LINE, _LINE) / _LINE.sum() ** 2).reshape(-1).astype(np.float32)
_ROOTS: NDArray[np.float32] = np.sqrt(_GAUSSIAN)


def enlarge(answer: Value, image: Value, known: Value, size: int, *, plain: Value) -> Value:
    """Enlarge [C, size, size] to an image's size, with its detail unless ``plain``, bool []; ``known`` is bool [H, W]."""
    graph, steps_to, sizes = answer.graph, *_sizes(size)
    last, share = (image.length(1), image.length(2)), known.floats().expand(0)
    steps = plain.where(0, graph.value(steps_to)[last[0].at_least(last[1])])

    def step(number: Value, answer: Value) -> list[Value]:
        table = graph.value(sizes)[steps]
        coarser, finer = ([table[each][side] for side in last] for each in (number, number + 1))
        shrunk, shares = _shrink(image, share, finer)
        return [_add_detail(_resize(answer, finer), shrunk, shares, coarser)]

    return _resize(graph.loop(step, [answer], times=steps)[0], last)


def resizing(place: Value, source: Value, length: Value | float, wanted: Value | float) -> Value:
    """Return weights [M, N] of ``length`` samples, at ``source`` [N], in each of ``wanted``, at ``place`` [M, 1].

    They are area means where the number shrinks, else bilinear, as torch has both.
    """
    lower = place * length // wanted
    upper = 0.0 - ((place + 1.0) * length * -1.0) // wanted  # rounded up
    area = ((source >= lower) & (source < upper)).floats() / (upper - lower).at_least(1.0)
    middle = ((place + 0.5) * length / wanted - 0.5).at_least(0.0)
    distance = middle.at_most(length - 1.0) - source
    hat = (1.0 - distance("Abs")).at_least(0.0)
    return (place.graph.value(length) > wanted).where(area, hat)


def _sizes(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of steps to each side, and the side [steps, step, side] after each of them."""
    sides = range(MAX_SIDE + 1)
    steps = [max(0, math.ceil(math.log2(max(side, 1) / size) - 1e-9)) for side in sides]
    sizes = np.full((max(steps) + 1, max(steps) + 1, MAX_SIDE + 1), size)
    for count in range(1, max(steps) + 1):
        for step in range(count + 1):
            part = step / count
            sizes[count, step] = [int(size ** (1 - part) * side**part + 0.5) for side in sides]
    return np.array(steps), sizes.astype(np.int64)


def _resize(values: Value, size: Sequence[Value]) -> Value:
    graph = values.graph
    lengths = [(values.length(axis).floats(), size[axis - 1].floats()) for axis in (1, 2)]
    rows, columns = (
        resizing(graph.range(wanted).expand(1), graph.range(length), length, wanted)
        for length, wanted in lengths
    )
    return rows @ values @ columns.T


def _shrink(image: Value, share: Value, size: list[Value]) -> tuple[Value, Value]:
    shrunk = _resize(share, size)
    return _resize(image * share, size) / shrunk.at_least(1e-6), shrunk


def _add_detail(answer: Value, image: Value, share: Value, coarser: list[Value]) -> Value:
    graph, height, width = answer.graph, answer.length(1), answer.length(2)
    known = share > _WHOLE
    places = _places(_all_around(known)("Not") & (_deviation(answer) > _FLAT))
    count = (graph.value(_PRODUCTS // 8) / places.length(0).at_least(1)).at_least(1)
    looks, details, blank = _examples(image, known.floats(), coarser, count.at_most(_EXAMPLES))
    squares, transposed = looks.squared().sum(1), looks.T
    rows = (graph.value(_SCORES) / (blank + 1)).at_least(1)

    def compare(number: Value, nearest: Value) -> list[Value]:
        part = places.part(0, number * rows, (number + 1) * rows)
        wanted = _look(_patches(answer, part))("Transpose", perm=[1, 0, 2])("Flatten", axis=1)
        best = (squares - (wanted @ transposed) * 2.0)("ArgMin", axis=1, keepdims=0)
        return [nearest("ScatterElements", part, best)]

    everywhere = blank.reshape(1)("Expand", (height * width).reshape(1))
    parts = (places.length(0) + rows - 1) / rows
    kinds = [TensorProto.INT64]
    nearest = graph.loop(compare, [everywhere], times=parts, kinds=kinds)[0]
    sides = graph.concat(height.reshape(1), width.reshape(1))
    nearest = nearest("Reshape", sides)("Pad", np.array([2, 2, 2, 2]), blank)
    for number in range(_SIDE**2):
        top, left = (2 * _MARGIN - each for each in divmod(number, _SIDE))
        chosen = nearest.part(0, top, height + top).part(1, left, width + left)
        answer = answer + details[number]("Gather", chosen, axis=1)
    return answer("Clip", -1.0, 1.0)


def _examples(
    image: Value, known: Value, coarser: list[Value], count: Value
) -> tuple[Value, Value, Value]:
    """Return examples' looks [N + 1, C * 25], weighted details [25, C, N + 1], and N; the last has no detail."""
    size = [image.length(1), image.length(2)]
    coarse, share = _shrink(image, known, coarser)
    blurred, reliable = _resize(coarse, size), _resize((share > _WHOLE).floats(), size) > _WHOLE
    lost = image - blurred
    middles = _places(_all_around(reliable) & (_deviation(lost) > _FLAT))
    middles = middles[_shuffled(middles.length(0)).part(0, 0, count.at_most(middles.length(0)))]
    looks, details = (  # [C, n, 8, 25]
        _patches(each, middles)("Gather", _ORIENTATIONS, axis=2).reshape(0, 0, 8, _SIDE**2)
        for each in (blurred, lost)
    )
    rows = _look(looks)("Transpose", perm=[2, 1, 0, 3])("Flatten", axis=2)
    columns = (details * _GAUSSIAN)("Transpose", perm=[3, 0, 2, 1]).reshape(0, 0, -1)
    columns = columns("Pad", np.array([0, 0, 0, 0, 0, 1]))
    return rows("Pad", np.array([0, 0, 1, 0])), columns, middles.length(0) * 8


def _shuffled(count: Value) -> Value:
    """Return the first 1,024 of torch's random permutation of ``count`` numbers, or as many as there are.

    Its step i swaps places i and j[i], and place i is final then. So what is at j[i] is of the place of the last step
    that put something there, and so on back to a place that none did.
    """
    graph, numbers = count.graph, np.arange(_EXAMPLES)
    swapped = graph.value(_DRAWS)("Mod", (count - numbers).at_least(1)) + numbers  # j
    before = graph.value(numbers).expand(1) > numbers  # [step, each before it]

    def last_step(places: Operand) -> Value:
        same = (graph.value(places).expand(1)("Equal", swapped)) & before
        return same.where(numbers, -1).extreme("Max", 1)

    origin = last_step(numbers)
    origin = (origin < 0).where(numbers, origin)
    for _ in range(10):  # 2^10 steps back
        origin = origin[origin]
    last = last_step(swapped)
    return (last < 0).where(swapped, origin[last.at_least(0)])


def _places(chosen: Value) -> Value:
    """Return where a map [h, w] is True, int64 [N]."""
    return chosen.reshape(-1)("NonZero")("Squeeze", np.array([0]))


def _patches(image: Value, places: Value) -> Value:
    """Return the patches around places, [C, N, 25]."""
    wide = image.length(2) + 2 * _MARGIN
    first = places + places / image.length(2) * (2 * _MARGIN)
    rows, columns = np.divmod(np.arange(_SIDE**2), _SIDE)
    inside = (wide * rows + columns).expand(0) + first.expand(1)
    padded = image("Pad", _AROUND, mode="edge")
    return padded("Flatten", axis=1)("Gather", inside, axis=1)


def _look(patches: Value) -> Value:
    """Return patches [..., 25] without their means, times the roots of their weights."""
    return (patches - patches("ReduceMean", np.array([-1]))) * _ROOTS


def _deviation(image: Value) -> Value:
    """Return the standard deviation of the patch around each pixel, [h, w]."""
    padded = image("Pad", _AROUND, mode="edge").expand(0)
    mean, square = (
        each("AveragePool", kernel_shape=[_SIDE, _SIDE]) for each in (padded, padded.squared())
    )
    variance = (square - mean.squared()).at_least(0.0)
    return variance("ReduceMean", np.array([0, 1]), keepdims=0)("Sqrt")


def _all_around(known: Value) -> Value:
    """Return where the patch around a pixel is known in full, bool [h, w]; of bool [1, h, w]."""
    missing = known("Not").floats().expand(0)
    near = missing("MaxPool", kernel_shape=[_SIDE, _SIDE], pads=[_MARGIN] * 4)
    return near("Squeeze", np.array([0, 1])) < 0.5
