"""The AP adapter: two evaluators, one number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from unified.data.coco import CocoSplit
from unified.data.dataset import collate
from unified.errors import ConfigError
from unified.metrics.coco_ap import NAMES, CocoAP
from unified.specs import Batch, Detections, ImageMeta, Sample

IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def batch_of(split: CocoSplit, index: int, view: int = 0) -> Batch:
    meta = ImageMeta(int(split.ids[index]), "", 1, 1, IDENTITY, view)
    return collate([[Sample(np.zeros((1, 1, 3), np.uint8), meta)]])


def feed(metric: CocoAP, split: CocoSplit, change, limit: int | None = None) -> dict[str, float]:
    rng = np.random.default_rng(0)
    for index in range(limit or len(split)):
        truth = split.instances(index)
        keep = ~truth.crowd
        boxes, labels, scores = change(rng, truth.boxes[keep], truth.labels[keep])
        found = Detections(
            torch.from_numpy(np.asarray(boxes, np.float32)).view(-1, 4),
            torch.from_numpy(np.asarray(scores, np.float32)),
            torch.from_numpy(np.asarray(labels)),
        )
        metric.update([found], batch_of(split, index))
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
def split(coco_mini: Path) -> CocoSplit:
    return CocoSplit(coco_mini, "val2017")


def make(split: CocoSplit, evaluator: str = "faster") -> CocoAP:
    return CocoAP(split, split.labels["instances"], evaluator)


@pytest.mark.parametrize("change", [noisy, perfect])
def test_faster_equals_pycocotools(split: CocoSplit, change) -> None:
    fast = feed(make(split), split, change)
    slow = feed(make(split, "pycocotools"), split, change)
    assert list(fast) == list(slow) == list(NAMES)
    for name in NAMES:
        assert abs(fast[name] - slow[name]) <= 1e-12, name
    if change is noisy:
        assert 0.01 < fast["AP"] < 0.9


def test_ground_truth_scores_one(split: CocoSplit) -> None:
    scores = feed(make(split), split, perfect)
    assert scores["AP"] == pytest.approx(1.0, abs=1e-12)
    assert scores["AR100"] == pytest.approx(1.0, abs=1e-12)


def test_one_lost_class_costs_its_share(split: CocoSplit) -> None:
    present = len(
        {c for i in range(len(split)) for c in split.instances(i).labels[~split.instances(i).crowd]}
    )
    person = split.labels["instances"].names.index("person")

    def without_people(rng, boxes, labels):
        keep = labels != person
        return boxes[keep], labels[keep], np.ones(keep.sum())

    scores = feed(make(split), split, without_people)
    assert scores["AP"] == pytest.approx(1 - 1 / present, abs=1e-9)


def test_nothing_found_scores_zero(split: CocoSplit) -> None:
    nothing = lambda rng, boxes, labels: (boxes[:0], labels[:0], np.zeros(0))  # noqa: E731
    assert feed(make(split), split, nothing)["AP"] == 0


def test_only_the_images_seen_count(split: CocoSplit) -> None:
    assert feed(make(split), split, perfect, limit=5)["AP"] == pytest.approx(1.0, abs=1e-12)


def test_further_views_do_not_count(split: CocoSplit) -> None:
    metric = make(split)
    found = Detections(torch.zeros(1, 4), torch.ones(1), torch.zeros(1, dtype=torch.long))
    metric.update([found], batch_of(split, 0, view=1))
    assert not metric.records


def test_the_result_file_scores_the_same_in_pycocotools(split: CocoSplit, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    metric = make(split)
    scores = feed(metric, split, noisy)
    metric.write(tmp_path)
    truth = COCO(str(split.instances_file))
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


def test_an_unknown_evaluator_is_refused(split: CocoSplit) -> None:
    with pytest.raises(ConfigError, match="fix:"):
        make(split, "lvis")
