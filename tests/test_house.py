"""The limits of the house: sizes, names and imports of src/pixmend, and that the tool which measures them can tell."""

import pytest

from tools.house import (
    functions,
    import_cycles,
    read_modules,
    repeated_classes,
    repeated_file_names,
)


@pytest.fixture(scope="module")
def house():
    modules = read_modules()
    assert len(modules) > 80
    return modules


def test_no_function_is_longer_than_60_lines(house):
    lengths = {name: lines for module in house for name, lines in functions(module)}
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}


def test_no_file_is_longer_than_400_lines_and_all_together_have_a_bound(house):
    assert {module.name: module.lines for module in house if module.lines > 400} == {}
    assert sum(module.lines for module in house) <= 24_160  # 19,000 is the aim


def test_no_file_name_and_no_public_class_name_has_two_meanings(house):
    assert repeated_file_names(house) == []
    assert repeated_classes(house) == {}


def test_no_module_imports_itself_by_way_of_others(house):
    assert import_cycles(house) == []


def test_what_breaks_a_limit_is_found(tmp_path):
    room = tmp_path / "pkg" / "room"
    room.mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (room / "__init__.py").write_text("from pkg.room.one import Thing")
    (room / "one.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.room import two\nclass Thing:\n    pass\n"
    )
    (room / "two.py").write_text(
        "def late():\n    from pkg.other import one\n    return one\nclass Thing:\n    pass\n"
    )
    other = tmp_path / "pkg" / "other"
    other.mkdir()
    (other / "one.py").write_text("import pkg.room.one\n")
    modules = read_modules(tmp_path / "pkg")
    assert repeated_file_names(modules) == ["one"]
    assert repeated_classes(modules) == {"Thing": ["pkg.room.one", "pkg.room.two"]}
    assert import_cycles(modules) == [
        ["pkg.other.one", "pkg.room.one", "pkg.room.two", "pkg.other.one"]
    ]
    assert dict(functions(modules[-1])) == {"pkg.room.two.late": 3}
