"""Panoptic segmentation: who gets a pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from unified.errors import ConfigError, DataError
from unified.kinds.segments import PanopticSegments
from unified.ops.panoptic import fuse_segments
from unified.ops.pixels import PixelLogits
from unified.task import Upstream
from unified.view import ImageMeta

SIDE = 32
META = ImageMeta(1, "", SIDE, SIDE, np.array([[1.0, 0, 0], [0, 1.0, 0]]))
THINGS = torch.tensor([True, False, False])  # a thing, grass, sand


def pixel_logits(thing: slice | None = None) -> torch.Tensor:
    """Grass left, sand right; in the columns `thing` the thing leads by 4."""
    logits = torch.zeros(3, SIDE, SIDE)
    logits[1, :, :16] = 6.0
    logits[2, :, 16:] = 6.0
    logits[0] = -2.0
    if thing is not None:
        logits[0, :, thing] = 10.0
    return logits.log_softmax(0)


def fuse(
    boxes: list[list[float]],
    scores: list[float],
    logits: torch.Tensor,
    mask: float = 3.0,
    min_visible: float = 0.5,
    min_stuff: float = 0.0,
) -> PanopticSegments:
    """Detections whose masks fill their boxes."""
    shapes = torch.full((len(boxes), SIDE, SIDE), mask)
    segments, labels, instance = fuse_segments(
        logits, shapes, torch.tensor(boxes).view(-1, 4), torch.zeros(len(boxes)).long(),
        THINGS, 1, META, min_visible, min_stuff,
    )  # fmt: skip
    return PanopticSegments(segments, labels, torch.tensor([*scores, 1.0])[instance])


def test_without_instances_the_ground_is_left() -> None:
    found = fuse([], [], pixel_logits())
    assert found.labels.tolist() == [1, 2]
    assert (found.segments[:, :15] == 1).all()
    assert (found.segments[:, 17:] == 2).all()


def test_the_better_detection_keeps_the_overlap() -> None:
    found = fuse(
        [[4.0, 4.0, 20.0, 20.0], [8.0, 8.0, 30.0, 20.0]],
        [0.9, 0.6],
        pixel_logits(slice(0, SIDE)),
        min_visible=0.4,
    )
    assert found.labels.tolist() == [0, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert (found.segments[4:20, 4:20] == 1).all()
    assert (found.segments[8:20, 20:30] == 2).all()
    # Where the pixels say thing and no instance is, there is no segment.
    assert (found.segments == 0).sum() == SIDE * SIDE - 16 * 16 - 10 * 12


def test_a_detection_that_better_ones_cover_is_dropped() -> None:
    boxes = [[4.0, 4.0, 20.0, 20.0], [4.0, 4.0, 20.0, 24.0]]
    logits = pixel_logits(slice(0, SIDE))
    assert len(fuse(boxes, [0.9, 0.6], logits).labels) == 1
    assert len(fuse(boxes, [0.9, 0.6], logits, min_visible=0.1).labels) == 2


def test_masks_and_pixels_decide_together() -> None:
    """Pixels that lead for grass by 8 refuse a mask of logit 3 and yield to one of logit 9."""
    boxes = [[2.0, 2.0, 12.0, 12.0]]
    assert fuse(boxes, [0.9], pixel_logits(), mask=3.0).labels.tolist() == [1, 2]
    assert fuse(boxes, [0.9], pixel_logits(), mask=9.0).labels.tolist() == [0, 1, 2]
    # In columns 2 to 6 the pixels agree: half of the mask remains.
    half = fuse(boxes, [0.9], pixel_logits(slice(2, 7)), mask=3.0, min_visible=0.4)
    assert half.labels.tolist() == [0, 1, 2]
    assert (half.segments[2:12, 2:6] == 1).all()
    assert (half.segments[2:12, 8:12] == 2).all()


def test_small_stuff_is_dropped() -> None:
    logits = pixel_logits()
    logits[2, :, :] -= 20
    logits[2, :4, :8] += 40  # sand on 32 of 1,024 pixels
    assert fuse([], [], logits).labels.tolist() == [1, 2]
    few = fuse([], [], logits, min_stuff=0.05)
    assert few.labels.tolist() == [1]
    assert (few.segments[:3, :7] == 0).all()


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = [[4.0, 4.0, 20.0, 20.0], [8.0, 8.0, 28.0, 28.0]], [0.9, 0.6]
    whole = fuse(boxes, scores, pixel_logits(slice(0, 24)))
    monkeypatch.setattr("unified.ops.pixels.STRIP", SIDE * 5 * 3)
    strips = fuse(boxes, scores, pixel_logits(slice(0, 24)))
    assert torch.equal(whole.segments, strips.segments)
    assert torch.equal(whole.labels, strips.labels)


def test_the_stuff_task_has_a_vote(make: Callable) -> None:
    made = make("task=[detection,instance,stuff,panoptic]")
    task = made.tasks["panoptic"]
    even = torch.zeros(1, len(made.spec.spaces["segments"]), 2, 2)
    votes = torch.zeros(1, len(made.spec.spaces["pixels"]), 2, 2)
    votes[0, task.other, 0, 0] = 9.0
    votes[0, (task.other + 1) % votes.shape[1], 1, 1] = 9.0
    found = task.keep({"logits": even}, Upstream([PixelLogits(votes, 4)]))[0]
    assert task.things[found[:, 0, 0].argmax()]
    assert not task.things[found[:, 1, 1].argmax()]


def test_segments_are_numbered_without_gaps(make: Callable) -> None:
    made = make(
        "task=[detection,instance,stuff,panoptic]",
        "task.panoptic.min_score=0.0",
        "task.panoptic.min_visible=0.0",
        "task.panoptic.min_stuff=0.0",
    )
    batch = made.batch(4, training=False)
    with torch.no_grad():
        found = made.model.eval().decode(made.model(batch.images), batch)
    for result, meta in zip(found["panoptic"], batch.metas, strict=True):
        assert result.segments.shape == (meta.height, meta.width)
        numbers = set(result.segments.unique().tolist()) - {0}
        assert numbers == set(range(1, len(result.labels) + 1))
        assert len(result.scores) == len(result.labels)


def test_bad_requests_name_the_fix(make: Callable, coco_mini) -> None:
    with pytest.raises(ConfigError, match="cross_entropy, focal"):
        make("experiment=seg", "task.panoptic.loss_kind=l2")
    real = (f"data.root={coco_mini}", "data.train=train2017", "data.val=val2017")
    with pytest.raises(DataError, match=r"panoptic_train2017\.json"):
        make("experiment=seg", *real, "data.derive=true")
