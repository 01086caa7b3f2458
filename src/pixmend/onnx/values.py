"""ONNX graphs written as arithmetic: each operation on a `Value` adds a node.

Python floats become float32 (float64 in `Graph.doubles`), whole numbers int64 and arrays themselves; there is no other
conversion.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Union

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Operand = Union["Value", float, int, NDArray[Any]]


def _operator(kind: str, *, swapped: bool = False) -> "Callable[[Value, Operand], Value]":
    def apply(self: "Value", other: Operand) -> "Value":
        return self.graph.add(kind, *((other, self) if swapped else (self, other)))

    return apply


class Value:
    """A tensor of a graph."""

    def __init__(self, graph: "Graph", name: str) -> None:
        self.graph, self.name = graph, name

    __add__ = _operator("Add")
    __sub__ = _operator("Sub")
    __rsub__ = _operator("Sub", swapped=True)
    __mul__ = _operator("Mul")
    __truediv__ = _operator("Div")
    __matmul__ = _operator("MatMul")
    __lt__ = _operator("Less")
    __gt__ = _operator("Greater")
    __ge__ = _operator("GreaterOrEqual")
    __and__ = _operator("And")
    at_least = _operator("Max")
    at_most = _operator("Min")

    def __floordiv__(self, other: Operand) -> "Value":
        return (self / other)("Floor")

    def __getitem__(self, indices: Operand) -> "Value":
        """Return the parts numbered ``indices`` of the first axis; a whole number removes the axis."""
        return self.graph.add("Gather", self, indices)

    def __call__(self, kind: str, *others: Operand | None, **attributes: Any) -> "Value":  # noqa: ANN401
        """Return an operation of ONNX on this value first."""
        return self.graph.add(kind, self, *others, **attributes)

    @property
    def T(self) -> "Value":  # noqa: N802 - as in NumPy
        """The transposed matrix."""
        return self("Transpose", perm=[1, 0])

    def squared(self) -> "Value":
        """Return the squares."""
        return self * self

    def sum(self, *axes: int, keep: bool = False) -> "Value":
        """Return sums over axes."""
        return self("ReduceSum", np.array(axes), keepdims=int(keep))

    def extreme(self, kind: str, *axes: int, keep: bool = False) -> "Value":
        """Return the ``Min`` or ``Max`` over axes."""
        return self(f"Reduce{kind}", np.array(axes), keepdims=int(keep))

    def reshape(self, *shape: int) -> "Value":
        """Return the values in another shape; -1 is what remains, 0 is as before."""
        return self("Reshape", np.array(shape, np.int64))

    def expand(self, *axes: int) -> "Value":
        """Return the values with new axes of length 1."""
        return self("Unsqueeze", np.array(axes))

    def part(self, axis: int, start: Operand, stop: Operand) -> "Value":
        """Return a slice of an axis."""
        bounds = [
            each.reshape(1) if isinstance(each, Value) else np.array([each])
            for each in (start, stop)
        ]
        return self("Slice", *bounds, np.array([axis]))

    def length(self, axis: int) -> "Value":
        """Return the length of an axis, int64 []."""
        return self("Shape", start=axis, end=axis + 1).reshape()

    def floats(self) -> "Value":
        """Return float32 of other numbers, in `Graph.doubles` float64."""
        return self("Cast", to=self.graph.real)

    def singles(self) -> "Value":
        """Return float32 of other numbers, in `Graph.doubles` too."""
        return self("Cast", to=TensorProto.FLOAT)

    def where(self, one: Operand, other: Operand) -> "Value":
        """Return ``one`` where these booleans are True, else ``other``."""
        return self("Where", one, other)


class Graph:
    """A graph under construction."""

    def __init__(self) -> None:
        self.initialisers: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0
        self.real: int = TensorProto.FLOAT  # kind of Python floats

    @contextmanager
    def doubles(self) -> Iterator[None]:
        """Compute in float64."""
        self.real = TensorProto.DOUBLE
        yield
        self.real = TensorProto.FLOAT

    def add(self, kind: str, *inputs: Operand | None, **attributes: Any) -> Value:  # noqa: ANN401
        """Add a node of one output."""
        return self.add_many(kind, 1, *inputs, **attributes)[0]

    def add_many(
        self,
        kind: str,
        count: int,
        *inputs: Operand | None,
        **attributes: Any,  # noqa: ANN401
    ) -> list[Value]:
        """Add a node of several outputs."""
        outputs = [self._fresh() for _ in range(count)]
        names = ["" if each is None else self.value(each).name for each in inputs]
        self._nodes.append(
            helper.make_node(kind, names, [each.name for each in outputs], **attributes)
        )
        return outputs

    def value(self, operand: Operand) -> Value:
        """Return the value of a constant; equal ones are stored once."""
        if isinstance(operand, Value):
            return operand
        array = np.asarray(operand)
        if array.dtype == np.float64:
            array = array.astype(helper.tensor_dtype_to_np_dtype(self.real))
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, np.shape(operand), array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self.initialisers.append(
                numpy_helper.from_array(array.reshape(np.shape(operand)), name)
            )
        return Value(self, self._constants[key])

    def range(self, length: Operand) -> Value:
        """Return 0., 1., ... below a float ``length``."""
        return self.add("Range", 0.0, length, 1.0)

    def concat(self, *parts: Operand, axis: int = 0) -> Value:
        """Join values along an axis."""
        return self.add("Concat", *parts, axis=axis)

    def smallest(self, values: Value, count: Operand) -> list[Value]:
        """Return the ``count`` smallest values [N] in order, and where they are; of equal ones the first is first."""
        return self.add_many("TopK", 2, values, np.array([count]), largest=0)

    def loop(
        self,
        body: Callable[..., Sequence[Value]],
        state: Sequence[Operand],
        *,
        times: Operand,
        kinds: Sequence[int] = (),
        going: Callable[..., Value] | None = None,
    ) -> list[Value]:
        """Return the state after ``state = body(step, *state)``, ``times`` times or until not ``going(*state)``.

        ``kinds`` are the types of the state, by default that of Python floats. Values that the body returns beyond the state
        are float32, and stacked over the steps.
        """
        kinds = kinds or [self.real] * len(state)
        state = [self.value(each) for each in state]
        outer, self._nodes = self._nodes, []
        step, condition, *inside = (self._fresh() for _ in range(2 + len(state)))
        after = list(body(step, *inside))
        more = condition("Identity") if going is None else going(*after)
        nodes, self._nodes = self._nodes, outer
        kinds_after = [*kinds, *[TensorProto.FLOAT] * (len(after) - len(state))]
        block = helper.make_graph(
            nodes,
            "body",
            [
                typed(step, TensorProto.INT64, []),
                typed(condition, TensorProto.BOOL, []),
                *(typed(each, kind) for each, kind in zip(inside, kinds, strict=True)),
            ],
            [
                typed(more, TensorProto.BOOL, []),
                *(typed(each, kind) for each, kind in zip(after, kinds_after, strict=True)),
            ],
        )
        start = np.array(True) if going is None else going(*state)
        return self.add_many("Loop", len(after), times, start, *state, body=block)

    def finish(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """Return the graph."""
        return helper.make_graph(self._nodes, "pixmend", inputs, outputs, self.initialisers)

    def rename(self, value: Value, name: str) -> None:
        """Give an output its name."""
        self._nodes.append(helper.make_node("Identity", [value.name], [name]))

    def _fresh(self) -> Value:
        self._count += 1
        return Value(self, f"v{self._count}")


def typed(
    value: Value | str, kind: int, shape: Sequence[int | str] | None = None
) -> onnx.ValueInfoProto:
    """Return the declaration of a value."""
    name = value if isinstance(value, str) else value.name
    return helper.make_tensor_value_info(name, kind, shape)
