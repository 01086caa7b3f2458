"""What is shipped: floors without known holes, hashes, licences, contents, and the bill of materials."""

import ast
import re
import subprocess
import sys
import tomllib
from glob import glob
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.supply.closure import closure
from tools.supply.contents import names_in, objections
from tools.supply.sbom import bill_of_materials

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The first release without a hole that is known of the one before.
WITHOUT_HOLES = {
    "torch": "2.10",
    "starlette": "1.5.1",
    "h11": "0.16",
    "python-multipart": "0.0.31",
    "pillow": "13.0",
}


def requirements():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(text) for each in lists for text in each]


def pins(path):
    """Return name -> version, number of hashes, of each pinned package."""
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line.split() for line in text.splitlines() if line and line[0] not in "# "]
    return {
        line[0].partition("==")[0]: (line[0].partition("==")[2], sum("--hash=" in e for e in line))
        for line in lines
    }


@pytest.mark.parametrize("name", WITHOUT_HOLES)
def test_no_floor_admits_a_release_with_a_known_hole(name):
    floors = [
        Version(part.version)
        for need in requirements()
        if need.name == name
        for part in need.specifier
        if part.operator == ">="
    ]
    assert floors
    assert min(floors) >= Version(WITHOUT_HOLES[name])


def test_every_package_that_is_imported_is_required_by_name():
    names = {canonicalize_name(need.name) for need in requirements()} | {"pixmend"}
    distributions = packages_distributions()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules = [e.name for e in node.names] if isinstance(node, ast.Import) else modules
            for module in {str(each).partition(".")[0] for each in modules}:
                found = {canonicalize_name(each) for each in distributions.get(module, [])}
                assert module in sys.stdlib_module_names or not found or found & names, module


def test_every_pinned_package_is_locked_with_hashes():
    constraints = pins(ROOT / "constraints.txt")
    locked = pins(ROOT / "requirements.lock") | pins(ROOT / "requirements-torch.lock")
    assert all(hashes for _, hashes in locked.values())
    # Tools whose environments are made for them, and built wheels of this machine.
    others = {"uv", "hatchling", "atheris", "sphinx", "myst-parser", "furo"}
    wanted = {name: version for name, (version, _) in constraints.items() if name not in others}
    assert wanted == {name: locked[name][0] for name in wanted}
    assert "torch" in wanted


def test_every_licence_in_the_package_is_named_in_its_metadata():
    # As hatchling does: ** means no more than *.
    named = {ROOT / path for each in PROJECT["license-files"] for path in glob(each, root_dir=ROOT)}  # noqa: PTH207
    licences = [p for p in (ROOT / "src").rglob("*") if re.match(r"LICEN[CS]E", p.name, re.I)]
    assert licences
    assert named == {*licences, ROOT / "LICENSE"}


def test_wheel_and_sdist_hold_what_they_must_and_nothing_else(tmp_path):
    pytest.importorskip("hatchling", reason="comes with the extra supply")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    files = sorted(tmp_path.iterdir())
    assert sorted(path.suffix for path in files) == [".gz", ".whl"]
    for path in files:
        assert objections(names_in(path), wheel=path.suffix == ".whl") == []


@pytest.mark.parametrize("wheel", [True, False])
def test_a_package_without_its_licences_or_tests_is_refused(wheel):
    found = "\n".join(
        objections(["pixmend/__init__.py", "pixmend-1.dist-info/METADATA"], wheel=wheel)
    )
    names = (
        ["bundled/characters/LICENCES.md"] if wheel else ["SECURITY.md", "CHANGELOG.md", "tests/"]
    )
    assert all(name in found for name in names)


def test_the_bill_of_materials_names_every_package_with_version_and_licence():
    packages = closure(["pixmend[serve]"])
    bill = bill_of_materials(packages, ROOT / "src" / "pixmend" / "bundled")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    components = {each["name"]: each for each in bill["components"]}
    models = {name for name, each in components.items() if "model" in each["type"]}
    assert set(components) - models == set(packages) - {"pixmend"}
    assert models == {"characters"}
    assert {"torch", "starlette", "pillow"} < set(components)
    refs = {each["bom-ref"] for each in [*components.values(), bill["metadata"]["component"]]}
    for each in bill["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= refs
    (ours,) = [each for each in bill["dependencies"] if "/pixmend@" in each["ref"]]
    assert any("/fastapi@" in ref for ref in ours["dependsOn"])
    for name in set(components) - models:
        assert components[name]["version"] == packages[name].version
        (licence,) = components[name]["licenses"]
        assert licence.get("expression") or licence["license"]["name"]
