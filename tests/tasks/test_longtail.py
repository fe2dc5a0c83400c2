"""Long tail: what an image was searched for, what is learnt of it, how it is scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.longtail import CHUNK
from unified.data.augment import AugmentConfig
from unified.data.coco.federated import HOST
from unified.data.dataset import ViewDataset
from unified.errors import DataError
from unified.kinds.federated import FederatedAsk, FederatedLabel, FederatedTargets, Recognitions
from unified.metrics.lvis_ap import NAMES, LvisAP
from unified.ops.balance import Balance
from unified.ops.boxes import decode_boxes
from unified.ops.dense import DenseBoxes
from unified.ops.federated import products_of_images
from unified.ops.losses import focal_gradient, focal_loss
from unified.ops.matching import match
from unified.task import Upstream
from unified.view import ImageMeta, View, compose, letterbox
from unified.weighting.values import values_of

SIZE = 64


def feed(metric: LvisAP, split: Any, read: Callable[[int], Any]) -> dict[str, float]:
    for index in range(len(split)):
        meta = ImageMeta(int(split.images.ids[index]), "", *split.images.size(index), np.eye(2, 3))
        metric.update([read(index)], [meta])
    metric.gather()
    return metric.compute()


@pytest.fixture(params=["shapes", "lvis"])
def split(request: pytest.FixtureRequest, open_split: Callable) -> Any:
    """Of 60 and of 1,230 categories."""
    name = "val" if request.param == "shapes" else "val2017"
    return open_split(request.getfixturevalue(request.param), name, "federated")


# --- The source ---------------------------------------------------------------------------


def test_an_image_knows_what_it_was_searched_for(split: Any) -> None:
    """Annotated and absent categories are complete, unless they are said not to be."""
    source = split.sources["federated"]
    document = json.loads(source.file.read_text())
    ids = np.array(source.space.ids)
    for image in document["images"]:
        index = split.images.ids.tolist().index(image["id"])
        label = split.label("federated", index)
        own = [row for row in document["annotations"] if row["image_id"] == image["id"]]
        objects = ids[label.labels[~label.complete]].tolist()
        assert objects == [row["category_id"] for row in own]
        searched = {*image["neg_category_ids"], *objects}
        complete = ids[label.labels[label.complete]].tolist()
        assert set(complete) == searched - set(image["not_exhaustive_category_ids"])
        assert len(set(complete)) == len(complete)
        assert (label.boxes[label.complete] == [0, 0, image["width"], image["height"]]).all()


def copied(shapes: Path, to: Path, change: Callable[[dict], None]) -> Path:
    shutil.copytree(shapes, to)
    file = to / "annotations" / "lvis_val.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return to


def test_a_list_of_v1_names_images_of_several_folders(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    """By URL only; here beside the objects of the same images, which go by file names."""

    def by_url(document: dict) -> None:
        for image in document["images"]:
            name = image.pop("file_name")
            image["coco_url"] = f"http://images.cocodataset.org/elsewhere/{name}"

    def by_own_host(document: dict) -> None:
        for image in document["images"]:
            image["coco_url"] = f"http://my.host/bucket/{image['file_name']}"

    root = copied(shapes, tmp_path / "root", by_url)
    (root / "elsewhere").mkdir()
    for file in (root / "val").iterdir():
        shutil.copy(file, root / "elsewhere")
    alone = open_split(root, "val", "federated")
    assert {alone.image_file(i).parent.name for i in range(len(alone))} == {"elsewhere"}
    assert all(alone.image_file(i).is_file() for i in range(len(alone)))
    assert set(alone.folders()) == {root / "elsewhere"}
    other = copied(shapes, tmp_path / "other", by_own_host)
    assert {
        p.parent.name for p in map(open_split(other, "val", "federated").image_file, [0, 1])
    } == {"val"}
    both = open_split(root, "val", "objects", "federated")
    assert {both.image_file(i).parent.name for i in range(len(both))} == {"val"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["images"][0].pop("neg_category_ids"), "neg_category_ids"),
        (lambda d: d["images"][0]["neg_category_ids"].append(999), "category 999"),
        (lambda d: d["categories"][0].update(frequency="x"), "which is r, c or f"),
        (lambda d: d["images"][0].update(neg_category_ids=None), "lists of category ids"),
        (lambda d: d["images"][0].update(coco_url="http://[::1/a/b.jpg"), "coco_url"),
        (
            lambda d: d["images"][0].update(coco_url=f"http://{HOST}/../x.jpg"),
            "`../x.jpg`",
        ),
        (lambda d: d["annotations"][0].update(category_id=999), "category 999"),
        (
            lambda d: next(i for i in d["images"] if i["id"] == d["annotations"][0]["image_id"])[
                "neg_category_ids"
            ].append(d["annotations"][0]["category_id"]),
            "absent",
        ),
    ],
)
def test_labels_that_cannot_be_are_refused(
    change: Callable, said: str, shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    root = copied(shapes, tmp_path / "root", change)
    with pytest.raises(DataError) as caught:
        open_split(root, "val", "federated")
    assert said in str(caught.value)
    assert "lvis_val.json" in str(caught.value)


def test_images_that_are_learnt_from_and_scored_are_told_of(
    shapes: Path, tmp_path: Path, make: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """As of LVIS v1, whose validation list names images of COCO's training split."""

    def of_training(document: dict) -> None:
        name = sorted(file.name for file in (shapes / "train").iterdir())[0]
        document["images"][0].update(coco_url=f"http://images.cocodataset.org/train/{name}")

    root = copied(shapes, tmp_path / "root", of_training)
    with caplog.at_level("WARNING"):
        _ = make("task=[detection,longtail]").data
        assert "learnt from" not in caplog.text
        _ = make("task=[longtail]", f"data.root={root}").data
    assert "1 of the 12 images that are scored are learnt from" in caplog.text


