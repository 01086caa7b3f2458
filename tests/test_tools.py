"""The tools start, and name existing modules and tests."""

import importlib
from pathlib import Path

import pytest

from tools.mutation.__main__ import ROOMS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_of_mutants_names_existing_modules_and_tests(name):
    room = ROOMS[name]
    for module in room.modules:
        importlib.import_module(module)
    assert all((ROOT / file).is_file() for file in room.tests)


@pytest.mark.parametrize("tool", ["prove", "fuzz", "mutation", "supply"])
def test_every_module_of_a_tool_can_be_imported(tool):
    files = [path for path in sorted((ROOT / "tools" / tool).glob("*.py")) if path.stem != "hunt"]
    assert len(files) > 2
    for path in files:  # all but the hunt, which needs the extra fuzz
        importlib.import_module(f"tools.{tool}.{path.stem}")
