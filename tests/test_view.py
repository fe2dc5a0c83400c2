"""Laws of the way from an image to an input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified.data.augment import AugmentConfig, draw_mosaic, draw_single
from unified.view import View, compose, draw, letterbox, move_points, warp_labels

SIZE = 64
FLIP = np.array([[-1.0, 0, SIZE], [0, 1.0, 0]])
IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])
MATRICES = st.builds(
    lambda a, b, c, d, e, f: np.array([[a, b, e], [c, d, f]]),
    *[st.floats(-2, 2)] * 4,
    *[st.floats(-30, 30)] * 2,
)


@settings(max_examples=50, deadline=None)
@given(MATRICES, MATRICES, st.integers(0, 1000))
def test_composition_is_one_map_after_the_other(outer, inner, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-50, 50, (7, 2))
    together = move_points(points, compose(outer, inner))
    in_turn = move_points(move_points(points, inner).astype(np.float64), outer)
    np.testing.assert_allclose(together, in_turn, atol=1e-2)


def test_pixels_and_boxes_move_together() -> None:
    """A white square is found where its box says, for many random maps."""
    config = AugmentConfig(scale=0.4, translate=0.2, flip=0.5)
    image = np.zeros((90, 120, 3), np.uint8)
    image[30:60, 40:80] = 255
    box = np.array([[40, 30, 80, 60]], np.float32)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
        matrix = draw(canvas, image, draw_single(rng, config, 90, 120, SIZE), 90, 120)
        view = View(matrix, SIZE)
        moved, _ = view.clip(view.boxes(box))
        y, x = np.nonzero(canvas[..., 0] > 127)
        found = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_allclose(moved[0], found, atol=1.01)


def test_an_unmoved_image_keeps_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    canvas = np.zeros_like(image)
    assert np.array_equal(draw(canvas, image, IDENTITY, SIZE, SIZE), IDENTITY)
    assert np.array_equal(canvas, image)
    flipped = np.zeros_like(image)
    draw(flipped, image, FLIP, SIZE, SIZE)
    assert np.array_equal(flipped, image[:, ::-1])


def test_letterbox_centres_and_keeps_the_ratio() -> None:
    corners = move_points(np.array([[0.0, 0], [100, 50]]), letterbox(50, 100, 64))
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
            draw(canvas, np.full((height, width, 3), 255, np.uint8), matrix, height, width)
            drawn += canvas > 0
        # Neighbours may share the row of pixels in which they meet, nothing else.
        assert (drawn > 1).mean() < 0.09


def test_a_view_knows_whether_it_mirrors_and_rotates() -> None:
    assert View(FLIP, SIZE).mirrored
    assert not View(IDENTITY, SIZE).mirrored
    assert not View(FLIP, SIZE).rotated
    turned = np.array([[0.0, -1, SIZE], [1.0, 0, 0]])
    assert View(turned, SIZE).rotated
    assert not View(turned, SIZE).mirrored


def test_what_is_too_small_or_too_far_out_leaves_the_view() -> None:
    view = View(IDENTITY, SIZE, min_side=2.0, min_visible=0.5)
    boxes = np.array(
        [[10, 10, 20, 20], [10, 10, 11, 40], [-30, 10, 10, 20], [-5, 10, 10, 20], [70, 0, 90, 9]],
        np.float32,
    )
    clipped, keep = view.clip(view.boxes(boxes))
    assert keep.tolist() == [True, False, False, True, False]
    assert clipped[3].tolist() == [0, 10, 10, 20]


@pytest.mark.parametrize("outside", [0, 255])
def test_label_pixels_that_no_image_covers_are_told_apart(outside: int) -> None:
    """A class 0 is a class; the margin is what it is said to be."""
    pixels = np.full((32, 64), 7, np.uint8)
    moved = warp_labels(pixels, View(letterbox(32, 64, SIZE), SIZE), 2, outside)
    assert moved.shape == (32, 32)
    assert (moved[8:24] == 7).all()
    assert (moved[:8] == outside).all()
    assert (moved[24:] == outside).all()
