"""Stuff segmentation: losses, and maps at the original size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unified.arrays import IGNORE
from unified.errors import ConfigError, DataError
from unified.ops.pixels import classes_at_original, dice_loss, pixel_loss
from unified.task import Mean
from unified.view import ImageMeta, View, letterbox, warp_labels


def value(loss: Mean) -> float:
    return float(loss.total / loss.count.clamp(min=1))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_map_survives_letterbox_and_back(stride: int) -> None:
    """Classes drawn on the input and sampled at the original pixels are the classes."""
    rng = np.random.default_rng(0)
    classes = np.kron(rng.integers(0, 5, (3, 4)), np.ones((16, 16))).astype(np.uint8)
    matrix = letterbox(*classes.shape, 64)
    moved = warp_labels(classes, View(matrix, 64), stride)
    assert (moved[: 8 // stride] == IGNORE).all()  # the letterbox's margin
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(moved).long() % IGNORE, 5)
    meta = ImageMeta(1, "", *classes.shape, matrix)
    found = classes_at_original(one_hot.permute(2, 0, 1).float(), stride, meta)
    assert found.shape == classes.shape
    inner = np.ones((16, 16), bool)
    inner[:stride] = inner[-stride:] = inner[:, :stride] = inner[:, -stride:] = False
    inner = np.kron(np.ones((3, 4), bool), inner)
    assert (found.numpy() == classes)[inner].all()
    assert (found.numpy() == classes).mean() > 0.85


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(6, 16, 16)
    meta = ImageMeta(1, "", 40, 60, letterbox(40, 60, 64))
    whole = classes_at_original(logits, 4, meta)
    monkeypatch.setattr("unified.ops.pixels.STRIP", 60 * 6 * 7)
    assert torch.equal(classes_at_original(logits, 4, meta), whole)


def test_losses_on_cases_that_fit_on_paper() -> None:
    classes = torch.tensor([[[0, 1], [IGNORE, 0]]], dtype=torch.uint8)
    sure = torch.nn.functional.one_hot(classes.long() % IGNORE, 3).permute(0, 3, 1, 2) * 40.0
    even = torch.zeros(1, 3, 2, 2)
    assert value(pixel_loss(sure, classes)) == pytest.approx(0, abs=1e-6)
    assert value(pixel_loss(even, classes)) == pytest.approx(np.log(3), rel=1e-5)
    assert value(pixel_loss(even, classes, 2.0)) == pytest.approx(np.log(3) * 4 / 9, rel=1e-5)
    assert value(dice_loss(sure, classes)) == pytest.approx(0, abs=1e-5)
    # class 0: 2 pixels, overlap 2/3, squares 1/3 → (4/3 + 1) / (1/3 + 2 + 1); class 1: 1 pixel
    expected = 1 - ((4 / 3 + 1) / (10 / 3) + (2 / 3 + 1) / (7 / 3)) / 2
    assert value(dice_loss(even, classes)) == pytest.approx(expected, rel=1e-5)
    nothing = torch.full_like(classes, IGNORE)
    assert value(pixel_loss(even, nothing)) == value(dice_loss(even, nothing)) == 0


def test_losses_of_a_batch_are_the_means_of_its_parts() -> None:
    """Sums and counts add up, over images and so over processes."""
    torch.manual_seed(0)
    logits, classes = torch.randn(4, 5, 6, 6), torch.randint(0, 4, (4, 6, 6), dtype=torch.uint8)
    classes[1:3, :3] = IGNORE
    for loss in (pixel_loss, dice_loss):
        whole = loss(logits, classes)
        parts = [loss(logits[rows], classes[rows]) for rows in (slice(0, 1), slice(1, 4))]
        torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
        assert whole.count == parts[0].count + parts[1].count


def test_bad_requests_name_the_fix(make: Callable, coco_mini: Path) -> None:
    with pytest.raises(ConfigError, match="cross_entropy, focal"):
        make("task=[stuff]", "task.stuff.loss_kind=l2")
    with pytest.raises(DataError, match=r"stuff_train2017\.json"):
        make("task=[stuff]", f"data.root={coco_mini}", "data.train=train2017", "data.val=val2017")