def test_an_image_that_is_not_listed_knows_nothing(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    def shorten(document: dict) -> None:
        gone = document["images"].pop()["id"]
        rows = document["annotations"]
        document["annotations"] = [row for row in rows if row["image_id"] != gone]

    root = copied(shapes, tmp_path / "root", shorten)
    split = open_split(root, "val", "objects", "federated")
    assert split.known("federated").tolist() == [True] * (len(split) - 1) + [False]
    assert split.known("objects").all()


# --- What is in view ----------------------------------------------------------------------


def test_in_a_mosaic_each_image_speaks_of_its_own_place(shapes: Path, open_split: Callable) -> None:
    """Where it is turned, of what lies within it."""
    split = open_split(shapes, "train", "federated")
    views = {"strong": AugmentConfig(mosaic=1.0, rotate=10.0)}
    dataset = ViewDataset(split, SIZE, [FederatedAsk()], views)
    for index in range(6):
        (row,) = dataset[(0, index)]
        label = row.labels["federated"]
        regions = np.unique(label.boxes[label.complete], axis=0)
        assert 2 <= len(regions) <= 4
        for one, other in ((a, b) for a in range(len(regions)) for b in range(a)):
            low = np.maximum(regions[one, :2], regions[other, :2])
            high = np.minimum(regions[one, 2:], regions[other, 2:])
            assert (high - low).min() < 1.5, "two images speak of one place"


@given(st.floats(-45, 45), st.integers(5, 400), st.integers(5, 400), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_turned_image_speaks_of_what_lies_within_it(
    degrees: float, width: int, height: int, mirrored: bool
) -> None:
    whole = np.array([[0, 0, width, height]], np.float32)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([-1.0 if mirrored else 1.0, 1.0]) * 0.7
    view = View(np.column_stack([turn, [500.0, 500.0]]), 1000)
    (box,) = FederatedLabel(whole, np.array([3]), np.array([True])).seen(view, FederatedAsk()).boxes
    corners = np.array([[box[0], box[1]], [box[2], box[1]], [box[0], box[3]], [box[2], box[3]]])
    back = (corners - view.matrix[:, 2]) @ np.linalg.inv(turn).T
    assert ((back >= -0.01) & (back <= [width + 0.01, height + 0.01])).all()
    if degrees == 0:
        np.testing.assert_allclose(box[2:] - box[:2], [0.7 * width, 0.7 * height], rtol=1e-3)


def test_what_an_image_was_searched_for_is_not_lost_from_a_part_of_it(
    shapes: Path, open_split: Callable
) -> None:
    """Objects of which little is left are; that there are no others is true of any part."""
    label = open_split(shapes, "train", "federated").label("federated", 0)
    corner = View(np.array([[1.0, 0, 56], [0, 1.0, 56]]), SIZE, min_side=4.0, min_visible=0.5)
    seen = label.seen(corner, FederatedAsk())
    assert seen.complete.sum() == label.complete.sum()
    assert (seen.boxes[seen.complete] == [56, 56, SIZE, SIZE]).all()


# --- What is learnt -----------------------------------------------------------------------


@pytest.fixture(params=["longtail", "detection,longtail"])
def learnt(request: pytest.FixtureRequest, make: Callable) -> Any:
    """The task alone, and with the boxes of detection."""
    made = make(f"task=[{request.param}]")
    return made, made.batch()


def losses_of(made: Any, batch: Any) -> dict[str, torch.Tensor]:
    task, upstream = made.tasks["longtail"], Upstream()
    outputs = made.model(batch.images)
    for name, other in made.tasks.items():
        upstream.add(*other.shares(outputs[name]))
    task.balance = Balance(task.head.categories.out_features)
    losses, _ = task.loss(outputs["longtail"], batch, upstream)
    return values_of({"longtail": losses})[0]["longtail"]


def test_what_is_not_known_teaches_nothing(learnt: Any) -> None:
    """The logits of a category in an image that was not searched for it have no gradient."""
    made, batch = learnt
    task, truth = made.tasks["longtail"], batch.labels["federated"]
    named = set(truth.labels.tolist())
    sum(losses_of(made, batch).values()).backward()
    gradient = task.head.categories.weight.grad.abs().sum(1)
    assert {k for k, v in enumerate(gradient.tolist()) if v} == named
    assert len(named) < task.head.categories.out_features


def test_an_open_category_is_never_wrong(make: Callable) -> None:
    """Without rows that say an image has no others, only objects and their cells count."""
    made = make("task=[longtail]")
    batch = made.batch()
    truth = batch.labels["federated"]
    kept = ~truth.complete
    parts = {n: getattr(truth, n)[kept] for n in ("image", "boxes", "labels", "complete")}
    batch.labels["federated"] = replace(truth, **parts)
    made.model.eval()
    with torch.no_grad():
        made.tasks["longtail"].head.categories.bias += 12.0  # everything is everywhere
        alone = losses_of(made, batch)["category"]
        batch.labels["federated"] = truth
        searched = losses_of(made, batch)["category"]
    assert alone < 1e-3
    assert searched > 1


def test_boxes_are_those_of_detection_where_it_takes_part(make: Callable) -> None:
    alone, beside = make("task=[longtail]"), make("task=[detection,longtail]")
    rank = alone.tasks["longtail"].head.rank
    images = alone.batch().images
    assert {o.shape[1] for o in alone.model(images)["longtail"].values()} == {rank + 3 + 12}
    assert {o.shape[1] for o in beside.model(images)["longtail"].values()} == {rank + 3}
    losses_of(beside, beside.batch())["box"].backward()
    predictors = beside.tasks["detection"].head.predictors.values()
    assert all(p.weight.grad.abs().sum() > 0 for p in predictors)


def logits_of(made: Any, batch: Any) -> tuple[list[tuple[int, float, torch.Tensor]], int]:
    """Category, what it should say and its logit, input by input and cell by cell, and how many
    pairs of object and cell there are.
    """
    task, truth = made.tasks["longtail"], batch.labels["federated"]
    outputs, head = made.model(batch.images)["longtail"], task.head
    found, count = [], 0
    for row in range(len(batch.metas)):
        own = truth.image == row
        objects, searched = own & ~truth.complete, own & truth.complete
        positives = set()
        dense = DenseBoxes(head.boxes(outputs), head.anchors, task.strides)
        matches = match(
            truth.boxes[objects], truth.image[objects] * 0, objects[objects], dense, task.max_ratio
        )
        cells = matches.cells
        labels = truth.labels[objects][matches.target].tolist()
        each = (cells.level.tolist(), cells.y.tolist(), cells.x.tolist(), labels)
        positives = set(zip(*each, matches.target.tolist(), strict=True))
        for index, y, x, label, _ in positives:
            vector = outputs[head.levels[index]][row, : head.rank, y, x]
            found.append((label, 1.0, vector @ head.of(label)[0] + head.of(label)[1]))
        count += len(positives)
        held = {place[:4] for place in positives}
        for box, label in zip(truth.boxes[searched], truth.labels[searched].tolist(), strict=True):
            for index, (level, stride) in enumerate(zip(head.levels, task.strides, strict=True)):
                for y, x in np.ndindex(*outputs[level].shape[2:]):
                    place = torch.tensor([x + 0.5, y + 0.5]) * stride
                    inside = ((place >= box[:2]) & (place <= box[2:])).all()
                    if inside and (index, y, x, label) not in held:
                        vector = outputs[level][row, : head.rank, y, x]
                        logit = vector @ head.of(label)[0] + head.of(label)[1]
                        found.append((label, 0.0, logit))
    return found, count


@pytest.mark.parametrize("gamma", [0.0, 1.5])
@pytest.mark.parametrize("view", ["augment=none", "augment=strong"])
def test_the_federated_loss_is_that_of_each_input_and_category(
    make: Callable, view: str, gamma: float
) -> None:
    """Single images, and mosaics, in which each category is known in a part of the input; with
    weights of a balance that lacks something in every category. So are the gradients that enter it.
    """
    made = make("task=[longtail]", view, f"task.longtail.gamma={gamma}")
    task, batch = made.tasks["longtail"], made.batch(2)
    made.model.eval()
    balance = task.balance
    with torch.no_grad():
        nn.init.normal_(task.head.categories.bias)
        balance.positive.uniform_(0.4, 1.2)
        balance.negative.fill_(1.0)
        before = balance.positive.clone(), balance.negative.clone()
        more, less = balance.weights(task.equalise)
        found = task.loss(made.model(batch.images)["longtail"], batch, Upstream())[0]["category"]
        entered = balance.positive - before[0], balance.negative - before[1]
    logits, count = logits_of(made, batch)
    total, sizes = 0.0, {1.0: torch.zeros_like(more), 0.0: torch.zeros_like(more)}
    for label, goal, logit in logits:
        logit = logit.detach().requires_grad_()
        loss = focal_loss(logit, torch.tensor(goal), gamma)
        loss.backward()
        weight = (more if goal else less)[label]
        total += float(weight * loss)
        sizes[goal][label] += weight * logit.grad.abs()
    assert float(found.total) == pytest.approx(total, rel=1e-4)
    assert int(found.count) == count
    torch.testing.assert_close(entered[0], sizes[1.0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(entered[1], sizes[0.0], rtol=1e-3, atol=1e-3)


def test_an_object_that_no_anchor_fits_is_not_said_to_be_absent(make: Callable) -> None:
    """Its category stays open within its box, in its image."""
    made = make("task=[longtail]")
    task, batch = made.tasks["longtail"], made.batch(2)
    sides = torch.tensor([[2.0, 7, 62, 13], [0, 0, 64, 64], [0, 0, 64, 64]])
    batch.labels["federated"] = FederatedTargets(
        known=torch.tensor([True, True]), image=torch.tensor([0, 0, 1]), boxes=sides,
        labels=torch.tensor([3, 3, 3]), complete=torch.tensor([False, True, True]),
    )  # fmt: skip
    outputs = made.model(batch.images)["longtail"]
    outputs = {name: output.detach().requires_grad_() for name, output in outputs.items()}
    with torch.no_grad():
        task.head.categories.bias.zero_()
        task.max_ratio = 1.01
    task.loss(outputs, batch, Upstream())[0]["category"].total.backward()
    taught = outputs["p3"].grad[:, : task.head.rank].abs().sum(1) > 0  # cells of 8 pixels
    assert taught[1].all()
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[1, :] = True  # of centre (4 to 60, 12)
    assert torch.equal(taught[0], ~inside)


def test_the_quality_of_a_box_is_its_overlap(make: Callable) -> None:
    """Learnt of every anchor at the cells of objects, 0 where it matches none, and nowhere else."""
    made = make("task=[longtail]")
    task, batch = made.tasks["longtail"], made.batch(2)
    head, truth = task.head, batch.labels["federated"]
    outputs = made.model(batch.images)["longtail"]
    outputs = {name: output.detach().requires_grad_() for name, output in outputs.items()}
    loss = task.loss(outputs, batch, Upstream())[0]["quality"]
    loss.total.backward()
    assert all((o.grad[:, head.rank + head.per_cell :] == 0).all() for o in outputs.values())
    cell, anchor, target, missed = task._match(truth, task._boxes(outputs, Upstream()))
    goal = torch.zeros(2, head.per_cell, *torch.cat(head.vectors(outputs), 1).shape[1:2])
    held = torch.zeros_like(goal[:, 0], dtype=torch.bool)
    for one in zip(truth.image[target].tolist(), anchor, cell, missed.tolist(), strict=True):
        image, a, c, loss_of_box = one
        goal[image, a, c] = max(float(goal[image, a, c]), 1 - loss_of_box)
        held[image, c] = True
    pulled = torch.cat([o.grad.flatten(2) for o in outputs.values()], 2)
    pulled = pulled[:, head.rank : head.rank + head.per_cell]
    said = torch.cat([q.flatten(2) for q in head.qualities(outputs)], 2).detach().sigmoid()
    wanted = torch.where(held[:, None], said - goal, 0)
    assert goal.max() > 0
    assert int(loss.count) == int(held.sum()) * head.per_cell
    torch.testing.assert_close(pulled, wanted, rtol=1e-4, atol=1e-6)


# --- What is decoded ----------------------------------------------------------------------


def decoded(
    task: Any, vectors: torch.Tensor, boxes: torch.Tensor, quality: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return task._best(vectors, boxes, torch.ones(len(boxes)) if quality is None else quality)


def test_a_cell_keeps_the_box_that_fits_best(make: Callable) -> None:
    """And its score is the category's probability times how well that one fits."""
    made = make("task=[longtail]")
    task, head = made.tasks["longtail"], made.tasks["longtail"].head
    outputs = made.model(made.batch(1).images)["longtail"]
    raw = {name: torch.zeros_like(output) for name, output in outputs.items()}
    level, (y, x), anchor = head.levels[1], (2, 1), 1
    head.qualities(raw)[1][:] = torch.tensor([-3.0, 1.5, -1.0])[None, :, None, None]
    with torch.no_grad():
        head.categories.weight.zero_()
        head.categories.bias.fill_(-20.0)
        head.categories.weight[7] = 1.0
        raw[level][0, : head.rank, y, x] = 22.0 / head.rank
        own = list(head.boxes(raw).values())[1][0, :, y, x]
        own += torch.randn_like(own)
        kept = task.keep(raw, Upstream())
    assert kept.labels.tolist()[0] == 7
    quality, category = torch.tensor([1.5, 2.0]).sigmoid()
    assert float(kept.scores[0]) == pytest.approx(float(quality * category), rel=1e-4)
    wanted = decode_boxes(
        own[anchor : anchor + 1], torch.tensor([[x, y]]), head.anchors[1, anchor][None],
        task.strides[1],
    )  # fmt: skip
    torch.testing.assert_close(kept.boxes[:1], wanted)


def test_of_all_cells_and_categories_the_best_are_kept(make: Callable) -> None:
    """The same as from the whole table of logits, which is never made: cells in several parts."""
    task = make("task=[longtail]").tasks["longtail"]
    task.max_candidates, task.max_detections = 40, 40
    cells = 2 * CHUNK + 100
    vectors = torch.randn(cells, task.head.rank) * 3
    # Boxes that do not touch, so that none is suppressed.
    corner = torch.arange(cells)[:, None] * torch.tensor([[10.0, 0, 10, 0]])
    boxes = corner + torch.tensor([0.0, 0, 5, 5])
    quality = torch.rand(cells)
    found, scores, labels = decoded(task, vectors, boxes, quality)
    with torch.no_grad():
        every = task.head.categories(vectors).sigmoid() * quality[:, None]
    best, place = every.flatten().topk(40)
    assert (best > task.min_score).all()
    torch.testing.assert_close(scores, best)
    assert torch.equal(labels, place % every.shape[1])
    assert torch.equal(found, boxes[place // every.shape[1]])


@pytest.mark.parametrize(("least", "left"), [(0.0, 12), (0.3, 6), (1.0, 0)])
def test_suppression_is_per_category_above_the_least_score(
    make: Callable, least: float, left: int
) -> None:
    """Six cells with one box: the best of each category stays."""
    task = make("task=[longtail]").tasks["longtail"]
    task.min_score = least
    task.head.categories = nn.Linear(task.head.rank, 12)
    with torch.no_grad():
        task.head.categories.weight.zero_()
        task.head.categories.bias.copy_(torch.logit(torch.tensor([0.2] * 6 + [0.6] * 6)))
    boxes = torch.tensor([[0.0, 0, 9, 9]]).expand(6, -1)
    _, scores, labels = decoded(task, torch.randn(6, task.head.rank), boxes)
    assert len(scores) == len(set(labels.tolist())) == left


def test_logits_of_images_are_products_with_their_own_vectors() -> None:
    vectors, weight = torch.randn(3, 5, 4), torch.randn(6, 4)
    image = torch.tensor([0, 0, 0, 2, 2, 2])
    found = products_of_images(vectors, weight, image)
    wanted = torch.stack([vectors[i] @ w for i, w in zip(image, weight, strict=True)])
    torch.testing.assert_close(found, wanted)
    assert products_of_images(vectors, weight[:0], image[:0]).shape == (0, 5)


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=6), st.floats(0, 4))
@settings(max_examples=40, deadline=None)
def test_focal_loss_is_cross_entropy_of_what_is_missed(values: list[float], gamma: float) -> None:
    logits = torch.tensor(values)
    for target in (0.0, 1.0):
        goal = torch.full_like(logits, target)
        entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
        missed = (goal - logits.sigmoid()).abs().clamp(min=1e-6)
        torch.testing.assert_close(focal_loss(logits, goal, gamma), missed**gamma * entropy)


@given(st.floats(-6, 6), st.floats(0, 10))
@settings(max_examples=60, deadline=None)
def test_the_gradient_of_focal_loss_is_what_is_balanced(value: float, gamma: float) -> None:
    for target in (0.0, 1.0):
        logit = torch.tensor(value, requires_grad=True)
        focal_loss(logit, torch.tensor(target), gamma).backward()
        missed = (target - logit.detach().sigmoid()).abs()
        torch.testing.assert_close(
            focal_gradient(missed, gamma), logit.grad.abs(), rtol=1e-3, atol=1e-4
        )


def test_weights_are_those_of_equalisation_loss_v2() -> None:
    balance = Balance(3)
    for weights in balance.weights(4.0):
        assert weights.tolist() == [1, 1, 1]
    balance.add(torch.tensor([4.0, 2.0, 0.0]), torch.tensor([2.0, 4.0, 0.0]))
    share = 1 / (1 + np.exp(-12 * (np.array([2.0, 0.5]) - 0.8)))
    positive, negative = balance.weights(4.0)
    torch.testing.assert_close(positive, torch.tensor([*(5 - 4 * share), 1.0]).float())
    torch.testing.assert_close(negative, torch.tensor([*share, 1.0]).float())
    for weights in balance.weights(0.0):
        assert weights.tolist() == [1, 1, 1]
    # As strength vanishes, so does what it does.
    for weights in balance.weights(1e-6):
        torch.testing.assert_close(weights, torch.ones(3))


# --- How it is scored ---------------------------------------------------------------------


def test_the_truth_scores_one(split: Any, tmp_path: Path) -> None:
    metric = LvisAP(split.sources["federated"])
    scores = feed(metric, split, lambda index: split.result("federated", index))
    assert tuple(scores) == tuple(NAMES)
    assert scores["AP"] == pytest.approx(1.0)
    assert scores["AR300"] == pytest.approx(1.0)
    metric.write(tmp_path)
    rows = json.loads((tmp_path / "lvis.json").read_text())
    assert len(rows) == len(split.sources["federated"].table)
    assert set(rows[0]) == {"image_id", "category_id", "bbox", "score"}


def test_the_best_300_of_an_image_count(shapes: Path, open_split: Callable) -> None:
    """Whatever their categories: what comes behind them is as if it were not there."""
    split = open_split(shapes, "val", "federated")
    source = split.sources["federated"]

    def behind(index: int) -> Recognitions:
        found = split.result("federated", index)
        label = int(found.labels[0])
        noise = torch.tensor([[0.0, 0, 3, 3]]).expand(300, -1)
        return replace(
            found,
            boxes=torch.cat([noise, found.boxes]),
            labels=torch.cat([torch.full((300,), label), found.labels]),
            scores=torch.cat([torch.linspace(1, 0.9, 300), found.scores * 0.5]),
        )

    metric = LvisAP(source)
    assert feed(metric, split, behind)["AP"] == 0
    assert {len(record) for record in metric.records.values()} == {300}


def test_groups_are_those_of_the_frequencies(shapes: Path, open_split: Callable) -> None:
    """What is left out of one group costs that group alone."""
    split = open_split(shapes, "val", "federated")
    frequency = np.array(split.sources["federated"].space.frequency)
    for letter in set(frequency):

        def without(index: int, letter: str = letter) -> Recognitions:
            found = split.result("federated", index)
            own = torch.from_numpy(frequency[found.labels.numpy()] != letter)
            return replace(
                found, boxes=found.boxes[own], scores=found.scores[own], labels=found.labels[own]
            )

        scores = feed(LvisAP(split.sources["federated"]), split, without)
        for group in set(frequency):
            value = scores[f"AP{group}"]
            assert np.isnan(value) or value == (0 if group == letter else pytest.approx(1))


def test_results_are_wrong_only_where_an_image_was_searched(
    shapes: Path, open_split: Callable
) -> None:
    split = open_split(shapes, "val", "federated")
    source = split.sources["federated"]
    image = next(i for i in range(len(split)) if len(source.complete[i]))
    label = source.read(image)
    absent = np.setdiff1d(label.labels[label.complete], label.labels[~label.complete])
    unknown = np.setdiff1d(np.arange(len(source.space)), label.labels)
    others = np.unique(source.table.labels)  # categories that are scored at all

    def beside(index: int, wrong: np.ndarray) -> Recognitions:
        found = split.result("federated", index)
        more = torch.from_numpy(np.intersect1d(wrong, others)) if index == image else torch.zeros(0)
        boxes = torch.tensor([[1.0, 1, 9, 9]]).expand(len(more), -1)
        return replace(
            found,
            boxes=torch.cat([boxes, found.boxes]),
            labels=torch.cat([more.long(), found.labels]),
            scores=torch.cat([torch.full((len(more),), 2.0), found.scores]),
        )

    assert feed(LvisAP(source), split, lambda i: beside(i, unknown))["AP"] == pytest.approx(1)
    assert feed(LvisAP(source), split, lambda i: beside(i, absent))["AP"] < 1


def test_a_mirror_image_is_scored_alike(split: Any) -> None:
    """Images and labels are mirrored, what is found is mirrored back."""
    source = split.sources["federated"]

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=8, deadline=None)
    def holds(seed: int) -> None:
        def shaken(index: int) -> Recognitions:
            found = split.result("federated", index)
            return replace(found, boxes=(found.boxes + shift(index)).float())

        def shift(index: int) -> torch.Tensor:
            count = len(split.result("federated", index).boxes)
            drawn = np.random.default_rng((seed, index)).normal(0, 4, (count, 2))
            return torch.from_numpy(np.tile(drawn, 2))

        def there_and_back(index: int) -> Recognitions:
            width = split.images.size(index)[1]
            mirror = np.array([[-1.0, 0, width], [0, 1.0, 0]])
            label = split.label("federated", index).seen(View(mirror, 10**6), FederatedAsk())
            boxes = label.boxes[~label.complete] + shift(index).numpy() * [-1, 1, -1, 1]
            back = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            found = split.result("federated", index)
            return replace(found, boxes=torch.from_numpy(back).float())

        one, other = (feed(LvisAP(source), split, read) for read in (shaken, there_and_back))
        for name in NAMES:
            assert one[name] == pytest.approx(other[name], abs=1e-3, nan_ok=True), name

    holds()


def test_labels_of_a_mirror_image_are_mirrored(split: Any) -> None:
    place = letterbox(*split.images.size(0), SIZE)
    flipped = View(compose(np.array([[-1.0, 0, SIZE], [0, 1.0, 0]]), place), SIZE)
    label = split.label("federated", 0)
    straight = label.seen(View(place, SIZE), FederatedAsk()).boxes
    mirrored = label.seen(flipped, FederatedAsk()).boxes
    np.testing.assert_allclose(mirrored[:, [2, 0]], SIZE - straight[:, [0, 2]], atol=1e-3)


def test_nothing_found_says_nothing_of_what_is_not_there(lvis: Path, open_split: Callable) -> None:
    """As the evaluator has it where something is found."""
    split = open_split(lvis, "val2017", "federated")
    source = split.sources["federated"]
    empty = Recognitions(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    nothing = feed(LvisAP(source), split, lambda index: empty)
    every = feed(LvisAP(source), split, lambda index: split.result("federated", index))
    assert np.isnan(nothing["APr"])
    for name in NAMES:
        assert np.isnan(nothing[name]) == np.isnan(every[name]), name
        assert not nothing[name] > 0


def test_the_balance_is_saved_with_the_training() -> None:
    balance = Balance(3)
    balance.add(torch.tensor([1.0, 0, 2]), torch.tensor([3.0, 1, 0]))
    again = Balance(3)
    again.load_state_dict(balance.state_dict())
    for one, other in zip(balance.weights(4.0), again.weights(4.0), strict=True):
        assert torch.equal(one, other)
    assert again.positive.tolist() == [1, 0, 2]


# --- Memory -------------------------------------------------------------------------------


def test_decoding_never_holds_all_logits(make: Callable) -> None:
    """Of 1,203 categories: the largest tensor is that of one part of the cells."""
    made = make("task=[longtail]", "data.image_size=128")
    task = made.tasks["longtail"]
    task.head.categories = torch.nn.Linear(task.head.rank, 1203)
    most = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal most
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                most = max(most, out.nbytes)
            return out

    cells = {"p3": 80, "p4": 40, "p5": 20}
    outputs = {n: torch.randn(1, task.head.rank + 15, side, side) for n, side in cells.items()}
    with torch.no_grad(), Watch():
        task.keep(outputs, Upstream())
    assert most < 8e6
