"""Commands and `unified.load` start with what they need, and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"lightning", "torchmetrics", "matplotlib", "tensorboard", "unified.data.shapes.write"}
COMMAND = """
import json, sys
from unified.cli import main
sys.argv = ["unified", *sys.argv[1:]]
main()
print("\\n" + json.dumps(sorted(sys.modules)))
"""
LOAD = """
import json, sys, cv2
cv2.setNumThreads(1)
other = cv2.getNumThreads()
cv2.setNumThreads(3)
import unified
unified.load(sys.argv[1]).predict(sys.argv[2])
assert cv2.getNumThreads() == 3 != other, cv2.getNumThreads()
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def modules(script: str, arguments: list[str], cwd: Path) -> set[str]:
    """What a process has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=cwd, check=True, timeout=300,
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", ["info", "info of a checkpoint", "predict"])
def test_commands_import_what_they_need(
    command: str, trained: Path, small: list[str], shapes: Path, tmp_path: Path
) -> None:
    photo = next((shapes / "val").glob("*.jpg"))
    arguments = {
        "info": ["info", *small],
        "info of a checkpoint": ["info", f"ckpt={trained}"],
        "predict": ["predict", f"ckpt={trained}", f"source={photo}", f"out={tmp_path / 'seen'}"],
    }[command]
    assert not HEAVY & modules(COMMAND, arguments, tmp_path)


def test_loading_imports_what_it_needs_and_leaves_opencv_alone(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    photo = next((shapes / "val").glob("*.jpg"))
    assert not HEAVY & modules(LOAD, [str(trained), str(photo)], tmp_path)


def test_training_and_scoring_do_need_them(trained: Path, small: list[str], tmp_path: Path) -> None:
    """Or the names above would be those of nothing."""
    arguments = [
        "train", *small, "task=[classification]", "trainer=smoke", f"out={tmp_path / 'run'}"
    ]  # fmt: skip
    assert HEAVY - {"unified.data.shapes.write"} <= modules(COMMAND, arguments, tmp_path)
