"""The structure of src/pixmend in figures, and the limits that tests/test_house.py holds.

python -m tools.house
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "pixmend"
REPEATED_NAMES = {"__init__", "settings"}  # file names that rooms may share


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, the name of its file, its lines, and its syntax tree."""

    name: str
    stem: str
    lines: int
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder or file right below pixmend."""
        return self.name.split(".")[1] if "." in self.name else self.name


def read_modules(source: Path = SOURCE) -> list[Module]:
    """Read all Python files below a folder."""
    modules = []
    for path in sorted(source.rglob("*.py")):
        parts = [source.name, *path.relative_to(source).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        modules.append(Module(name, path.stem, len(text.splitlines()), ast.parse(text)))
    return modules


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the name and the lines of each function, from its decorators to its end."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            yield f"{module.name}.{node.name}", node.end_lineno - first + 1


def public_classes(module: Module) -> list[str]:
    """Return the names of a module's public classes."""
    classes = [node.name for node in module.tree.body if isinstance(node, ast.ClassDef)]
    return [name for name in classes if not name.startswith("_")]


def repeated_file_names(modules: list[Module]) -> list[str]:
    """Return the file names that occur more than once."""
    names = Counter(module.stem for module in modules)
    return sorted(name for name, count in names.items() if count > 1 and name not in REPEATED_NAMES)


def repeated_classes(modules: list[Module]) -> dict[str, list[str]]:
    """Return the modules of each public class name that occurs more than once."""
    owners = defaultdict(list)
    for module in modules:
        for name in public_classes(module):
            owners[name].append(module.name)
    return {name: places for name, places in owners.items() if len(places) > 1}


def import_cycles(modules: list[Module]) -> list[list[str]]:
    """Return the import cycles, imports for type checkers and inside functions included."""
    imports = {module.name: _imports(module, {each.name for each in modules}) for module in modules}
    cycles, done = [], set[str]()
    for start in imports:
        path = _path_back(start, imports, done)
        if path:
            cycles.append(path)
        done.add(start)
    return cycles


def _imports(module: Module, names: set[str]) -> set[str]:
    imported = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & names
            imported |= submodules or {node.module}
    return (imported & names) - {module.name}


def _path_back(start: str, imports: dict[str, set[str]], done: set[str]) -> list[str]:
    """Return a way from a module through imports back to itself, avoiding modules already done."""
    waiting, seen = [[start]], {start}
    while waiting:
        path = waiting.pop(0)
        for name in sorted(imports[path[-1]] - done):
            if name == start:
                return [*path, start]
            if name not in seen:
                seen.add(name)
                waiting.append([*path, name])
    return []


def main() -> None:
    """Print the figures."""
    modules = read_modules()
    lines = Counter[str]()
    for module in modules:
        lines[module.room] += module.lines
    for room, count in lines.most_common():
        print(f"{room:14} {count:6,}")
    longest = sorted(
        (each for module in modules for each in functions(module)), key=lambda f: -f[1]
    )
    print(f"{'total':14} {lines.total():6,} lines, {len(modules)} files")
    print("longest functions:", *(f"\n  {count:4} {name}" for name, count in longest[:5]))
    print("longest file:", max((module.lines, module.name) for module in modules))
    print("file names used twice:", repeated_file_names(modules))
    print("class names used twice:", repeated_classes(modules))
    print("import cycles:", import_cycles(modules))


if __name__ == "__main__":
    main()
