"""A training that gets a signal within a step, for `test_kills.py`; run with the interpreter.

python stopping.py SIGNAL STEP train OVERRIDES…
"""

from __future__ import annotations

import os
import sys
from itertools import count
from typing import Any

from unified.cli import main
from unified.module import UnifiedModule

number, last = int(sys.argv[1]), int(sys.argv[2])
learn, steps = UnifiedModule.training_step, count()


def training_step(module: UnifiedModule, *batch: Any) -> Any:
    if next(steps) == last:
        os.kill(os.getpid(), number)
    return learn(module, *batch)


UnifiedModule.training_step = training_step  # type: ignore[method-assign]
sys.argv = ["unified", *sys.argv[3:]]
main()
