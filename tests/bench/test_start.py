"""Every benchmark starts as the documents type it: `python bench/NAME.py`, beside whose file its imports are found."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "bench").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_no_benchmark_needs_to_be_in_a_package(script: Path) -> None:
    text = script.read_text()
    imported = [node.module or "." for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in imported if module.split(".")[0] in ("", "bench")]
    assert "python -m bench" not in text


def test_documents_start_benchmarks_in_one_way() -> None:
    assert not [path.name for path in ROOT.glob("docs/**/*.md") if "python -m bench" in path.read_text()]
