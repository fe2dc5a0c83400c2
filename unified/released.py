"""Checkpoints of the released YOLOR detectors, read into a network of ours.

Their files name layers by position, `module_list.17.Conv2d.weight`; our layers stand in the same
order, so that a tensor is found by counting, and by its shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unified.checkpoint import is_finite, is_held, refuse_damaged
from unified.errors import DataError
from unified.model import UnifiedModel
from unified.slots import slots_of
from unified.trunks.layers import ConvNormAct

SCALARS = [
    (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
]
ALLOWED: list[Any] = [*SCALARS, np.dtype, type(np.dtype("f8")), type(np.dtype("f4"))]
"""What such a file holds besides tensors: a score, as a number of numpy's."""
TENSOR = re.compile(r"module_list\.(\d{1,9})\.(.+)", re.ASCII)
CODE = "implicit"
ANCHORS = 3
"""Of each cell; an output is its box, objectness, and the classes."""
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class OtherNetwork(Exception):
    """A file's tensors are not those of a network.

    Attributes:
        matched: tensors that were, before the first that is not.
    """

    def __init__(self, reason: str, matched: int) -> None:
        super().__init__(reason)
        self.matched = matched


def read_released(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a released checkpoint, by their names there, floats as float32.

    No code of the file is run: it may hold tensors, plain containers and numbers of numpy's.

    Raises:
        DataError: the file is missing, damaged, or no released checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"weights={path} is no file", "give the file that the authors released")
    try:
        refuse_damaged(path)
        with torch.serialization.safe_globals(ALLOWED):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).partition(".")[0] or type(error).__name__
        raise DataError(
            f"weights={path} cannot be read: {reason}", "fetch the released file again"
        ) from error
    tensors = state.get("model") if isinstance(state, Mapping) else None
    named = isinstance(tensors, Mapping) and all(
        isinstance(name, str) and is_held(tensor) for name, tensor in tensors.items()
    )
    if not named or not tensors:
        raise DataError(
            f"weights={path} is no checkpoint of the released detectors: it has no tensors under "
            "`model`",
            "give the authors' .pt file; a checkpoint of ours needs no import",
        )
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise DataError(
                f"weights={path}: {name} is not finite", "fetch the released file again"
            )
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def classes_of(tensors: Mapping[str, Tensor]) -> int:
    """How many a released detector knows, by its last layer.

    Raises:
        DataError: the file has no such layer.
    """
    biases = [tensor for name, tensor in tensors.items() if name.endswith(".Conv2d.bias")]
    classes, rest = divmod(biases[-1].numel() - 5 * ANCHORS, ANCHORS) if biases else (0, 0)
    if classes < 1 or rest:
        raise DataError(
            f"its tensors, as {next(iter(tensors))}, are not those of a released detector",
            "give a .pt file of YOLOR-CSP, CSP-X, P6, W6 or YOLOv4-CSP",
        )
    return classes


def renamed(model: UnifiedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of a file, by its name in our network.

    Args:
        model: trunk and one dense head, with codes or without.
        tensors: from `read_released`.

    Raises:
        OtherNetwork: a tensor is left over, missing, or of another shape.
    """
    wanted = model.state_dict()
    ours, theirs = [*_codes(model), *_layers(model)], _in_order(tensors)
    found: dict[str, Tensor] = {}
    for (part, name), (their_part, theirs_name) in zip(ours, theirs, strict=False):
        tensor = tensors[theirs_name]
        shape = list(wanted[name].shape)
        fits = part == their_part and tensor.numel() == wanted[name].numel()
        if not fits or (part != CODE and list(tensor.shape) != shape):
            raise OtherNetwork(
                f"{theirs_name} {list(tensor.shape)} stands where {name} {shape} belongs",
                len(found),
            )
        found[name] = tensor.view_as(wanted[name])
    if len(ours) != len(theirs):
        more = f"lacks {ours[len(theirs)][1]}" if len(ours) > len(theirs) else ""
        raise OtherNetwork(more or f"has {theirs[len(ours)][1]} besides", len(found))
    return found


def _in_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Part of a layer, and name, of every tensor: codes, which stand apart, then by position."""
    found = []
    for name in tensors:
        match = TENSOR.fullmatch(name)
        if match is None:
            raise OtherNetwork(f"{name:.60} is of no layer", 0)
        found.append((match[2] != CODE, int(match[1]), match[2], name))
    found.sort(key=lambda one: one[:2])
    return [(part, name) for _, _, part, name in found]


def _codes(model: UnifiedModel) -> Iterator[tuple[str, str]]:
    """The vectors of all slots, those before the last layers first."""
    for task, part in model.named_tasks().items():
        for slot, _ in slots_of(part.head):
            for name, _ in part.head.get_submodule(slot).named_parameters():
                yield CODE, f"tasks.{task}.head.{slot}.{name}"


def _layers(model: UnifiedModel) -> Iterator[tuple[str, str]]:
    """Convolutions with their norms: the trunk's, then those of the head, level by level."""
    yield from _convolutions("trunk", model.trunk)
    for task, part in model.named_tasks().items():
        own = list(_convolutions(f"tasks.{task}.head", part.head))
        levels: tuple[str, ...] = part.head.levels  # type: ignore[assignment]
        for level in levels:
            yield from (one for one in own if level in one[1].split("."))


def _convolutions(prefix: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    for name, layer in module.named_modules(prefix=prefix):
        if isinstance(layer, ConvNormAct):
            yield "Conv2d.weight", f"{name}.conv.weight"
            yield from ((f"BatchNorm2d.{part}", f"{name}.norm.{part}") for part in NORM)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            yield "Conv2d.weight", f"{name}.weight"
            yield "Conv2d.bias", f"{name}.bias"
