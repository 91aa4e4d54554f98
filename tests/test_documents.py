"""The documents agree with the code: dependencies explained and declared, links that lead somewhere."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _names(requirements: list[str]) -> set[str]:
    return {_normal(re.match(r"[A-Za-z0-9._-]+", requirement).group()) for requirement in requirements}


def _declared() -> set[str]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    return _names([*project["dependencies"], *(name for extra in extras for name in extra)])


def _imported() -> Iterator[tuple[str, str]]:
    """(file, top-level package) of every import in the package, of those in functions too."""
    for path in (ROOT / "nanochat").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            yield from ((str(path.relative_to(ROOT)), name.split(".")[0]) for name in names)


def test_every_dependency_has_its_reason_and_nothing_else_has() -> None:
    explained = set(
        re.findall(r"^\| ([a-z0-9-]+) \|", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    )
    explained.discard("package")
    development = _names(PROJECT["dependency-groups"]["dev"])
    build = _names(PROJECT["build-system"]["requires"])
    assert explained == _declared() | development | build


def test_what_is_imported_is_declared() -> None:
    distributions, declared = packages_distributions(), _declared()
    undeclared = {
        (path, package)
        for path, package in _imported()
        if package not in sys.stdlib_module_names
        and package != "nanochat"
        and not {_normal(name) for name in distributions.get(package, [package])} & declared
    }
    assert undeclared == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    missing = [
        target for target in targets if "://" not in target and not (document.parent / target).exists()
    ]
    assert missing == []
