"""The reader against pycocotools and the json itself."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from unified.data.coco import CocoSplit
from unified.data.datamodule import _warn_of_absent_categories
from unified.data.geometry import rasterise, transform_instances
from unified.errors import DataError
from unified.specs import Instances, Rings

IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_annotations_are_those_of_pycocotools(coco_mini: Path, split: str) -> None:
    ours = CocoSplit(coco_mini, split)
    theirs = COCO(str(ours.annotation_file("instances")))
    assert ours.ids.tolist() == sorted(theirs.imgs)
    ids = ours.labels["instances"].ids
    for index, image_id in enumerate(ours.ids.tolist()):
        found = ours.instances(index)
        expected = theirs.imgToAnns[image_id]
        assert found.ids.tolist() == [a["id"] for a in expected]
        assert [ids[c] for c in found.labels] == [a["category_id"] for a in expected]
        assert found.crowd.tolist() == [bool(a["iscrowd"]) for a in expected]
        boxes = np.array([a["bbox"] for a in expected]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
        assert ours.image_file(index).is_file()


def test_real_polygons_crowds_and_keypoints_survive(coco_mini: Path) -> None:
    ours = CocoSplit(coco_mini, "train2017")
    theirs = COCO(str(ours.annotation_file("instances")))
    people = COCO(str(ours.annotation_file("person_keypoints")))
    crowds = joints = 0
    for index in range(len(ours)):
        found = ours.instances(index)
        for row, identifier in enumerate(found.ids.tolist()):
            annotation = theirs.anns[identifier]
            if annotation["iscrowd"]:
                crowds += 1
                assert found.rles[row]["size"] == annotation["segmentation"]["size"]
                decoded = theirs.annToMask(annotation)
                from pycocotools import mask

                assert (mask.decode(found.rles[row]) == decoded).all()
            else:
                rings = [
                    found.rings.xy[found.rings.offsets[r] : found.rings.offsets[r + 1]]
                    for r in np.flatnonzero(found.rings.owner == row)
                ]
                flat = [ring.ravel().tolist() for ring in rings]
                assert len(flat) == len(annotation["segmentation"])
                for a, b in zip(flat, annotation["segmentation"], strict=True):
                    np.testing.assert_allclose(a, b, atol=1e-3)
            expected = people.anns.get(identifier, {}).get("keypoints")
            if expected:
                joints += 1
                np.testing.assert_allclose(found.keypoints[row].ravel(), expected, atol=1e-3)
            elif found.keypoints is not None:
                assert not found.keypoints[row].any()
    assert crowds > 0
    assert joints > 50


def test_real_captions(coco_mini: Path) -> None:
    ours = CocoSplit(coco_mini, "val2017")
    document = json.loads(ours.annotation_file("captions").read_text())
    for index, image_id in enumerate(ours.ids.tolist()):
        expected = [
            a["caption"].strip() for a in document["annotations"] if a["image_id"] == image_id
        ]
        assert list(ours.caption_texts(index)) == expected


def test_real_panoptic_labels(coco_panoptic: Path) -> None:
    ours = CocoSplit(coco_panoptic, "val2017")
    assert ours.instances(0) is None
    assert ours.labels["panoptic"].things.count(True) == 80
    for index in range(len(ours)):
        segments = ours.segments("panoptic", index)
        assert Path(segments.file).is_file()
        assert len(segments.ids) > 3


def test_every_kind_of_the_generated_data_is_read(shapes: Path) -> None:
    split = CocoSplit(shapes, "train")
    assert set(split.labels) == {"instances", "person_keypoints", "panoptic", "stuff", "lvis"}
    assert split.labels["instances"].identified
    assert set(split.labels["lvis"].frequency) <= {"r", "c", "f"}
    assert split.labels["lvis"].frequency
    assert len(split.labels["person_keypoints"].keypoints) == 13
    assert len(split.caption_texts(0)) == 5
    lvis = split.lvis(0)
    assert len(lvis.negatives) > 0
    assert not set(lvis.negatives) & set(lvis.instances.labels)
    document = json.loads(split.annotation_file("instances").read_text())
    tracks = {a["id"]: a.get("track_id") for a in document["annotations"]}
    for index in range(len(split)):
        found = split.instances(index)
        for identifier, identity in zip(found.ids.tolist(), found.identities.tolist(), strict=True):
            assert identity == (tracks[identifier] or identifier)


def test_drawn_masks_are_those_of_pycocotools(coco_mini: Path) -> None:
    """At full resolution, unmoved: the same pixels but for a few on the outline."""
    split = CocoSplit(coco_mini, "val2017")
    theirs = COCO(str(split.annotation_file("instances")))
    overlaps = []
    for index in range(10):
        size = int(max(split.heights[index], split.widths[index]))
        moved = transform_instances(split.instances(index), IDENTITY, size, np.zeros(0, int))
        masks = rasterise(moved, size, 1)
        for mask, identifier in zip(masks, moved.ids.tolist(), strict=True):
            expected = theirs.annToMask(theirs.anns[identifier])
            drawn = mask[: expected.shape[0], : expected.shape[1]] >= 128
            union = (drawn | expected).sum()
            if expected.sum() > 100:
                overlaps.append((drawn & expected).sum() / union)
    assert np.mean(overlaps) > 0.97


@pytest.mark.parametrize("stride", [1, 4])
def test_drawn_masks_are_neither_fat_nor_thin(shapes: Path, stride: int) -> None:
    """Coverage at any stride is the mean of the exact pixels below it."""
    split = CocoSplit(shapes, "train")
    theirs = COCO(str(split.annotation_file("instances")))
    drawn, exact, gaps = 0.0, 0.0, 0.0
    for index in range(24):
        moved = transform_instances(split.instances(index), IDENTITY, 64, np.zeros(0, int))
        masks = rasterise(moved, 64, stride) / 255
        for mask, identifier in zip(masks, moved.ids.tolist(), strict=True):
            cells = theirs.annToMask(theirs.anns[identifier]).reshape(
                64 // stride, stride, -1, stride
            )
            expected = cells.mean((1, 3))
            drawn, exact = drawn + mask.sum(), exact + expected.sum()
            gaps += np.abs(mask - expected).sum()
    assert abs(drawn / exact - 1) < 0.01
    assert gaps / exact < 0.15


def test_pieces_of_an_object_are_united() -> None:
    """Where two polygons of one object overlap, COCO's masks are on."""
    squares = np.array([[4, 4], [20, 4], [20, 20], [4, 20], [12, 12], [28, 12], [28, 28], [12, 28]])
    one = Instances(
        np.array([[4, 4, 28, 28]], np.float32), np.zeros(1, int), np.zeros(1, bool),
        np.zeros(1, int), np.zeros(1, int),
        Rings(squares.astype(np.float32), np.array([0, 4, 8]), np.zeros(2, int)),
    )  # fmt: skip
    rles = coco_mask.frPyObjects(
        [squares[:4].ravel().tolist(), squares[4:].ravel().tolist()], 32, 32
    )
    expected = coco_mask.decode(coco_mask.merge(rles))
    assert np.array_equal(rasterise(one, 32, 1)[0] >= 128, expected > 0)


