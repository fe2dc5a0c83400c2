"""Objects and their masks against pycocotools and the json itself."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from unified.errors import DataError


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_annotations_are_those_of_pycocotools(
    coco_mini: Path, open_split: Callable, split: str
) -> None:
    ours = open_split(coco_mini, split)
    source = ours.sources["objects"]
    theirs = COCO(str(source.file))
    assert ours.images.ids.tolist() == sorted(theirs.imgs)
    for index, image_id in enumerate(ours.images.ids.tolist()):
        found, expected = ours.label("objects", index), theirs.imgToAnns[image_id]
        assert source.table.ids[source.table.rows(index)].tolist() == [a["id"] for a in expected]
        assert [source.space.ids[c] for c in found.labels] == [a["category_id"] for a in expected]
        assert found.crowd.tolist() == [bool(a["iscrowd"]) for a in expected]
        boxes = np.array([a["bbox"] for a in expected]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
        assert ours.image_file(index).is_file()


def test_real_polygons_and_crowds_survive(coco_mini: Path, open_split: Callable) -> None:
    split = open_split(coco_mini, "train2017", "objects", "masks")
    table = split.sources["objects"].table
    theirs = COCO(str(split.sources["objects"].file))
    crowds = polygons = 0
    for index in range(len(split)):
        label = split.label("masks", index)
        rings = dict(label.outlines.by_object(len(label.boxes)))
        for row, identifier in enumerate(table.ids[table.rows(index)].tolist()):
            annotation = theirs.anns[identifier]
            if annotation["iscrowd"]:
                crowds += 1
                assert label.rles[row]["size"] == annotation["segmentation"]["size"]
                decoded = coco_mask.decode(label.rles[row])
                assert (decoded == theirs.annToMask(annotation)).all()
            else:
                polygons += 1
                flat = [ring.ravel().tolist() for ring in rings[row]]
                assert len(flat) == len(annotation["segmentation"])
                for a, b in zip(flat, annotation["segmentation"], strict=True):
                    np.testing.assert_allclose(a, b, atol=1e-3)
    assert crowds > 2
    assert polygons > 300


def test_identities_are_the_tracks_of_the_json(shapes: Path, open_split: Callable) -> None:
    split = open_split(shapes, "train")
    source = split.sources["objects"]
    assert source.space.identified
    rows = json.loads(source.file.read_text())["annotations"]
    tracks = {a["id"]: a.get("track_id", a["id"]) for a in rows}
    for index in range(len(split)):
        ids = source.table.ids[source.table.rows(index)].tolist()
        assert split.label("objects", index).identities.tolist() == [tracks[i] for i in ids]


def test_people_alone_are_objects(crowdpose: Path, open_split: Callable) -> None:
    """A data set that has keypoints only: its boxes are boxes."""
    split = open_split(crowdpose, "val")
    assert split.sources["objects"].file.name == "person_keypoints_val.json"
    assert split.sources["objects"].space.names == ("person",)
    assert sum(len(split.label("objects", i)) for i in range(len(split))) == 5
    assert not split.sources["objects"].space.identified


def test_a_split_travels_to_workers(coco_mini: Path, open_split: Callable) -> None:
    split = open_split(coco_mini, "val2017")
    copy = pickle.loads(pickle.dumps(split))
    assert np.array_equal(copy.label("objects", 3).boxes, split.label("objects", 3).boxes)


@pytest.fixture
def copied(shapes: Path, tmp_path: Path) -> Path:
    shutil.copytree(shapes, tmp_path / "copy")
    return tmp_path / "copy"


def edit(root: Path, change: Callable) -> None:
    file = root / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"][0].update(category_id=999), "category 999"),
        (lambda d: d["annotations"][0].update(image_id=10**9), "image 1000000000"),
        (lambda d: d["annotations"][0].update(bbox=None), r"annotations\[0\]"),
        (lambda d: d["categories"][0].pop("name"), r"categories\[0\]"),
    ],
)
def test_json_that_is_not_coco_is_named(
    copied: Path, open_split: Callable, change: Callable, said: str
) -> None:
    edit(copied, change)
    with pytest.raises(DataError, match=said) as caught:
        open_split(copied, "train")
    assert "instances_train.json" in str(caught.value)
    assert "fix:" in str(caught.value)


def test_no_keypoints_in_an_annotation_of_objects_do_no_harm(
    copied: Path, open_split: Callable
) -> None:
    edit(copied, lambda d: d["annotations"][0].update(keypoints=[]))
    assert len(open_split(copied, "train")) == 32


def test_categories_without_images_are_told(
    copied: Path, open_split: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    edit(copied, lambda d: d["categories"].append({"id": 77, "name": "unicorn"}))
    open_split(copied, "train").sources["objects"].check(learn=True)
    assert "unicorn" in caplog.text
    assert "fix:" in caplog.text


def test_a_split_without_any_object_is_refused(copied: Path, open_split: Callable) -> None:
    edit(copied, lambda d: d["annotations"].clear())
    with pytest.raises(DataError, match="annotates no object"):
        open_split(copied, "train").sources["objects"].check(learn=True)


def test_boxes_without_masks_are_refused(copied: Path, open_split: Callable) -> None:
    edit(copied, lambda d: [row.pop("segmentation") for row in d["annotations"]])
    with pytest.raises(DataError, match="no masks"):
        open_split(copied, "train", "masks").sources["masks"].check(learn=True)


def test_an_object_without_a_mask_gets_an_empty_one_to_be_scored(
    copied: Path, open_split: Callable
) -> None:
    edit(copied, lambda d: d["annotations"][0].pop("segmentation"))
    source = open_split(copied, "train", "masks").sources["masks"]
    row = source.truth()["annotations"][0]
    assert coco_mask.area(row["segmentation"]) == 0
    assert "segmentation" not in json.loads(source.file.read_text())["annotations"][0]
