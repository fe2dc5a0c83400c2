"""Unified: one network learns many vision tasks at once, with implicit knowledge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unified.inference import Predictor, load

__version__ = "0.1.0"
__all__ = ["Predictor", "load"]


def __getattr__(name: str) -> Any:
    # `import unified` stays quick: torch is loaded by what needs it.
    if name in __all__:
        from unified import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'unified' has no attribute {name!r}")
