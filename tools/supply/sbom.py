"""The software bill of materials: CycloneDX 1.6 of a wheel and what it needs, from package metadata."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from tools.supply.closure import licence_of, needs

__all__ = ["bill_of_materials"]


def bill_of_materials(packages: Mapping[str, Distribution], models: Path) -> dict[str, Any]:
    """Return the bill of ``pixmend`` and the other packages, and of the model files in a folder.

    Equal installations give equal bills: no time and no random number is in them.
    """
    others = {name: package for name, package in packages.items() if name != "pixmend"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component("pixmend", packages["pixmend"])},
        "components": [
            *(_component(name, package) for name, package in others.items()),
            *(_model(path) for path in sorted(models.glob("*.safetensors"))),
        ],
        "dependencies": [
            {"ref": _purl(name, package), "dependsOn": _dependencies(package, packages)}
            for name, package in packages.items()
        ],
    }


def _component(name: str, package: Distribution) -> dict[str, Any]:
    licence, is_expression = licence_of(package), "License-Expression" in package.metadata
    return {
        "type": "library",
        "bom-ref": _purl(name, package),
        "name": name,
        "version": package.version,
        "purl": _purl(name, package),
        "licenses": [{"expression": licence} if is_expression else {"license": {"name": licence}}],
    }


def _model(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{path.stem}",
        "name": path.stem,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _dependencies(package: Distribution, packages: Mapping[str, Distribution]) -> list[str]:
    extras = ["serve"] if package is packages["pixmend"] else []
    names = {canonicalize_name(need.name) for need in needs(package, extras)} & set(packages)
    return [_purl(name, packages[name]) for name in sorted(names)]


def _purl(name: str, package: Distribution) -> str:
    return f"pkg:pypi/{name}@{package.version.replace('+', '%2B')}"
