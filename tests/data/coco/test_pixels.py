"""Stuff and panoptic labels: pixel maps, run lengths, PNGs, and what is said of bad ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unified.arrays import IGNORE
from unified.errors import DataError
from unified.kinds.pixels import PixelAsk
from unified.view import View, letterbox


@pytest.fixture
def copied(shapes: Path, tmp_path: Path) -> Path:
    shutil.copytree(shapes, tmp_path / "copy")
    return tmp_path / "copy"


def edit(root: Path, name: str, change: Callable) -> None:
    file = root / "annotations" / name
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_stuff_from_run_lengths_is_the_pixel_map(
    shapes: Path, copied: Path, open_split: Callable
) -> None:
    shutil.rmtree(copied / "annotations" / "stuff_val_pixelmaps")
    painted, written = open_split(copied, "val", "pixels"), open_split(shapes, "val", "pixels")
    assert painted.sources["pixels"].files() == []
    for index in range(len(written)):
        a, b = (s.label("pixels", index).classes() for s in (painted, written))
        assert np.array_equal(a, b)


def test_an_image_without_run_lengths_is_not_known(copied: Path, open_split: Callable) -> None:
    shutil.rmtree(copied / "annotations" / "stuff_val_pixelmaps")
    first: list[int] = []

    def drop(document: dict) -> None:
        first.append(min(row["image_id"] for row in document["annotations"]))
        kept = [row for row in document["annotations"] if row["image_id"] not in first]
        document["annotations"] = kept

    edit(copied, "stuff_val.json", drop)
    split = open_split(copied, "val", "pixels")
    assert split.known("pixels").tolist() == [i != first[0] for i in split.images.ids.tolist()]


def test_the_same_categories_must_be_things(copied: Path, open_split: Callable) -> None:
    space = open_split(copied, "val", "segments").sources["segments"].space
    edit(copied, "panoptic_val.json", lambda d: d["categories"][0].update(isthing=0))
    other = open_split(copied, "val", "segments").sources["segments"].space
    assert space.differs(space) is None
    assert space.names[0] in space.differs(other)


def test_stuff_without_any_pixels_is_refused(copied: Path, open_split: Callable) -> None:
    shutil.rmtree(copied / "annotations" / "stuff_val_pixelmaps")
    edit(copied, "stuff_val.json", lambda d: [row.pop("segmentation") for row in d["annotations"]])
    with pytest.raises(DataError, match="add the pixel maps"):
        open_split(copied, "val", "pixels")


def test_more_classes_than_a_byte_holds_are_refused(copied: Path, open_split: Callable) -> None:
    edit(copied, "stuff_val.json", lambda d: d["categories"].append({"id": 300, "name": "moon"}))
    with pytest.raises(DataError, match="up to 300"):
        open_split(copied, "val", "pixels")


def test_a_category_0_is_a_category_and_the_margin_is_unknown(
    copied: Path, open_split: Callable
) -> None:
    """A letterbox's margin is not what category 0 means."""

    def change(document: dict) -> None:
        document["categories"][0]["id"] = 0

    first = json.loads((copied / "annotations" / "stuff_val.json").read_text())["categories"][0]
    edit(copied, "stuff_val.json", change)
    folder = copied / "annotations" / "stuff_val_pixelmaps"
    for file in folder.glob("*.png"):
        pixels = np.array(Image.open(file))[:32]
        Image.fromarray(np.where(pixels == first["id"], 0, pixels)).save(file)
    edit(copied, "stuff_val.json", lambda d: [row.update(height=32) for row in d["images"]])
    split = open_split(copied, "val", "pixels")
    assert split.sources["pixels"].space.ids[0] == 0
    index = next(i for i in range(12) if (split.label("pixels", i).classes() == 0).any())
    seen = split.label("pixels", index).seen(View(letterbox(32, 64, 64), 64), PixelAsk(stride=2))
    assert (seen.classes == 0).any()
    assert (seen.classes[:7] == IGNORE).all()
    assert (seen.classes[25:] == IGNORE).all()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.unlink(), "cannot be read"),
        (lambda f: f.write_bytes(f.read_bytes()[:60]), "cannot be read"),
        (lambda f: f.write_bytes(f.read_bytes()[:-20]), "cannot be read"),
        (lambda f: f.write_bytes(b""), "cannot be read"),
        (lambda f: Image.new("L", (9, 9)).save(f), "9×9"),
        (lambda f: Image.new("RGB", (64, 64)).save(f), "colour"),
    ],
)
def test_a_bad_label_file_is_named(
    copied: Path, open_split: Callable, damage: Callable, said: str
) -> None:
    split = open_split(copied, "val", "pixels")
    file = split.sources["pixels"].files()[0]
    damage(file)
    with pytest.raises(DataError, match=said) as caught:
        split.label("pixels", 0)
    assert file.name in str(caught.value)


