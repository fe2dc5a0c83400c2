"""Labels made from other labels are the labels that were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from unified.data.coco.derive import StuffPixels, ThingMasks, ThingObjects
from unified.data.coco.objects import Objects


def test_objects_and_masks_from_panoptic_are_those_written(
    shapes: Path, panoptic_only: Path, open_split: Callable
) -> None:
    written = open_split(shapes, "val", "objects", "masks")
    derived = open_split(panoptic_only, "val", "objects", "masks", derive=True)
    ours, theirs = derived.sources["objects"], written.sources["objects"]
    assert isinstance(ours, ThingObjects)
    assert isinstance(derived.sources["masks"], ThingMasks)
    assert (ours.space.ids, ours.space.names) == (theirs.space.ids, theirs.space.names)
    assert derived.known("objects").all()
    for index in range(len(written)):
        a, b = derived.label("objects", index), written.label("objects", index)
        for name in ("boxes", "labels", "crowd", "keys"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        masks, expected = derived.result("masks", index), written.result("masks", index)
        assert np.array_equal(masks.dense(), expected.dense())
    ids = ours.table.ids
    assert len(np.unique(ids)) == len(ids)
    np.testing.assert_allclose(ours.sizes(128), theirs.sizes(128))


def test_stuff_from_panoptic_is_the_stuff(
    shapes: Path, panoptic_only: Path, open_split: Callable
) -> None:
    written = open_split(shapes, "val", "pixels")
    derived = open_split(panoptic_only, "val", "pixels", derive=True)
    assert isinstance(derived.sources["pixels"], StuffPixels)
    names, expected = (np.array(s.sources["pixels"].space.names) for s in (derived, written))
    assert sorted(names) == sorted(expected)
    for index in range(len(written)):
        ours, theirs = (s.result("pixels", index).classes.numpy() for s in (derived, written))
        known = ours < len(names)  # the inside of crowds may be anything
        assert known.mean() > 0.5
        assert (names[ours[known]] == expected[theirs[known]]).all()


def test_what_exists_is_not_derived(shapes: Path, open_split: Callable) -> None:
    assert isinstance(open_split(shapes, "val", derive=True).sources["objects"], Objects)


def test_objects_do_not_open_the_label_files(
    panoptic_only: Path, open_split: Callable, monkeypatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a label file was opened")

    monkeypatch.setattr("unified.data.coco.segments.read_colours", refuse)
    split = open_split(panoptic_only, "val", "objects", derive=True)
    assert sum(len(split.label("objects", i)) for i in range(len(split))) > 20
    assert split.sources["objects"].files() == []


def test_real_panoptic_labels_give_objects(coco_panoptic: Path, open_split: Callable) -> None:
    split = open_split(coco_panoptic, "val2017", "objects", "masks", "pixels", derive=True)
    assert len(split.sources["objects"].space) == 80
    assert len(split.sources["pixels"].space) == 54
    document = split.sources["masks"].truth()
    assert len(document["annotations"]) > 20
    for row in document["annotations"]:
        assert int(coco_mask.area(row["segmentation"])) == row["area"]
        assert np.allclose(coco_mask.toBbox(row["segmentation"]), row["bbox"], atol=1)
