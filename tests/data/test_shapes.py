"""The generated data set: every kind loads, and all kinds tell one story."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from unified.data.shapes.config import ShapesConfig
from unified.data.shapes.outline import trace
from unified.data.shapes.world import (
    COLOURS,
    FIRST_STUFF_ID,
    OTHER_ID,
    PATTERNS,
    SECOND_COLOURS,
    SHAPES,
    STUFF,
    draw_population,
    fine_categories,
)
from unified.data.shapes.write import generate
from unified.errors import ConfigError

SPLITS = ("train", "val")


def load(root: Path, kind: str, split: str) -> dict:
    return json.loads((root / "annotations" / f"{kind}_{split}.json").read_text())


@pytest.mark.parametrize("split", SPLITS)
def test_the_official_panoptic_scorer_finds_it_equal_to_itself(shapes: Path, split: str) -> None:
    document = load(shapes, "panoptic", split)
    categories = {c["id"]: c for c in document["categories"]}
    folder = str(shapes / "annotations" / f"panoptic_{split}")
    pairs = [(row, copy.deepcopy(row)) for row in document["annotations"]]
    found = pq_compute_single_core(0, pairs, folder, folder, categories)
    for is_thing in (True, False):
        result, _ = found.pq_average(categories, isthing=is_thing)
        assert result["pq"] == 1
        assert result["n"] > 4


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("split", SPLITS)
def test_panoptic_png_masks_and_boxes_tell_one_story(shapes: Path, split: str) -> None:
    coco = COCO(str(shapes / "annotations" / f"instances_{split}.json"))
    for annotation in load(shapes, "panoptic", split)["annotations"]:
        png = shapes / "annotations" / f"panoptic_{split}" / annotation["file_name"]
        segments = rgb2id(np.array(Image.open(png)))
        assert set(np.unique(segments)) == {s["id"] for s in annotation["segments_info"]}
        things = [s for s in annotation["segments_info"] if s["category_id"] < FIRST_STUFF_ID]
        instances = coco.imgToAnns[annotation["image_id"]]
        assert len(things) == len(instances)
        for segment, instance in zip(things, instances, strict=True):
            mask = segments == segment["id"]
            assert (coco.annToMask(instance) == mask).all()
            for key in ("category_id", "bbox", "area", "iscrowd"):
                assert segment[key] == instance[key]
            assert mask.sum() == instance["area"]
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert instance["bbox"] == box


@pytest.mark.parametrize("split", SPLITS)
def test_stuff_fills_what_things_leave(shapes: Path, split: str) -> None:
    stuff = COCO(str(shapes / "annotations" / f"stuff_{split}.json"))
    for annotation in load(shapes, "panoptic", split)["annotations"]:
        name = annotation["file_name"]
        segments = rgb2id(np.array(Image.open(shapes / "annotations" / f"panoptic_{split}" / name)))
        pixels = np.array(Image.open(shapes / "annotations" / f"stuff_{split}_pixelmaps" / name))
        category = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
        expected = np.vectorize(category.get)(segments)
        expected[expected < FIRST_STUFF_ID] = OTHER_ID
        assert (pixels == expected).all()
        for row in stuff.imgToAnns[annotation["image_id"]]:
            assert (stuff.annToMask(row) == (pixels == row["category_id"])).all()


def test_keypoints_belong_to_their_figure(shapes: Path) -> None:
    for split in SPLITS:
        coco = COCO(str(shapes / "annotations" / f"person_keypoints_{split}.json"))
        joints = coco.cats[SHAPES.index("figure") + 1]["keypoints"]
        assert coco.anns
        for annotation in coco.anns.values():
            points = np.array(annotation["keypoints"]).reshape(-1, 3)
            assert len(points) == len(joints)
            assert annotation["num_keypoints"] == (points[:, 2] > 0).sum()
            mask = coco.annToMask(annotation)
            for x, y, visible in points:
                if visible == 2:
                    assert mask[int(y + 0.5), int(x + 0.5)]  # they are indices of pixels
                if visible == 0:
                    assert (x, y) == (0, 0)


def test_lvis_and_captions_agree_with_instances(shapes: Path) -> None:
    for split in SPLITS:
        lvis, instances = load(shapes, "lvis", split), load(shapes, "instances", split)
        coarse = {a["id"]: a for a in instances["annotations"]}
        names = {c["id"]: c["name"] for c in lvis["categories"]}
        shape_names = {c["id"]: c["name"] for c in instances["categories"]}
        assert {c["frequency"] for c in lvis["categories"]} <= {"r", "c", "f"}
        present: dict[int, set[int]] = {}
        for row in lvis["annotations"]:
            own = coarse[row["id"]]
            assert row["bbox"] == own["bbox"]
            assert names[row["category_id"]].endswith(shape_names[own["category_id"]])
            present.setdefault(row["image_id"], set()).add(row["category_id"])
        for image in lvis["images"]:
            assert not present.get(image["id"], set()) & set(image["neg_category_ids"])
        captions = load(shapes, "captions", split)["annotations"]
        per_image: dict[int, list[str]] = {i["id"]: [] for i in instances["images"]}
        for caption in captions:
            per_image[caption["image_id"]].append(caption["caption"])
        for texts in per_image.values():
            assert len(texts) == 5
            assert sum(any(word in text for word in STUFF) for text in texts) >= 3


def test_individuals_recur_within_but_not_across_splits(tmp_path: Path) -> None:
    generate(tmp_path / "shapes", ShapesConfig(train=60, val=30, test=30, size=64))
    seen = []
    for split in (*SPLITS, "test"):
        rows = load(tmp_path / "shapes", "instances", split)["annotations"]
        tracks = [a["track_id"] for a in rows if not a["iscrowd"]]
        assert len(set(tracks)) < 0.7 * len(tracks)
        seen.append(set(tracks))
        fine = {
            a["id"]: a["category_id"]
            for a in load(tmp_path / "shapes", "lvis", split)["annotations"]
        }
        looks: dict[int, set[int]] = {}
        for row in rows:
            if not row["iscrowd"]:
                looks.setdefault(row["track_id"], set()).add(fine[row["id"]])
        assert all(len(categories) == 1 for categories in looks.values())
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_a_third_split_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    for name, count in (("two", 0), ("three", 3)):
        generate(tmp_path / name, ShapesConfig(train=4, val=2, test=count, size=64))
    assert not list((tmp_path / "two").rglob("*test*"))
    assert len(list((tmp_path / "three" / "test").iterdir())) == 3
    for folder in (*SPLITS, "annotations"):
        for file in (tmp_path / "two" / folder).rglob("*.*"):
            same = tmp_path / "three" / file.relative_to(tmp_path / "two")
            assert same.read_bytes() == file.read_bytes()


def test_colours_say_nothing_about_the_class() -> None:
    """Every shape, with every pattern, has every colour equally often, but for chance."""
    each = 60
    fine = fine_categories()
    people = draw_population(np.random.default_rng(0), 1, np.full(len(fine), each))
    for place, palette in enumerate((COLOURS, SECOND_COLOURS)):
        for trait, kinds in (("shape", len(SHAPES)), ("pattern", len(PATTERNS))):
            counts = np.zeros((kinds, len(palette)))
            for one in people:
                counts[getattr(one, trait), list(palette).index(one.colours[place])] += 1
            expected = counts.sum(1, keepdims=True) / len(palette)
            freedom = kinds * (len(palette) - 1)
            chi = ((counts - expected) ** 2 / expected).sum()
            assert chi < freedom + 4 * np.sqrt(2 * freedom)


def test_the_data_is_varied(tmp_path: Path) -> None:
    """Eight categories, six kinds of stuff, small and large, some crowds, a long tail."""
    generate(tmp_path / "shapes", ShapesConfig(train=150, val=1))
    rows = load(tmp_path / "shapes", "instances", "train")["annotations"]
    assert len({a["category_id"] for a in rows}) >= 8
    assert (
        len({a["category_id"] for a in load(tmp_path / "shapes", "stuff", "train")["annotations"]})
        > 5
    )
    areas = np.array([a["area"] for a in rows if not a["iscrowd"]])
    assert (areas < 10**2).mean() > 0.05
    assert (areas > 32**2).mean() > 0.1
    crowds = [a for a in rows if a["iscrowd"]]
    assert 5 < len(crowds) < 60
    fine = [a["category_id"] for a in load(tmp_path / "shapes", "lvis", "train")["annotations"]]
    counts = np.sort(np.bincount(fine, minlength=61)[1:])
    assert counts[-10:].sum() > 12 * counts[:10].sum()


def test_a_seed_gives_the_same_files(shapes: Path, tmp_path: Path) -> None:
    config = ShapesConfig(train=4, val=2, size=64, seed=9)
    for name in ("one", "two"):
        generate(tmp_path / name, config)
    generate(tmp_path / "other", ShapesConfig(train=4, val=2, size=64, seed=10))
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")
    assert tree_hash(tmp_path / "one") != tree_hash(tmp_path / "other")


def test_it_is_written_once_and_never_over_something_else(tmp_path: Path) -> None:
    root, config = tmp_path / "shapes", ShapesConfig(train=2, val=1, size=64)
    assert generate(root, config)
    before = tree_hash(root)
    assert not generate(root, config)
    with pytest.raises(ConfigError, match="delete"):
        generate(root, ShapesConfig(train=3, val=1, size=64))
    assert tree_hash(root) == before


def test_a_killed_generator_leaves_nothing_half_done(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    code = (
        "from pathlib import Path; from unified.data.shapes.config import ShapesConfig; "
        "from unified.data.shapes.write import generate; "
        f"generate(Path({str(root)!r}), ShapesConfig(train=100000, val=1, size=64))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    try:
        while not list(tmp_path.glob(".shapes.partial/train/*.jpg")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not root.exists()
    assert generate(root, ShapesConfig(train=2, val=1, size=64))
    assert (root / "shapes.json").is_file()
    assert not (tmp_path / ".shapes.partial").exists()


def test_several_that_want_the_same_data_get_it(tmp_path: Path) -> None:
    """One writes, the others wait; nothing stays behind."""
    code = (
        "from pathlib import Path; from unified.data.shapes.config import ShapesConfig; "
        "from unified.data.shapes.write import generate; "
        "print(generate(Path('shapes'), ShapesConfig(train=60, val=1, size=64)))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert sorted(said) == [b"False\n", b"False\n", b"True\n"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize("stamp", ["", "{", "\0\1"])
def test_a_folder_with_a_damaged_stamp_is_something_else(stamp: str, tmp_path: Path) -> None:
    (tmp_path / "shapes.json").write_text(stamp)
    with pytest.raises(ConfigError, match="is not the shapes data set"):
        generate(tmp_path, ShapesConfig(train=2, val=1, size=64))


def test_a_link_to_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "shapes").symlink_to(tmp_path / "disk")
    assert generate(tmp_path / "shapes", ShapesConfig(train=2, val=1, size=64))
    assert (tmp_path / "shapes").is_symlink()
    assert (tmp_path / "disk" / "shapes.json").is_file()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 100_000))
def test_outlines_rasterise_to_the_very_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blob = rng.random((24, 30)) < rng.uniform(0.3, 0.9)
    rings, holes = trace(blob)
    if holes:
        return
    rle = coco_mask.merge(coco_mask.frPyObjects(rings, 24, 30))
    assert (coco_mask.decode(rle) == blob).all()


def test_holes_are_told() -> None:
    ring = np.ones((5, 5), np.uint8)
    assert not trace(ring)[1]
    ring[2, 2] = 0
    assert trace(ring)[1]


def test_frequent_kinds_have_more_individuals(tmp_path: Path) -> None:
    """Individuals recur as often as asked for, and none is in both splits."""
    generate(tmp_path / "shapes", ShapesConfig(train=200, val=100, size=64, recurrence=10))
    seen = {}
    for split in ("train", "val"):
        rows = load(tmp_path / "shapes", "lvis", split)["annotations"]
        who = {a["id"]: a["track_id"] for a in load(tmp_path / "shapes", "instances", split)
               ["annotations"] if "track_id" in a}  # fmt: skip
        seen[split] = [(a["category_id"], who[a["id"]]) for a in rows]
    assert not {t for _, t in seen["train"]} & {t for _, t in seen["val"]}
    individuals = np.bincount([c for c, _ in set(seen["train"])], minlength=61)[1:]
    instances = np.bincount([c for c, _ in seen["train"]], minlength=61)[1:]
    assert individuals.argmax() in np.argsort(instances)[-3:]
    frequent = instances >= 40
    assert frequent.sum() > 3
    per_individual = instances[frequent] / individuals[frequent]
    assert ((per_individual > 6) & (per_individual < 16)).all()
