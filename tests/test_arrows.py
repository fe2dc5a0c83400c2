"""The arrows of the design: tasks → heads → unified, and nothing the other way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from unified.data.coco import KINDS

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "unified": {"unified"},
    "heads": {"unified", "heads"},
    "tasks": {"unified", "heads"},
    "conf": set(),
}
FILES = [(package, file) for package in ALLOWED for file in sorted((ROOT / package).rglob("*.py"))]


def imported_packages(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the arrows"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("package", "file"), FILES, ids=[str(f.relative_to(ROOT)) for _, f in FILES]
)
def test_imports_follow_the_arrows(package: str, file: Path) -> None:
    own = imported_packages(file) & set(ALLOWED)
    assert own <= ALLOWED[package], f"{file} imports {own - ALLOWED[package]}"


def test_machinery_names_no_task() -> None:
    """No branch of the machinery depends on which task it serves."""
    tasks = {f.stem for f in (ROOT / "tasks").glob("*.py")} - {"__init__"}
    for file in (ROOT / "unified").rglob("*.py"):
        # Two annotation kinds are called like the tasks that learn from them.
        reads_labels = file.parent.name in ("data", "metrics")
        names = tasks - set(KINDS) if reads_labels else tasks
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not constants & names, f"{file}:{node.lineno} compares with a task's name"
