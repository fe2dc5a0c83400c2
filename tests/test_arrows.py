"""The arrows of the design: between the packages, between the floors of the house, no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from unified.kinds.kind import Ask

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "unified": {"unified"},
    "heads": {"unified", "heads"},
    "tasks": {"unified", "heads"},
    "conf": set(),
}
FLOORS = (
    "errors", "files", "bounds", "trust", "arrays", "classes", "rle", "view", "canvas", "slots",
    "kinds", "batch", "task", "implicit", "trunks", "ops", "model", "metrics", "data",
    "weighting", "guard", "means", "ablation", "schema", "build", "checkpoint", "weights",
    "released", "module", "inference", "overrides", "run", "saved", "help", "cli",
)  # fmt: skip
"""Rooms of `unified`, from the top; each imports what stands above it."""
READERS = ("kinds", "data/coco", "data/shapes", "metrics")
"""Folders of `unified` that are about particular kinds; nothing else names one."""
ABOUT_KINDS = ("unified.kinds.", "unified.data.coco.", "unified.metrics.")
FILES = [(package, file) for package in ALLOWED for file in sorted((ROOT / package).rglob("*.py"))]
MACHINERY = [
    file
    for package, file in FILES
    if package == "unified"
    and not any(file.is_relative_to(ROOT / "unified" / folder) for folder in READERS)
]


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(file: Path) -> Iterator[str]:
    """Modules that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the arrows"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (
                    inner
                    if (ROOT / inner.replace(".", "/")).with_suffix(".py").is_file()
                    else str(node.module)
                )


@pytest.mark.parametrize(
    ("package", "file"), FILES, ids=[str(f.relative_to(ROOT)) for _, f in FILES]
)
def test_imports_follow_the_arrows(package: str, file: Path) -> None:
    own = {name.split(".")[0] for name in imports_of(file)} & set(ALLOWED)
    assert own <= ALLOWED[package], f"{file} imports {own - ALLOWED[package]}"


def test_every_room_has_a_floor() -> None:
    rooms = {p.stem for p in (ROOT / "unified").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert rooms - {"__init__", "__pycache__", "py"} == set(FLOORS)


@pytest.mark.parametrize("file", [f for p, f in FILES if p == "unified"], ids=name_of)
def test_no_arrow_runs_upwards(file: Path) -> None:
    if file == ROOT / "unified" / "__init__.py":
        return  # lends two names to users
    own = FLOORS.index(name_of(file).split(".")[1])
    for name in imports_of(file):
        if name.startswith("unified."):
            assert FLOORS.index(name.split(".")[1]) <= own, f"{file} imports {name}"


def test_no_circle() -> None:
    graph = {name_of(f): {n for n in imports_of(f) if n.split(".")[0] in ALLOWED} for _, f in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' → '.join((*path, name))}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_tasks_do_not_import_each_other() -> None:
    for package, file in FILES:
        if package == "tasks":
            assert not [n for n in imports_of(file) if n.startswith("tasks")], file


# --- What the machinery does not know -----------------------------------------------------


def kinds() -> set[str]:
    """Names of all kinds, and of the annotation files that hold them."""
    found = set()
    for file in (ROOT / "unified" / "kinds").glob("*.py"):
        module = import_module(name_of(file))
        classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Ask)]
        found |= {c.kind for c in classes if c is not Ask}
    return found | {"instances", "person_keypoints", "captions", "panoptic", "stuff", "lvis"}


def words_of(text: str) -> set[str]:
    """Words of a string; examples of a command line, and pixels as a unit, are none."""
    if " " in text:
        text = re.sub(r"task=\[[^\]]*\]|\bpixels\b", "", text)
    return set(re.findall("[a-z]+", text))


def tasks() -> set[str]:
    return {f.stem for f in (ROOT / "tasks").glob("*.py")} - {"__init__"}


def test_the_kinds_are_those_that_the_shipped_readers_read() -> None:
    assert {"objects", "masks", "pixels", "segments"} <= kinds()
    assert {"detection", "panoptic"} <= tasks()


@pytest.mark.parametrize("file", MACHINERY, ids=name_of)
def test_the_machinery_names_no_kind_and_no_task(file: Path) -> None:
    """Neither in a string, nor by its classes, its readers or its scorers."""
    tree = ast.parse(file.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    words = {
        word
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        for word in words_of(node.value)
    }
    assert not words & (kinds() | tasks()), f"{file} names {words & (kinds() | tasks())}"
    named = {n for n in imports_of(file) if n.startswith(ABOUT_KINDS)}
    assert named <= {"unified.kinds.kind", "unified.metrics.collect"}, f"{file} imports {named}"


def test_withdrawn_releases_are_never_installed() -> None:
    """lightning 2.6.2 and 2.6.3 were malicious."""
    needed = [Requirement(text) for text in requires("unified-mtl") or ()]
    (lightning,) = [one for one in needed if one.name == "lightning"]
    assert "2.6.1" in lightning.specifier
    assert not any(bad in lightning.specifier for bad in ("2.6.2", "2.6.3"))
