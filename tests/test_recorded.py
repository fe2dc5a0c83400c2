"""Recorded numbers: the same seed gives the same losses and the same results as before.

`tests/recorded.json` holds, for every shipped experiment on the small generated data, every named
loss and the norm of the gradient in five training steps, and a digest of what is decoded from one
validation batch after them. A change of behaviour records anew, in a commit of its own that says
why:

    pytest tests/test_recorded.py --record
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

import conf

RECORD = Path(__file__).with_name("recorded.json")
EXPERIMENTS = sorted(p.stem for p in (Path(conf.__file__).parent / "experiment").glob("*.yaml"))
CASES = {name: [f"experiment={name}"] for name in EXPERIMENTS} | {
    "iseg with mosaic": ["experiment=iseg", "augment=strong"]
}
STEPS, BATCH = 5, 8
LOSS, GRADIENT, DIGEST = 5e-4, 5e-3, 5e-3
"""Relative tolerances: other processors read images, and round what stays float32, differently."""


def trace(make: Callable, *overrides: str) -> dict[str, Any]:
    """Five steps, then one validation batch.

    The network is of float64: in float32 another number of threads alone changes gradients by two
    percent. What it has learnt is decoded as ever, in float32.
    """
    made = make(*overrides)
    made.model.double()
    module = made.module().train()
    # Small steps, without AdamW, which divides by the size of a gradient: else five steps turn
    # another order of summation into more than rounding.
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    batches = data_batches(made.data)
    losses: list[dict[str, float]] = []
    for step in range(STEPS):
        module.means.reset()
        batch = next(batches)
        batch = replace(batch, images=batch.images.double())
        module.on_train_batch_start(batch, step)
        total = module.training_step(batch, step)
        losses.append({k: v for k, v in module.train_row().items() if k.startswith("train/")})
        del losses[-1]["train/loss"]  # the sum of the others
        optimizer.zero_grad()
        total.backward()
        losses[-1]["gradient"] = norm(p.grad for p in module.parameters())
        optimizer.step()
    return {"losses": losses, "decoded": decoded(made)}


def norm(gradients: Iterable[torch.Tensor]) -> float:
    return float(torch.stack([g.norm() for g in gradients]).norm())


def data_batches(data: Any) -> Iterator[Any]:
    loader = data.train_dataloader()
    for epoch in range(STEPS):
        loader.sampler.set_epoch(epoch)
        yield from loader


def decoded(made: Any) -> dict[str, Any]:
    batch = made.batch(BATCH, training=False)
    made.model.float().eval()
    with torch.no_grad():
        found = made.model.decode(made.model(batch.images), batch)
    return {
        task: digest([result.of(made.spec.spaces).plain() for result in results])
        for task, results in found.items()
    }


def digest(value: Any) -> dict[str, Any]:
    """Of all leaves at one kind of place: how many, mean and spread, or how often each text."""
    numbers: dict[str, list[float]] = {}
    texts: dict[str, Counter[str]] = {}
    for place, leaf in leaves(value, ""):
        if isinstance(leaf, str):
            texts.setdefault(place, Counter())[leaf] += 1
        else:
            numbers.setdefault(place, []).append(float(leaf))
    return {
        **{p: [len(v), float(np.mean(v)), float(np.std(v))] for p, v in numbers.items()},
        **{p: dict(sorted(c.items())) for p, c in texts.items()},
    }


def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and set(value) == {"size", "counts"}:
        yield f"{place}.area", int(coco_mask.area(value))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{place}.{key}")
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part, f"{place}[]")
    else:
        yield place, value


@pytest.mark.parametrize("case", CASES)
def test_losses_and_results_are_the_recorded_ones(
    case: str, make: Callable, pytestconfig: pytest.Config
) -> None:
    found = trace(make, *CASES[case])
    recorded = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    if pytestconfig.getoption("record"):
        RECORD.write_text(json.dumps(recorded | {case: found}, indent=1, sort_keys=True) + "\n")
        return
    for step, (ours, theirs) in enumerate(
        zip(found["losses"], recorded[case]["losses"], strict=True)
    ):
        assert ours.pop("gradient") == pytest.approx(theirs.pop("gradient"), rel=GRADIENT)
        assert ours == pytest.approx(theirs, rel=LOSS), f"step {step}"
    for task, places in recorded[case]["decoded"].items():
        assert set(found["decoded"][task]) == set(places), task
        for place, value in places.items():
            assert alike(found["decoded"][task][place], value), f"{task}{place}"


def alike(ours: Any, theirs: Any) -> bool:
    """Numbers but for rounding; texts but for one in fifty, which rounding may turn."""
    if isinstance(theirs, list):
        return bool(ours == pytest.approx(theirs, rel=DIGEST, abs=DIGEST))
    changed = Counter(ours)
    changed.subtract(theirs)
    return sum(map(abs, changed.values())) <= sum(theirs.values()) / 50


def test_the_record_holds_every_case_and_nothing_else() -> None:
    assert set(json.loads(RECORD.read_text())) == set(CASES)
