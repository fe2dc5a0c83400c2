"""Labels made from other labels are the labels that were written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from unified.data.coco import CocoSplit
from unified.data.truth import instances_document, true_masks
from unified.errors import DataError


@pytest.fixture
def panoptic_only(shapes: Path, tmp_path: Path) -> Path:
    """The generated data with nothing but panoptic labels."""
    root = tmp_path / "panoptic"
    shutil.copytree(shapes, root)
    for file in (root / "annotations").glob("*.json"):
        if not file.name.startswith("panoptic"):
            file.unlink()
    return root


def test_instances_from_panoptic_are_the_instances(shapes: Path, panoptic_only: Path) -> None:
    written = CocoSplit(shapes, "val")
    derived = CocoSplit(panoptic_only, "val", derive=True)
    assert derived.labels["instances"].ids == written.labels["instances"].ids
    assert derived.labels["instances"].names == written.labels["instances"].names
    assert derived.has_instances.all()
    for index in range(len(written)):
        ours, theirs = derived.instances(index), written.instances(index)
        assert np.array_equal(ours.boxes, theirs.boxes)
        assert np.array_equal(ours.labels, theirs.labels)
        assert np.array_equal(ours.crowd, theirs.crowd)
        masks, expected = true_masks(derived, index), true_masks(written, index)
        assert np.array_equal(masks.dense(), expected.dense())
    ids = derived.tables["instances"].ids
    assert len(np.unique(ids)) == len(ids)


def test_instances_keep_their_masks_in_the_file_until_asked(panoptic_only: Path) -> None:
    derived = CocoSplit(panoptic_only, "val", derive=True)
    assert not derived.instances(0, masks=False).rles
    assert len(derived.instances(0).rles) == len(derived.instances(0))


def test_stuff_from_panoptic_is_the_stuff(shapes: Path, panoptic_only: Path) -> None:
    written = CocoSplit(shapes, "val")
    derived = CocoSplit(panoptic_only, "val", derive=True)
    assert sorted(derived.labels["stuff"].names) == sorted(written.labels["stuff"].names)
    names, expected = (np.array(s.labels["stuff"].names) for s in (derived, written))
    for index in range(len(written)):
        ours, theirs = derived.class_map("stuff", index), written.class_map("stuff", index)
        known = ours < len(names)  # the inside of crowds may be anything
        assert known.mean() > 0.5
        assert (names[ours[known]] == expected[theirs[known]]).all()


def test_what_exists_is_not_derived(shapes: Path) -> None:
    plain, asked = CocoSplit(shapes, "val"), CocoSplit(shapes, "val", derive=True)
    assert asked.derived_segment is None
    assert np.array_equal(asked.instances(0).ids, plain.instances(0).ids)


def test_stuff_from_run_lengths_is_the_pixel_map(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "rle"
    shutil.copytree(shapes, root)
    shutil.rmtree(root / "annotations" / "stuff_val_pixelmaps")
    painted, written = CocoSplit(root, "val"), CocoSplit(shapes, "val")
    for index in range(len(written)):
        assert np.array_equal(painted.class_map("stuff", index), written.class_map("stuff", index))


def test_stuff_without_any_pixels_is_refused(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "nothing"
    shutil.copytree(shapes, root)
    shutil.rmtree(root / "annotations" / "stuff_val_pixelmaps")
    file = root / "annotations" / "stuff_val.json"
    document = json.loads(file.read_text())
    for row in document["annotations"]:
        del row["segmentation"]
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match="add the pixel maps"):
        CocoSplit(root, "val")


def test_more_classes_than_a_byte_holds_are_refused(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "many"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "stuff_val.json"
    document = json.loads(file.read_text())
    document["categories"].append({"id": 300, "name": "moon"})
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match="ids up to 300"):
        CocoSplit(root, "val")


def test_real_panoptic_labels_give_instances(coco_panoptic: Path) -> None:
    split = CocoSplit(coco_panoptic, "val2017", derive=True)
    assert len(split.labels["instances"]) == 80
    assert len(split.labels["stuff"]) == 54
    document = instances_document(split, masks=True)
    for row in document["annotations"]:
        area = int(coco_mask.area(row["segmentation"]))
        assert area == row["area"]
        assert np.allclose(coco_mask.toBbox(row["segmentation"]), row["bbox"], atol=1)
