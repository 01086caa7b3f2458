"""Mutants of a module: each is one small, typical fault."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Mutant", "mutants_of"]

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
# Messages are for people, annotations for mypy.
_SPOKEN = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)


@dataclass(frozen=True)
class Mutant:
    """A module's source with one change.

    Attributes
    ----------
    line
        Line number, from 1.
    before, after
        The text before and after the change.
    source
        The changed source of the whole module.
    """

    line: int
    before: str
    after: str
    source: str


def mutants_of(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of its lines."""
    found = []
    for node in _changeable(ast.parse(source)):
        before = ast.get_source_segment(source, node)
        if before is None:
            continue
        found.extend(
            Mutant(node.lineno, before, after, _replaced(source, node, after))
            for after in _changes(node)
            if after != before
        )
    yield from sorted(found, key=lambda mutant: mutant.line)


def _changeable(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Yield the executable nodes of a tree, without types, docstrings and messages."""
    if isinstance(node, ast.expr | ast.stmt) and not isinstance(node, _SPOKEN):
        yield node
    if isinstance(node, ast.Raise):
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, _SPOKEN):
            continue
        if isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.dump(node.annotation):
            continue
        if isinstance(node, ast.Assign) and "__all__" in ast.dump(node.targets[0]):
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST) and not _is_docstring(part):
                yield from _changeable(part)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:  # noqa: PLR0912 - a table of cases
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            yield _text(ast.Compare(left, [_COMPARE[type(operator)]()], [right]))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            if not (_is_text(left) or _is_text(right)):
                yield _text(ast.BinOp(left, _BINARY[type(operator)](), right))
        case ast.BoolOp(op=operator, values=values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield _text(ast.BoolOp(other, values))
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield _text(operand)
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() as value):
            yield str(value + 1)
        case ast.Constant(value=float() as value):
            yield str(value * 2 if value else 1.0)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield _text(ast.IfExp(test, orelse, body))
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield "return None"
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield "pass"
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"


def _text(node: ast.expr) -> str:
    return f"({ast.unparse(node)})"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _replaced(source: str, node: ast.expr | ast.stmt, after: str) -> str:
    """Return ``source`` with ``node`` replaced by ``after``; later lines keep their numbers."""
    lines = source.encode().splitlines(keepends=True)  # column offsets of ast count bytes
    end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
    head = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    tail = lines[end_line - 1][end_column:] + b"".join(lines[end_line:])
    kept = b"\n" * (end_line - node.lineno)
    text = after.encode()
    # Line breaks inside brackets are harmless; after a statement they are blank lines.
    changed = text + kept if isinstance(node, ast.stmt) else text[:-1] + kept + text[-1:]
    return (head + changed + tail).decode()
