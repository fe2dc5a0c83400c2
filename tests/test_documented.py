"""Every command line of the README and of the help does what it says, on small data."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import conf
from unified.cli import USAGE

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
QUICK = (
    "trainer=smoke", "trainer.max_epochs=1", "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1", "trainer.accelerator=cpu", "data.image_size=64",
    "data.workers=0", "data.batch_size=4",
)  # fmt: skip
SAME_AS_SHAPES = (
    "data.shapes.train=32", "data.shapes.val=12", "data.shapes.test=12",
    "data.shapes.size=64", "data.shapes.seed=3",
)  # fmt: skip


def documented() -> list[str]:
    """Lines that begin with `unified` and a command, without placeholders of syntax."""
    readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
    texts = [readme, USAGE]
    texts.append((Path(conf.__file__).parent / "config.yaml").read_text())
    texts += [f"{line}\n" for line in re.findall(r"`(unified [a-z]+ [^`]+)`", readme)]
    lines = re.findall(r"^ *(unified (?:train|eval|predict|info)\b.*)$", "\n".join(texts), re.M)
    plain = [re.sub(r"\s{2,}.*", "", line).strip() for line in map(_joined, lines)]
    return sorted(
        {line for line in plain if not re.search(r"\[overrides\]|IMAGE\||--help|…", line)}
    )


def _joined(line: str) -> str:
    """A comment stands behind two blanks; a line that was broken has them inside."""
    return re.sub(r" {2,}(?=\w+(\.\w+)*=)", " ", line)


def test_there_are_many() -> None:
    assert len(documented()) > 12
    assert any("-m seed=0,1,2" in line for line in documented())


@pytest.mark.parametrize("line", documented())
def test_a_documented_command_works(
    line: str, trained: Path, shapes: Path, run_command: Callable[..., subprocess.CompletedProcess],
    tmp_path: Path,
) -> None:  # fmt: skip
    program, command, *arguments = shlex.split(line)
    assert program == "unified"
    shutil.copytree(trained, tmp_path / "RUN")
    shutil.copytree(trained, tmp_path / "runs/unified/2026-01-31_12-00-00")
    shutil.copy(next((shapes / "val").glob("*.jpg")), tmp_path / "photo.jpg")
    if "captioned" in line:
        shutil.copytree(shapes, tmp_path / "captioned")
    more: list[str] = []
    if command == "train" and not any(a.startswith("resume=") for a in arguments):
        more += [*QUICK, f"data.root={shapes}"]
        more += ["data.train=train", "data.val=val"] if "data=coco" in arguments else SAME_AS_SHAPES
        if any(a.startswith("trainer.devices") for a in arguments):
            more.append("trainer.devices=2")
    if command == "info":
        more = [f"data.root={shapes}", *SAME_AS_SHAPES]
    if command == "eval":
        more.append("data.val=val")
    run_command(command, *arguments, *more, cwd=tmp_path)


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT) for p in PAGES), ids=str)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    own = [link for link in links if "://" not in link]
    assert [link for link in own if not (ROOT / page.parent / link).exists()] == []
