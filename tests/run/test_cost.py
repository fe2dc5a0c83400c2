"""What a run costs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

ASKED = (
    "import torch; from unified.run.cost import peak_memory; "
    "before = peak_memory(torch.device('cpu')); held = torch.ones(2**27); "
    "print(before, peak_memory(torch.device('cpu')))"
)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere another count serves")
def test_a_peak_is_that_of_the_process_alone() -> None:
    """Not of the one that started it, as of a sweep or a bench."""
    mine = np.ones(2**27)
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < mine.nbytes
    assert after - before == pytest.approx(2**29, rel=0.1)
