"""Laws of moving labels and pixels together."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unified.data.augment import AugmentConfig, draw_mosaic, draw_single
from unified.data.geometry import (
    compose,
    letterbox,
    merge,
    mirror_pairs,
    rasterise,
    select,
    transform_instances,
    transform_points,
    warp_onto,
)
from unified.data.tables import offsets_of
from unified.specs import Instances, Rings

SIZE = 64
FLIP = np.array([[-1.0, 0, SIZE], [0, 1.0, 0]])
IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])
PAIRS = mirror_pairs(["nose", "left_eye", "right_eye"])
MATRICES = st.builds(
    lambda a, b, c, d, e, f: np.array([[a, b, e], [c, d, f]]),
    *[st.floats(-2, 2)] * 4,
    *[st.floats(-30, 30)] * 2,
)


def make_instances(rng: np.random.Generator, count: int = 5) -> Instances:
    corners = np.sort(rng.uniform(1, SIZE - 1, (count, 2, 2)), 1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1]], 1).astype(np.float32)
    squares = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    joints = rng.uniform(1, SIZE - 1, (count, 3, 3)).astype(np.float32)
    joints[..., 2] = rng.integers(0, 3, (count, 3))
    joints[joints[..., 2] == 0] = 0
    return Instances(
        boxes=boxes,
        labels=rng.integers(0, 4, count),
        crowd=np.zeros(count, bool),
        ids=np.arange(count),
        identities=np.arange(count),
        rings=Rings(squares, offsets_of([4] * count), np.arange(count)),
        keypoints=joints,
    )


def test_mirror_swaps_left_and_right_only() -> None:
    assert PAIRS.tolist() == [0, 2, 1]
    assert mirror_pairs(["left_hand", "tail"]).tolist() == [0, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_a_flip_twice_is_the_identity(seed: int) -> None:
    before = make_instances(np.random.default_rng(seed))
    once = transform_instances(before, FLIP, SIZE, PAIRS)
    twice = transform_instances(once, FLIP, SIZE, PAIRS)
    np.testing.assert_allclose(twice.boxes, before.boxes, atol=1e-4)
    np.testing.assert_allclose(twice.rings.xy, before.rings.xy, atol=1e-4)
    np.testing.assert_allclose(twice.keypoints, before.keypoints, atol=1e-4)
    np.testing.assert_allclose(once.boxes[:, 0], SIZE - before.boxes[:, 2], atol=1e-4)
    np.testing.assert_allclose(once.keypoints[:, 1, 2], before.keypoints[:, 2, 2])


@settings(max_examples=50, deadline=None)
@given(MATRICES, MATRICES, st.integers(0, 1000))
def test_composition_is_one_map_after_the_other(outer, inner, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-50, 50, (7, 2))
    together = transform_points(points, compose(outer, inner))
    in_turn = transform_points(transform_points(points, inner).astype(np.float64), outer)
    np.testing.assert_allclose(together, in_turn, atol=1e-2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_labels_stay_inside_and_consistent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = AugmentConfig(scale=0.8, translate=0.5, flip=0.5, rotate=30, shear=10)
    matrix = draw_single(rng, config, SIZE, SIZE, SIZE)
    moved = transform_instances(make_instances(rng), matrix, SIZE, PAIRS, 2.0, 0.1)
    count = len(moved)
    assert len(moved.boxes) == len(moved.ids) == len(moved.keypoints) == count
    assert (moved.boxes >= 0).all()
    assert (moved.boxes <= SIZE).all()
    assert ((moved.boxes[:, 2:] - moved.boxes[:, :2]) > 2).all()
    assert moved.rings.owner.tolist() == list(range(count))
    visible = moved.keypoints[moved.keypoints[..., 2] > 0]
    assert ((visible[:, :2] >= 0) & (visible[:, :2] <= SIZE)).all()
    masks = rasterise(moved, SIZE, 1)
    for mask, box in zip(masks, moved.boxes, strict=True):
        y, x = np.nonzero(mask)
        if len(x):
            assert x.min() + 1.6 >= box[0]
            assert x.max() - 0.6 <= box[2]
            assert y.min() + 1.6 >= box[1]
            assert y.max() - 0.6 <= box[3]


def test_pixels_and_boxes_move_together() -> None:
    """A white square is found where its box says, for many random maps."""
    config = AugmentConfig(scale=0.4, translate=0.2, flip=0.5)
    image = np.zeros((90, 120, 3), np.uint8)
    image[30:60, 40:80] = 255
    box = np.array([[40, 30, 80, 60]], np.float32)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        matrix = draw_single(rng, config, 90, 120, SIZE)
        canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
        warp_onto(canvas, image, matrix)
        one = Instances(box, np.zeros(1, int), np.zeros(1, bool), np.zeros(1), np.zeros(1))
        moved = transform_instances(one, matrix, SIZE, PAIRS)
        y, x = np.nonzero(canvas[..., 0] > 127)
        found = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_allclose(moved.boxes[0], found, atol=1.01)


def test_an_unmoved_image_keeps_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    canvas = np.zeros_like(image)
    warp_onto(canvas, image, IDENTITY)
    assert np.array_equal(canvas, image)
    flipped = np.zeros_like(image)
    warp_onto(flipped, image, FLIP)
    assert np.array_equal(flipped, image[:, ::-1])


def test_letterbox_centres_and_keeps_the_ratio() -> None:
    matrix = letterbox(50, 100, 64)
    corners = transform_points(np.array([[0.0, 0], [100, 50]]), matrix)
    np.testing.assert_allclose(corners, [[0, 16], [64, 48]])


def test_mosaic_images_meet_and_do_not_overlap() -> None:
    config = AugmentConfig(mosaic=1.0, scale=0.5, translate=0.1, flip=0.5)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shapes = [(48, 64), (64, 40), (30, 64), (64, 64)]
        drawn = np.zeros((SIZE, SIZE, 3), int)
        for matrix, (height, width) in zip(
            draw_mosaic(rng, config, shapes, SIZE), shapes, strict=True
        ):
            canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
            warp_onto(canvas, np.full((height, width, 3), 255, np.uint8), matrix)
            drawn += canvas > 0
        # Neighbours may share the row of pixels in which they meet, nothing else.
        assert (drawn > 1).mean() < 0.09


def test_masks_of_merged_images_are_the_masks_of_the_parts() -> None:
    rng = np.random.default_rng(0)
    parts = [make_instances(rng, 3), make_instances(rng, 2)]
    together = rasterise(merge(parts), SIZE, 2)
    assert np.array_equal(together, np.concatenate([rasterise(p, SIZE, 2) for p in parts]))


def test_selecting_keeps_what_belongs_together() -> None:
    whole = make_instances(np.random.default_rng(1), 5)
    keep = np.array([True, False, True, True, False])
    part = select(whole, keep)
    assert np.array_equal(part.ids, whole.ids[keep])
    assert np.array_equal(rasterise(part, SIZE, 1), rasterise(whole, SIZE, 1)[keep])
