"""The documents agree with the code: dependencies explained and declared, existing links and paths, a complete map."""

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
ABSENT = {"flash_attn": "flash-attn-4"}
"""Packages that are not installed for tests and not named as their distribution."""
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
    """(file, top-level package) of every import in the package, also inside functions."""
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
    groups = PROJECT["dependency-groups"].values()
    development = _names([name for group in groups for name in group if isinstance(name, str)])
    build = _names(PROJECT["build-system"]["requires"])
    assert explained == _declared() | development | build


def test_what_is_imported_is_declared() -> None:
    distributions, declared = packages_distributions(), _declared()
    undeclared = {
        (path, package)
        for path, package in _imported()
        if package not in sys.stdlib_module_names
        and package != "nanochat"
        and not {_normal(name) for name in distributions.get(package, [ABSENT.get(package, package)])}
        & declared
    }
    assert undeclared == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    missing = [
        target for target in targets if "://" not in target and not (document.parent / target).exists()
    ]
    assert missing == []


def test_the_map_lists_every_room_once() -> None:
    chapter = (ROOT / "docs/architecture.md").read_text().split("## The map")[1]
    drawn = chapter.split("```")[1]
    listed = re.findall(r"^(?:L\d \w+)? +(\w+)  ", drawn, re.MULTILINE)
    package = ROOT / "nanochat"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    assert sorted(listed) == sorted(folders | modules)


def _paths_mentioned(text: str) -> Iterator[str]:
    """Paths of the repository in backticks: with a folder of the repository or the package in front."""
    rooms = {path.name for path in [*ROOT.iterdir(), *(ROOT / "nanochat").iterdir()] if path.is_dir()}
    for quoted in re.findall(r"`([\w./-]+)`", text):
        if "/" in quoted and quoted.split("/")[0] in rooms:
            yield quoted


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_in_documents_exist(document: Path) -> None:
    """Below the repository, or below the package, whose name the documents leave out."""
    missing = [
        path
        for path in _paths_mentioned(document.read_text())
        if not (ROOT / path).exists() and not (ROOT / "nanochat" / path).exists()
    ]
    assert missing == []


def test_a_missing_path_would_be_found() -> None:
    assert list(_paths_mentioned("`text/nowhere.py`, `tests/`, `a/b`, `report.md`")) == [
        "text/nowhere.py",
        "tests/",
    ]