def test_an_index_image_gives_its_indices(copied: Path, open_split: Callable) -> None:
    """COCO's own stuff maps have a palette; its colours mean nothing."""
    split = open_split(copied, "val", "pixels")
    expected = split.label("pixels", 0).classes()
    file = split.sources["pixels"].files()[0]
    image = Image.open(file)
    image.putpalette([7 * i % 256 for i in range(768)])
    image.save(file)
    assert Image.open(file).mode == "P"
    assert np.array_equal(split.label("pixels", 0).classes(), expected)


def test_grey_panoptic_labels_are_refused(copied: Path, open_split: Callable) -> None:
    split = open_split(copied, "val", "segments")
    file = split.sources["segments"].files()[0]
    Image.new("L", (64, 64)).save(file)
    with pytest.raises(DataError, match=rf"{file.name} is a grey"):
        split.label("segments", 0)


@pytest.mark.parametrize("lost", ["file_name", "segments_info", "isthing", "area"])
def test_incomplete_panoptic_labels_are_refused(
    copied: Path, open_split: Callable, lost: str
) -> None:
    def change(document: dict) -> None:
        first = document["annotations"][0]
        for row in (first, first["segments_info"][0], document["categories"][0]):
            row.pop(lost, None)

    edit(copied, "panoptic_val.json", change)
    with pytest.raises(DataError, match=r"panoptic_val\.json") as caught:
        open_split(copied, "val", "segments")
    assert f"`{lost}`" in str(caught.value)


def test_a_segment_with_the_id_of_void_is_refused(copied: Path, open_split: Callable) -> None:
    edit(
        copied, "panoptic_val.json",
        lambda d: d["annotations"][0]["segments_info"][0].update(id=0),
    )  # fmt: skip
    with pytest.raises(DataError, match="which is of none"):
        open_split(copied, "val", "segments")


def test_classes_and_segments_of_a_panoptic_label_agree(
    coco_panoptic: Path, open_split: Callable
) -> None:
    split = open_split(coco_panoptic, "val2017", "segments")
    for index in range(len(split)):
        label = split.label("segments", index)
        rows, classes = label.rows(), label.classes()
        assert (classes[rows == 0] == IGNORE).all()
        for row in np.unique(rows[rows > 0]):
            assert not label.crowd[row - 1]
            assert (classes[rows == row] == label.labels[row - 1]).all()


def test_pixels_of_a_segment_that_is_not_listed_are_refused(
    copied: Path, open_split: Callable
) -> None:
    edit(copied, "panoptic_val.json", lambda d: d["annotations"][0]["segments_info"].pop())
    split = open_split(copied, "val", "segments")
    label = split.label("segments", 0)
    for read in (label.classes, label.rows):
        with pytest.raises(DataError, match="which segments_info does not list"):
            read()


def test_a_segment_stands_once(copied: Path, open_split: Callable) -> None:
    def twice(document: dict) -> None:
        parts = document["annotations"][0]["segments_info"]
        parts.append(parts[0])

    edit(copied, "panoptic_val.json", twice)
    with pytest.raises(DataError, match=r"twice at `segments_info"):
        open_split(copied, "val", "segments")


def test_every_image_has_a_png_of_its_own(copied: Path, open_split: Callable) -> None:
    def share(document: dict) -> None:
        first, second = document["annotations"][:2]
        second["file_name"] = first["file_name"]

    edit(copied, "panoptic_val.json", share)
    with pytest.raises(DataError, match="is that of image"):
        open_split(copied, "val", "segments")


def test_values_of_no_category_are_refused(copied: Path, open_split: Callable) -> None:
    file = sorted((copied / "annotations" / "stuff_val_pixelmaps").iterdir())[0]
    pixels = np.array(Image.open(file))
    pixels[0, 0] = 77
    Image.fromarray(pixels).save(file)
    with pytest.raises(DataError, match="the value 77, which is the id of no category"):
        open_split(copied, "val", "pixels").label("pixels", 0)
