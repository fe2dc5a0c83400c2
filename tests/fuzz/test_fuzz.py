"""Some of the bad and unusual inputs, of every group; `make fuzz` feeds all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_sample_of_all_cases() -> None:
    """No harm, no hang, no crash, no traceback, nothing accepted that is wrong.

    Cases are forked from a process of their own: this one has threads.
    """
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent), "--sample", "40"],
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "| all |" in done.stdout
