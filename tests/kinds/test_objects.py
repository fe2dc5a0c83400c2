"""Laws of moving objects."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unified.data.augment import AugmentConfig, draw_single
from unified.kinds.objects import ObjectAsk, ObjectLabel, find_objects
from unified.kinds.outlines import outlines_of
from unified.view import View

SIZE = 64
FLIP = View(np.array([[-1.0, 0, SIZE], [0, 1.0, 0]]), SIZE)
ASK = ObjectAsk()


def make_label(rng: np.random.Generator, count: int = 5) -> ObjectLabel:
    corners = np.sort(rng.uniform(1, SIZE - 1, (count, 2, 2)), 1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1]], 1).astype(np.float32)
    rings = [[box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)] for box in boxes]
    return ObjectLabel(
        boxes=boxes,
        labels=rng.integers(0, 4, count),
        crowd=rng.random(count) < 0.2,
        identities=np.arange(count) + 100,
        keys=np.arange(count),
        outlines=outlines_of(rings),
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_a_flip_twice_is_the_identity(seed: int) -> None:
    before = make_label(np.random.default_rng(seed))
    once = before.seen(FLIP, ASK)
    twice = once.seen(FLIP, ASK)
    np.testing.assert_allclose(twice.boxes, before.boxes, atol=1e-4)
    np.testing.assert_allclose(once.boxes[:, 0], SIZE - before.boxes[:, 2], atol=1e-4)
    assert twice.keys.tolist() == before.keys.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_labels_stay_inside_and_consistent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = AugmentConfig(scale=0.8, translate=0.5, flip=0.5, rotate=30, shear=10)
    label = make_label(rng)
    view = View(draw_single(rng, config, SIZE, SIZE, SIZE), SIZE, 2.0, 0.1)
    moved = label.seen(view, ASK)
    assert len(moved.boxes) == len(moved.labels) == len(moved.crowd) == len(moved)
    assert (moved.boxes >= 0).all()
    assert (moved.boxes <= SIZE).all()
    assert ((moved.boxes[:, 2:] - moved.boxes[:, :2]) > 2).all()
    assert moved.labels.tolist() == label.labels[moved.keys].tolist()
    assert moved.identities.tolist() == label.identities[moved.keys].tolist()


def test_a_rotated_box_is_as_tight_as_its_outline() -> None:
    """A square turned by 45 degrees about the centre: its hull is √2 as wide, not 2."""
    half = np.sqrt(0.5)
    turn = np.array([[half, -half], [half, half]])
    centre = np.full(2, SIZE / 2)
    matrix = np.column_stack([turn, centre - turn @ centre])
    diamond = np.array([[32, 22], [42, 32], [32, 42], [22, 32]], np.float32)
    one = ObjectLabel(
        np.array([[22, 22, 42, 42]], np.float32), np.zeros(1, int), np.zeros(1, bool),
        np.zeros(1, int), np.zeros(1, int), outlines_of([[diamond]]),
    )  # fmt: skip
    moved = one.seen(View(matrix, SIZE), ASK)
    np.testing.assert_allclose(moved.boxes[0, 2:] - moved.boxes[0, :2], np.sqrt(200), rtol=1e-5)


def test_things_find_their_objects_whatever_was_dropped() -> None:
    """Keys join kinds of knowledge about the same objects, per input, in any order."""
    rng = np.random.default_rng(0)
    labels = [make_label(rng, 4), make_label(rng, 3), None, make_label(rng, 5)]
    targets = ObjectLabel.batched(labels, ASK, SIZE)
    image = torch.tensor([3, 0, 0, 1, 3])
    keys = torch.tensor([4, 2, 0, 1, 9])  # the last is of no object
    rows = find_objects(targets, image, keys)
    assert len(rows) == 12
    for row, (i, k) in enumerate(zip(targets.image.tolist(), targets.keys.tolist(), strict=True)):
        pairs = list(zip(image.tolist(), keys.tolist(), strict=True))
        assert rows[row] == (pairs.index((i, k)) if (i, k) in pairs else -1)
    assert (find_objects(targets, image[:0], keys[:0]) == -1).all()


def test_one_image_twice_in_a_mosaic_stays_two() -> None:
    label = make_label(np.random.default_rng(1), 3)
    joined = ObjectLabel.joined([label, label, label, label])
    assert len(set(joined.keys.tolist())) == 12
