"""What is true scores exactly one, through every writer; what is changed, what it should."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panopticapi.evaluation import pq_compute
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from unified.data.split import Split
from unified.kinds.masks import Masks
from unified.kinds.objects import Detections
from unified.kinds.segments import PanopticSegments
from unified.metrics.coco_ap import CocoAP, CocoMaskAP
from unified.metrics.lvis_ap import LvisAP
from unified.metrics.panoptic import PanopticQuality
from unified.metrics.semantic import SemanticScores
from unified.rle import encode
from unified.view import ImageMeta

IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])
KINDS = ("objects", "masks", "pixels", "segments")


@pytest.fixture(params=["shapes", "real"])
def split(request: pytest.FixtureRequest, open_split: Callable) -> Split:
    """Generated images, and two real ones whose other labels come from the panoptic ones."""
    if request.param == "shapes":
        return open_split(request.getfixturevalue("shapes"), "val", *KINDS)
    root = request.getfixturevalue("coco_panoptic")
    return open_split(root, "val2017", *KINDS, derive=True)


def feed(metric: Any, split: Split, read: Callable[[int], Any]) -> dict[str, float]:
    for index in range(len(split)):
        image_id, size = int(split.images.ids[index]), split.images.size(index)
        metric.update([read(index)], [ImageMeta(image_id, "", *size, IDENTITY)])
    metric.gather()
    scores: dict[str, float] = metric.compute()
    return scores


def annotations(split: Split) -> Iterator[tuple[int, int]]:
    """(class, image) of every object that counts."""
    for index in range(len(split)):
        for label in split.result("objects", index).labels.tolist():
            yield label, index


def test_the_truth_scores_one(split: Split) -> None:
    sources = split.sources
    boxes = feed(CocoAP(sources["objects"]), split, lambda i: split.result("objects", i))
    masks = feed(CocoMaskAP(sources["masks"]), split, lambda i: split.result("masks", i))
    stuff = feed(SemanticScores(sources["pixels"], "s.json"), split, lambda i: no_ignore(split, i))
    segments = feed(
        PanopticQuality(sources["segments"]), split, lambda i: split.result("segments", i)
    )
    assert boxes["AP"] == masks["AP"] == masks["AR100"] == 1.0
    assert stuff["mIoU"] == stuff["pAcc"] == 1.0
    assert 100 * segments["PQ"] == 100 * segments["PQ_th"] == 100 * segments["PQ_st"] == 100.0
    assert segments["SQ"] == segments["RQ"] == 1.0


def no_ignore(split: Split, index: int) -> Any:
    found = split.result("pixels", index)
    found.classes[found.classes >= len(split.sources["pixels"].space)] = 0  # anything goes
    return found


def test_both_evaluators_score_masks_alike(split: Split) -> None:
    """With masks that are shifted, so that the figure says something."""
    source = split.sources["masks"]

    def shifted(index: int) -> Masks:
        truth = split.result("masks", index)
        dense = np.roll(truth.dense(), 2, 2)
        return Masks(truth.boxes, truth.scores, truth.labels, [encode(m) for m in dense])

    fast = feed(CocoMaskAP(source, "faster"), split, shifted)
    slow = feed(CocoMaskAP(source, "pycocotools"), split, shifted)
    assert 0.1 < fast["AP"] < 1.0
    for name, value in slow.items():
        assert fast[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_one_mask_dropped_gives_the_value_computed_by_hand(split: Split) -> None:
    """Its class keeps precision 1 up to recall (n − 1)/n, of 101 points; the others keep 1."""
    counts = Counter(label for label, _ in annotations(split))
    label, image = next((k, i) for k, i in annotations(split) if counts[k] > 1)

    def dropped(index: int) -> Masks:
        truth = split.result("masks", index)
        if index != image:
            return truth
        place = truth.labels.tolist().index(label)
        keep = [i for i in range(len(truth.labels)) if i != place]
        rles = [truth.rles[i] for i in keep]
        return Masks(truth.boxes[keep], truth.scores[keep], truth.labels[keep], rles)

    found = feed(CocoMaskAP(split.sources["masks"]), split, dropped)
    recall = (counts[label] - 1) / counts[label]
    own = (np.linspace(0, 1, 101) <= recall).sum() / 101
    assert found["AP"] == pytest.approx((len(counts) - 1 + own) / len(counts), abs=1e-9)


def test_one_segment_dropped_gives_the_value_computed_by_hand(split: Split) -> None:
    """Its class: n − 1 matches of IoU 1 and one missed, (n − 1)/(n − 1/2)."""
    counts: Counter[int] = Counter()
    for index in range(len(split)):
        counts.update(present(split.result("segments", index)))
    victim = next(iter(present(split.result("segments", 0))))

    def dropped(index: int) -> PanopticSegments:
        truth = split.result("segments", index)
        if index == 0:
            place = present_rows(truth)[present(truth).index(victim)]
            truth.segments[truth.segments == place + 1] = 0
        return truth

    found = feed(PanopticQuality(split.sources["segments"]), split, dropped)
    own = (counts[victim] - 1) / (counts[victim] - 0.5)
    assert found["PQ"] == pytest.approx((len(counts) - 1 + own) / len(counts), abs=1e-12)


def present_rows(found: PanopticSegments) -> list[int]:
    """Rows whose segment has pixels: crowds have none."""
    return [int(n) - 1 for n in found.segments.unique() if n > 0]


def present(found: PanopticSegments) -> list[int]:
    return [int(found.labels[row]) for row in present_rows(found)]


def test_two_classes_swapped_give_the_value_computed_by_hand(split: Split) -> None:
    """Where both classes are never in one image, neither matches anything any more."""
    everywhere = [set(present(split.result("segments", i))) for i in range(len(split))]
    classes = sorted(set.union(*everywhere))
    first, second = classes[0], classes[-1]

    def swapped(index: int) -> PanopticSegments:
        truth = split.result("segments", index)
        labels = truth.labels.clone()
        labels[truth.labels == first], labels[truth.labels == second] = second, first
        return PanopticSegments(truth.segments, labels, truth.scores)

    found = feed(PanopticQuality(split.sources["segments"]), split, swapped)
    assert found["PQ"] == pytest.approx((len(classes) - 2) / len(classes), abs=1e-12)
    assert found["SQ"] == pytest.approx((len(classes) - 2) / len(classes), abs=1e-12)


def test_the_files_score_the_same_by_the_official_programs(split: Split, tmp_path: Path) -> None:
    def halved(index: int) -> PanopticSegments:
        truth = split.result("segments", index)
        truth.segments[: truth.segments.shape[0] // 3] = 0
        return truth

    metric = PanopticQuality(split.sources["segments"])
    own = feed(metric, split, halved)
    metric.write(tmp_path)
    source = split.sources["segments"]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = pq_compute(
            str(source.file), str(tmp_path / "panoptic.json"), str(source.folder),
            str(tmp_path / "panoptic"),
        )  # fmt: skip
    assert 0 < own["PQ"] < 1
    for ours, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        assert own[f"PQ{ours}"] == pytest.approx(theirs[group]["pq"], abs=1e-12)
        assert own[f"RQ{ours}"] == pytest.approx(theirs[group]["rq"], abs=1e-12)

    masks = CocoMaskAP(split.sources["masks"])
    own_ap = feed(masks, split, lambda i: split.result("masks", i))["AP"]
    masks.write(tmp_path)
    (tmp_path / "truth.json").write_text(json.dumps(split.sources["masks"].truth()))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "segm.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(own_ap, abs=1e-12)


def test_an_image_that_lacks_a_kind_is_not_scored(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    """Instances of some images only: the others are no misses and no errors."""
    root = tmp_path / "mixed"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    gone = {row["id"] for row in document["images"][6:]}
    document["images"] = document["images"][:6]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] not in gone]
    file.write_text(json.dumps(document))
    split = open_split(root, "val", "masks", "pixels")
    metric = CocoMaskAP(split.sources["masks"])
    scores = feed(metric, split, lambda i: split.result("masks", min(i, 5)))
    assert len(split) == 12
    assert len(metric.records) == 6
    assert scores["AP"] == 1.0


def test_an_object_without_a_mask_is_missed_and_breaks_nothing(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    root = tmp_path / "few"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    victim = next(row for row in document["annotations"] if not row["iscrowd"])
    del victim["segmentation"]
    file.write_text(json.dumps(document))
    whole, few = open_split(shapes, "val", "masks"), open_split(root, "val", "masks")
    scores = [
        feed(CocoMaskAP(few.sources["masks"], e), whole, lambda i: whole.result("masks", i))
        for e in ("faster", "pycocotools")
    ]
    assert scores[0]["AP"] == pytest.approx(scores[1]["AP"], abs=1e-12)
    assert 0.5 < scores[0]["AP"] < 1


def test_areas_are_those_of_the_pixels_whatever_the_json_says(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    shutil.copytree(shapes, tmp_path / "copy")
    file = tmp_path / "copy" / "annotations" / "panoptic_val.json"
    document = json.loads(file.read_text())
    for row in document["annotations"]:
        for part in row["segments_info"]:
            part["area"] *= 3
    file.write_text(json.dumps(document))
    split = open_split(tmp_path / "copy", "val", "segments")
    metric = PanopticQuality(split.sources["segments"])
    for _ in range(2):  # the second time from what the first has measured
        metric.reset()
        assert feed(metric, split, lambda i: split.result("segments", i))["PQ"] == 1.0


def test_what_a_split_does_not_have_scores_nothing(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    """Neither zero nor minus one, which would count in a mean."""
    shutil.copytree(shapes, tmp_path / "copy")
    for name in ("instances", "panoptic"):
        file = tmp_path / "copy" / "annotations" / f"{name}_val.json"
        document = json.loads(file.read_text())
        if name == "instances":
            for row in document["annotations"]:
                row["iscrowd"] = 1
        else:
            stuff = {c["id"] for c in document["categories"] if not c["isthing"]}
            for row in document["annotations"]:
                for part in row["segments_info"]:
                    part["iscrowd"] = int(part["category_id"] in stuff)
        file.write_text(json.dumps(document))
    split = open_split(tmp_path / "copy", "val", "objects", "segments")
    found = Detections(torch.tensor([[1.0, 1, 9, 9]]), torch.ones(1), torch.zeros(1).long())
    boxes = feed(CocoAP(split.sources["objects"]), split, lambda i: found)
    assert all(np.isnan(value) for value in boxes.values())
    segments = feed(
        PanopticQuality(split.sources["segments"]), split, lambda i: split.result("segments", i)
    )
    assert np.isnan(segments["PQ_st"])
    assert segments["PQ"] == segments["PQ_th"] == 1.0


@pytest.mark.parametrize(
    ("kind", "name", "metric"),
    [("objects", "instances", CocoAP), ("federated", "lvis", LvisAP)],
)
def test_a_box_without_an_inside_costs_nothing(
    kind: str, name: str, metric: Any, shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    """Nobody can find it, and COCO has some; it counts as a crowd does."""
    shutil.copytree(shapes, tmp_path / "root")
    file = tmp_path / "root" / "annotations" / f"{name}_val.json"
    document = json.loads(file.read_text())
    row = next(row for row in document["annotations"] if not row.get("iscrowd"))
    row["bbox"] = [5, 5, 0, 7]
    file.write_text(json.dumps(document))
    split = open_split(tmp_path / "root", "val", kind)
    scores = feed(metric(split.sources[kind]), split, lambda index: split.result(kind, index))
    assert scores["AP"] == pytest.approx(1.0)
    every = sum(len(split.result(kind, index).labels) for index in range(len(split)))
    assert every == sum(not row.get("iscrowd") for row in document["annotations"]) - 1
