"""Annotation files, entry by entry, and what is said of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified.data.coco.document import Category, Document
from unified.data.coco.objects import FIX, Annotation
from unified.data.coco.segments import Annotation as PanopticAnnotation
from unified.errors import DataError

IMAGES = [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}]
GOOD = {"id": 17, "image_id": 1, "category_id": 2, "bbox": [0, 1, 2.5, 3]}
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "id": st.integers(0, 2**53),
                "image_id": st.integers(0, 2**53),
                "category_id": st.integers(0, 1000),
                "bbox": st.lists(NUMBERS.map(abs), min_size=4, max_size=4),
            },
            optional={"note": st.text() | st.none() | st.lists(NUMBERS), "iscrowd": st.booleans()},
        ),
        max_size=5,
    ),
    indent=st.sampled_from([None, 2]),
)
def test_entries_are_what_json_says(tmp_path_factory: Any, rows: list, indent: int | None) -> None:
    file = tmp_path_factory.getbasetemp() / "document.json"
    # Fields that nobody asks for, and the order of the lists, do not matter.
    document = {"annotations": rows, "info": {"a": [1]}, "images": IMAGES, "categories": []}
    file.write_text(json.dumps(document, indent=indent))
    found = list(Document(file).entries("annotations", Annotation, FIX))
    assert [(f.id, f.image_id, f.category_id) for f in found] == [
        (r["id"], r["image_id"], r["category_id"]) for r in rows
    ]
    assert [list(f.bbox) for f in found] == [[float(v) for v in r["bbox"]] for r in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "is not COCO"),
        ('"images"', "is not COCO"),
        ("", "is empty"),
        ('{"images": [{"id": 1}', "not valid json"),
        ('{"images": [1 2]}', "not valid json"),
        ('{"images" 3}', "not valid json"),
        ('{"images": [], "annotations": [{"id": 7, "bbox": [NaN, 1]}]}', '"id": 7'),
        ('{"images": [], "annotations": [' + "[" * 5000 + "]" * 5000 + "]}", "not valid json"),
        ('{"images": {}}', "Expected `array"),
        ('{"images": [], "annotations": [], "categories": []}', "list is empty"),
        ('{"annotations": [], "categories": []}', "lacks images"),
        ('{"images": [{}], "annotations": []}', "lacks categories"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        Document(file)
    assert said in str(caught.value)
    assert "broken.json" in str(caught.value)
    assert "fix:" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json"):
        Document(tmp_path / "absent.json")


def refusal(tmp_path: Path, name: str, entry: type, row: Any) -> str:
    file = tmp_path / "wrong.json"
    lists = {"images": IMAGES, "annotations": [], "categories": []} | {name: [GOOD, row]}
    file.write_text(json.dumps(lists))
    with pytest.raises(DataError) as caught:
        list(Document(file).entries(name, entry, FIX))
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": "7"}, "`id`"),
        ({"bbox": None}, "`bbox`"),
        ({"bbox": [0, None, 2, 3]}, "`bbox[1]`"),
        ({"bbox": [0, "1", 2, 3]}, "`bbox[1]`"),
        ({"bbox": [0, 1, 2]}, "`bbox`"),
        ({"bbox": [0, 1, -2, 3]}, "`bbox`"),
        ({"bbox": {"x": 1}}, "`bbox`"),
        ({"category_id": None}, "`category_id`"),
        ({"image_id": 1.5}, "`image_id`"),
        ({"segmentation": [[0, 0, 4, "x", 4, 4]]}, "`segmentation[0][3]`"),
        ({"segmentation": [[0, 0, 4, 0, 4, 4, 1]]}, "`segmentation[0]`"),
        ({"segmentation": {"size": [4, 6]}}, "counts"),
        ({"segmentation": "polygon"}, "`segmentation`"),
        ({"segmentation": [0, 0, 4, 0, 4, 4]}, "`segmentation[0]`"),
        ({"iscrowd": "no"}, "`iscrowd`"),
        ({"area": "large"}, "`area`"),
        ({"area": -5}, "`area`"),
        ({"track_id": "anna"}, "`track_id`"),
    ],
)
def test_a_wrong_field_of_an_annotation_is_named(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    said = refusal(tmp_path, "annotations", Annotation, GOOD | change)
    assert "wrong.json: annotations[1]" in said
    assert field in said
    assert f"id {change.get('id', 17)!r}" in said
    assert "bbox [x, y, width, height]" in said


@pytest.mark.parametrize("lost", ["id", "image_id", "category_id", "bbox"])
def test_a_missing_field_is_named(tmp_path: Path, lost: str) -> None:
    row = {key: value for key, value in GOOD.items() if key != lost}
    assert f"`{lost}`" in refusal(tmp_path, "annotations", Annotation, row)


@pytest.mark.parametrize(
    ("row", "field"), [({"id": 3}, "`name`"), ({"id": None, "name": "cat"}, "`id`"), (None, "null")]
)
def test_a_wrong_category_is_named(tmp_path: Path, row: Any, field: str) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps({"images": IMAGES, "annotations": [], "categories": [row]}))
    with pytest.raises(DataError, match=r"categories\[0\]") as caught:
        Document(file).categories(Category)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"height": "480"}, "`height`"),
        ({"height": 0}, "`height`"),
        ({"width": -3}, "`width`"),
        ({"width": 6.5}, "`width`"),
        ({"file_name": None}, "`file_name`"),
        ({"id": "a"}, "`id`"),
    ],
)
def test_a_wrong_image_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = tmp_path / "wrong.json"
    rows = [IMAGES[0] | change]
    file.write_text(json.dumps({"images": rows, "annotations": [], "categories": []}))
    with pytest.raises(DataError, match=r"images\[0\]") as caught:
        Document(file).images("val")
    assert said in str(caught.value)


def test_lvis_names_its_images_by_url(tmp_path: Path) -> None:
    file = tmp_path / "lvis.json"
    row = {"id": 1, "height": 4, "width": 6, "coco_url": "http://images/val2017/000001.jpg"}
    file.write_text(json.dumps({"images": [row], "annotations": [], "categories": []}))
    assert Document(file).images("val").names.text(0) == "val/000001.jpg"


@pytest.mark.parametrize("name", ["/etc/passwd", "../b.jpg", "a/../../b.jpg"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    """Of images, and of panoptic PNGs, beside which results would be written."""
    file = tmp_path / "wrong.json"
    image = IMAGES[0] | {"file_name": name}
    annotation = {"image_id": 1, "file_name": name, "segments_info": []}
    lists = {"images": [image], "annotations": [annotation], "categories": []}
    file.write_text(json.dumps(lists))
    with pytest.raises(DataError, match=r"images\[0\].*inside of the folder"):
        Document(file).images("val")
    with pytest.raises(DataError, match=r"annotations\[0\].*inside of the folder"):
        list(Document(file).entries("annotations", PanopticAnnotation, FIX))


def test_a_text_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    lists = {"images": IMAGES, "annotations": [], "categories": [{"id": 1, "name": "X"}]}
    file.write_bytes(json.dumps(lists).encode().replace(b"X", "café".encode("latin-1")))
    with pytest.raises(DataError, match=r"wrong\.json"):
        Document(file).categories(Category)
