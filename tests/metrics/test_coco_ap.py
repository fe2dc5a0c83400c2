"""The AP adapter: two evaluators, one number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unified.data.split import Split
from unified.errors import ConfigError
from unified.kinds.objects import Detections
from unified.metrics.coco_ap import NAMES, CocoAP
from unified.view import ImageMeta

IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def meta_of(split: Split, index: int) -> ImageMeta:
    return ImageMeta(int(split.images.ids[index]), "", 1, 1, IDENTITY)


def feed(metric: CocoAP, split: Split, change, limit: int | None = None) -> dict[str, float]:
    rng = np.random.default_rng(0)
    for index in range(limit or len(split)):
        truth = split.result("objects", index)
        boxes, labels, scores = change(rng, truth.boxes.numpy(), truth.labels.numpy())
        found = Detections(
            torch.from_numpy(np.asarray(boxes, np.float32)).view(-1, 4),
            torch.from_numpy(np.asarray(scores, np.float32)),
            torch.from_numpy(np.asarray(labels)),
        )
        metric.update([found], [meta_of(split, index)])
    return metric.compute()


def perfect(rng, boxes, labels):
    return boxes, labels, np.ones(len(boxes))


def noisy(rng, boxes, labels):
    spread = (boxes[:, 2:] - boxes[:, :2]).mean() if len(boxes) else 1
    moved = np.repeat(boxes, 3, 0) + rng.normal(0, 0.12 * spread, (3 * len(boxes), 4))
    wrong = rng.random(3 * len(boxes)) < 0.2
    return (
        moved,
        np.where(wrong, (np.repeat(labels, 3) + 1) % 80, np.repeat(labels, 3)),
        rng.random(len(moved)),
    )


@pytest.fixture
def split(coco_mini: Path, open_split: Callable) -> Split:
    return open_split(coco_mini, "val2017")


def make(split: Split, evaluator: str = "faster") -> CocoAP:
    return CocoAP(split.sources["objects"], evaluator)


@pytest.mark.parametrize("change", [noisy, perfect])
def test_faster_equals_pycocotools(split: Split, change) -> None:
    fast = feed(make(split), split, change)
    slow = feed(make(split, "pycocotools"), split, change)
    assert list(fast) == list(slow) == list(NAMES)
    for name in NAMES:
        assert abs(fast[name] - slow[name]) <= 1e-12, name
    if change is noisy:
        assert 0.01 < fast["AP"] < 0.9


def test_ground_truth_scores_one(split: Split) -> None:
    scores = feed(make(split), split, perfect)
    assert scores["AP"] == pytest.approx(1.0, abs=1e-12)
    assert scores["AR100"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("evaluator", ["faster", "pycocotools"])
def test_areas_and_crowds_may_be_left_out(
    shapes: Path, open_split: Callable, tmp_path: Path, evaluator: str
) -> None:
    """As CrowdPose does; pycocotools alone would end in a KeyError."""
    shutil.copytree(shapes, tmp_path / "bare")
    file = tmp_path / "bare" / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    for row in document["annotations"]:
        del row["area"], row["iscrowd"]
    file.write_text(json.dumps(document))
    split = open_split(tmp_path / "bare", "val", "objects")
    metric = CocoAP(split.sources["objects"], evaluator)
    assert feed(metric, split, perfect)["AP"] == 1


def test_one_lost_class_costs_its_share(split: Split) -> None:
    present = len(
        {c for i in range(len(split)) for c in split.result("objects", i).labels.tolist()}
    )
    person = split.sources["objects"].space.names.index("person")

    def without_people(rng, boxes, labels):
        keep = labels != person
        return boxes[keep], labels[keep], np.ones(keep.sum())

    scores = feed(make(split), split, without_people)
    assert scores["AP"] == pytest.approx(1 - 1 / present, abs=1e-9)


def test_nothing_found_scores_zero(split: Split) -> None:
    nothing = lambda rng, boxes, labels: (boxes[:0], labels[:0], np.zeros(0))  # noqa: E731
    assert feed(make(split), split, nothing)["AP"] == 0


def test_only_the_images_seen_count(split: Split) -> None:
    assert feed(make(split), split, perfect, limit=5)["AP"] == pytest.approx(1.0, abs=1e-12)


def test_an_image_without_annotations_of_objects_is_not_scored(split: Split) -> None:
    metric = make(split)
    found = Detections(torch.zeros(1, 4), torch.ones(1), torch.zeros(1, dtype=torch.long))
    metric.update([found], [ImageMeta(10**9, "", 1, 1, IDENTITY)])
    assert not metric.records


def test_the_truth_is_read_and_indexed_once(split: Split, monkeypatch) -> None:
    reads = []
    real = json.loads
    monkeypatch.setattr(json, "loads", lambda text: reads.append(1) or real(text))
    metric = make(split)
    first = feed(metric, split, noisy)
    indexed = metric.truth
    metric.reset()
    assert feed(metric, split, noisy) == first
    assert metric.truth is indexed
    assert len(reads) == 1


def test_the_result_file_scores_the_same_in_pycocotools(split: Split, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    metric = make(split)
    scores = feed(metric, split, noisy)
    metric.write(tmp_path)
    truth = COCO(str(split.sources["objects"].file))
    assert set(json.loads((tmp_path / "bbox.json").read_text())[0]) == {
        "image_id", "category_id", "bbox", "score"
    }  # fmt: skip
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "bbox.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    np.testing.assert_allclose(evaluation.stats, list(scores.values()), atol=1e-12)
    curves = metric.curves()
    assert curves["IoU 0.50"][1].mean() == pytest.approx(scores["AP50"], abs=1e-9)


def test_an_unknown_evaluator_is_refused(split: Split) -> None:
    with pytest.raises(ConfigError, match="fix:"):
        make(split, "lvis")
