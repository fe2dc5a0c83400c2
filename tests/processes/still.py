"""A training in which batch norm does not mix what a process sees, for `test_launched.py`.

python still.py train OVERRIDES…, alone, started twice by Lightning, or twice by torchrun
"""

from __future__ import annotations

from typing import Any

from unified.cli import main
from unified.module import UnifiedModule

learn = UnifiedModule.training_step


def training_step(module: UnifiedModule, *batch: Any) -> Any:
    module.model.eval()
    return learn(module, *batch)


UnifiedModule.training_step = training_step  # type: ignore[method-assign]
main()
