"""Masks are drawn where the objects are, as large as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from unified.data.augment import AugmentConfig, draw_single
from unified.kinds.masks import MapLabel, MaskAsk, MaskCells, OutlineLabel
from unified.kinds.objects import ObjectAsk
from unified.kinds.outlines import outlines_of
from unified.view import View

SIZE = 64
IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def dense(label: MaskCells) -> np.ndarray:
    """(N, s, s) coverage."""
    masks = np.zeros((len(label), label.side, label.side), np.uint8)
    label.draw_onto(masks)
    return masks


def squares(rng: np.random.Generator, count: int) -> OutlineLabel:
    corners = np.sort(rng.uniform(1, SIZE - 1, (count, 2, 2)), 1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1]], 1).astype(np.float32)
    rings = [[box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)] for box in boxes]
    return OutlineLabel(boxes, np.arange(count), outlines_of(rings), {})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_masks_lie_in_their_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = AugmentConfig(scale=0.8, translate=0.5, flip=0.5, rotate=30, shear=10)
    label = squares(rng, 5)
    view = View(draw_single(rng, config, SIZE, SIZE, SIZE), SIZE, 2.0, 0.1)
    moved = label.seen(view, MaskAsk(stride=1))
    hulls, _ = view.clip(label.outlines.seen(view).hulls(label.boxes))
    for key, mask in zip(moved.keys, dense(moved), strict=True):
        box = hulls[key]
        y, x = np.nonzero(mask)
        assert x.min() + 1.6 >= box[0]
        assert x.max() - 0.6 <= box[2]
        assert y.min() + 1.6 >= box[1]
        assert y.max() - 0.6 <= box[3]


def test_drawn_masks_are_those_of_pycocotools(coco_mini: Path, open_split: Callable) -> None:
    """At full resolution, unmoved: the same pixels but for a few on the outline."""
    split = open_split(coco_mini, "val2017", "objects", "masks")
    source = split.sources["objects"]
    theirs = COCO(str(source.file))
    overlaps = []
    for index in range(10):
        size = 32 * -(-max(split.images.size(index)) // 32)
        drawn = split.label("masks", index).seen(View(IDENTITY, size), MaskAsk(stride=1))
        ids = source.table.ids[source.table.rows(index)]
        for mask, key in zip(dense(drawn), drawn.keys, strict=True):
            expected = theirs.annToMask(theirs.anns[int(ids[key])])
            own = mask[: expected.shape[0], : expected.shape[1]] >= 128
            if expected.sum() > 100:
                overlaps.append((own & expected).sum() / (own | expected).sum())
    assert len(overlaps) > 30
    assert np.mean(overlaps) > 0.97


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("derive", [False, True])
def test_drawn_masks_are_neither_fat_nor_thin(
    shapes: Path, panoptic_only: Path, open_split: Callable, stride: int, derive: bool
) -> None:
    """Coverage at any stride is the mean of the exact pixels below it, whatever they come from."""
    split = open_split(panoptic_only if derive else shapes, "train", "masks", derive=derive)
    theirs = open_split(shapes, "train", "masks")
    drawn, exact, gaps = 0.0, 0.0, 0.0
    for index in range(24):
        seen = split.label("masks", index).seen(View(IDENTITY, 64), MaskAsk(stride=stride))
        whole = theirs.label("masks", index)
        expected = {k: coco_mask.decode(r) for k, r in whole.rles.items()}
        for k, rings in whole.outlines.by_object(len(whole.boxes)):
            flat = [ring.ravel().tolist() for ring in rings]
            expected[k] = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, 64, 64)))
        for mask, key in zip(dense(seen) / 255, seen.keys.tolist(), strict=True):
            cells = expected[key].reshape(64 // stride, stride, -1, stride).mean((1, 3))
            drawn, exact = drawn + mask.sum(), exact + cells.sum()
            gaps += np.abs(mask - cells).sum()
    assert abs(drawn / exact - 1) < 0.01
    assert gaps / exact < 0.15


def test_polygons_run_lengths_and_maps_cover_what_the_object_covers() -> None:
    """Through a random view, however it is annotated: to half an input pixel at its border."""
    canvas = np.zeros((48, 80), np.uint8)
    canvas[10:40, 20:60] = 1
    box = np.array([[20, 10, 60, 40]], np.float32)
    ring = box[0][[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    rle = coco_mask.encode(np.asfortranarray(canvas))
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[canvas > 0, 1] = 3  # the number 768
    key = np.zeros(1, int)
    labels = [
        OutlineLabel(box, key, outlines_of([[ring]]), {}),
        OutlineLabel(box, key, outlines_of([[]]), {0: rle}),
        MapLabel(box, key, pixels, np.array([768])),
    ]
    config = AugmentConfig(scale=0.5, translate=0.2, flip=0.5)
    for seed in range(12):
        view = View(draw_single(np.random.default_rng(seed), config, 48, 80, SIZE), SIZE)
        low, high = view.boxes(box)[0].reshape(2, 2) / 2
        first = np.arange(SIZE // 2)[:, None]
        x, y = (np.minimum(first + 1, high) - np.maximum(first, low)).clip(0, 1).T
        exact = 255 * np.outer(y, x)
        border = 2 * (np.ceil(high).clip(0, SIZE // 2) - np.floor(low).clip(0, None)).sum()
        for label in labels:
            (mask,) = dense(label.seen(view, MaskAsk(stride=2)))
            assert np.abs(mask - exact).sum() < border * 255 / 4


def test_pieces_of_an_object_are_united() -> None:
    """Where two polygons of one object overlap, COCO's masks are on."""
    one = np.array([[4, 4], [20, 4], [20, 20], [4, 20]], np.float32)
    two = one + 8
    label = OutlineLabel(
        np.array([[4, 4, 28, 28]], np.float32), np.zeros(1, int), outlines_of([[one, two]]), {}
    )
    rles = coco_mask.frPyObjects([one.ravel().tolist(), two.ravel().tolist()], 32, 32)
    expected = coco_mask.decode(coco_mask.merge(rles))
    drawn = label.seen(View(IDENTITY, 32), MaskAsk(stride=1))
    assert np.array_equal(dense(drawn)[0] >= 128, expected > 0)