def test_a_split_travels_to_workers(coco_mini: Path) -> None:
    split = CocoSplit(coco_mini, "val2017")
    copy = pickle.loads(pickle.dumps(split))
    assert np.array_equal(copy.instances(3).boxes, split.instances(3).boxes)


@pytest.fixture
def copied(shapes: Path, tmp_path: Path) -> Path:
    shutil.copytree(shapes, tmp_path / "copy")
    return tmp_path / "copy"


def edit(root: Path, change) -> None:
    file = root / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("categories"), "lacks categories"),
        (lambda d: d.pop("annotations"), "lacks annotations"),
        (lambda d: d["images"].clear(), "images"),
        (lambda d: d["images"][0].pop("width"), "width"),
        (lambda d: d["annotations"][0].pop("image_id"), "image_id"),
        (lambda d: d["annotations"][0].pop("bbox"), "bbox"),
        (lambda d: d["annotations"][0].update(category_id=999), "category 999"),
        (lambda d: d["annotations"][0].update(image_id=10**9), "image 1000000000"),
    ],
)
def test_json_that_is_not_coco_is_named(copied: Path, change, said: str) -> None:
    edit(copied, change)
    with pytest.raises(DataError, match=said) as caught:
        CocoSplit(copied, "train")
    assert "instances_train.json" in str(caught.value)
    assert "fix:" in str(caught.value)


def test_splits_with_other_categories_are_refused(copied: Path) -> None:
    train = CocoSplit(copied, "val")
    edit(copied, lambda d: d["categories"][0].update(name="blob"))
    with pytest.raises(DataError, match="blob"):
        CocoSplit(copied, "train", train.labels)


def test_categories_without_images_are_told(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(copied, lambda d: d["categories"].append({"id": 77, "name": "unicorn"}))
    _warn_of_absent_categories(CocoSplit(copied, "train"))
    assert "unicorn" in caplog.text
    assert "fix:" in caplog.text


def test_missing_folders_and_splits_are_named(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        CocoSplit(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="train2099"):
        CocoSplit(shapes, "train2099")