def test_objects_without_a_mask_or_out_of_view_have_no_row() -> None:
    label = squares(np.random.default_rng(0), 3)
    bare = OutlineLabel(label.boxes, label.keys, outlines_of([[], []]), {})
    assert len(bare.seen(View(IDENTITY, SIZE), MaskAsk(stride=2)).keys) == 0
    away = View(np.array([[1.0, 0, 500], [0, 1.0, 0]]), SIZE)
    assert len(label.seen(away, MaskAsk(stride=2)).keys) == 0


def test_masks_of_joined_images_are_the_masks_of_the_parts() -> None:
    rng = np.random.default_rng(0)
    view, ask = View(IDENTITY, SIZE), MaskAsk(stride=2)
    parts = [squares(rng, 3).seen(view, ask), squares(rng, 2).seen(view, ask)]
    together = MaskCells.joined(parts)
    assert np.array_equal(dense(together), np.concatenate([dense(p) for p in parts]))
    assert len(set(together.keys.tolist())) == 5


def test_masks_and_objects_agree_on_what_is_in_view(shapes: Path, open_split: Callable) -> None:
    split = open_split(shapes, "train", "objects", "masks")
    config = AugmentConfig(scale=0.5, translate=0.3, flip=0.5)
    for index in range(16):
        matrix = draw_single(np.random.default_rng(index), config, 64, 64, 64)
        view = View(matrix, 64, 2.0, 0.1)
        objects = split.label("objects", index).seen(view, ObjectAsk())
        masks = split.label("masks", index).seen(view, MaskAsk(stride=2))
        assert set(masks.keys.tolist()) <= set(objects.keys.tolist())
        assert len(masks) >= len(objects) - 1
