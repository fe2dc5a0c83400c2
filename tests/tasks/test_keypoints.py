"""Keypoints: what joints become in a view, what is learnt of them, how they are scored."""

from __future__ import annotations

import contextlib
import io
import json
import logging
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
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from tasks.keypoints import STEPS, Poses
from unified.batch import Batch
from unified.canvas import Canvas
from unified.data.coco.keypoints import SIGMA, Category
from unified.errors import DataError
from unified.kinds.keypoints import KeypointAsk, KeypointLabel, Keypoints, KeypointSpace
from unified.kinds.objects import find_objects
from unified.metrics.keypoint_ap import NAMES, CocoKeypointAP
from unified.ops.dense import Cells, Kept, Matches
from unified.task import Upstream
from unified.view import ImageMeta, View, compose, letterbox, move_points

FLIPS = np.array([[0, 2, 1, 4, 3]])
SIZE = 64


def feed(metric: CocoKeypointAP, split: Any, read: Callable[[int], Keypoints]) -> dict[str, float]:
    for index in range(len(split)):
        meta = ImageMeta(int(split.images.ids[index]), "", *split.images.size(index), np.eye(2, 3))
        metric.update([read(index)], [meta])
    metric.gather()
    return metric.compute()


@pytest.fixture(params=["shapes", "coco_mini", "crowdpose", "mmpose"])
def split(request: pytest.FixtureRequest, open_split: Callable) -> Any:
    """Of 13, 17, 14 and 17 joints."""
    name = "val2017" if request.param == "coco_mini" else "val"
    return open_split(request.getfixturevalue(request.param), name, "keypoints")


@pytest.mark.parametrize("evaluator", ["faster", "pycocotools"])
def test_the_truth_scores_one(split: Any, evaluator: str) -> None:
    metric = CocoKeypointAP(split.sources["keypoints"], evaluator)
    scores = feed(metric, split, lambda index: split.result("keypoints", index))
    assert tuple(scores) == NAMES
    for name in ("AP", "AP50", "AP75", "AR", "AR50", "AR75"):
        assert scores[name] == pytest.approx(1.0), name


def test_both_evaluators_score_alike_what_is_a_little_off(split: Any) -> None:
    rng = np.random.default_rng(0)
    noise = {i: rng.normal(0, 6, (200, 20, 2)) for i in range(len(split))}

    def shaken(index: int) -> Keypoints:
        truth = split.result("keypoints", index)
        count, joints, _ = truth.joints.shape
        moved = truth.joints.clone()
        moved[..., :2] += torch.from_numpy(noise[index][:count, :joints]).float()
        return replace(truth, joints=moved, scores=torch.linspace(0.9, 0.5, count))

    one, other = (
        feed(CocoKeypointAP(split.sources["keypoints"], e), split, shaken)
        for e in ("faster", "pycocotools")
    )
    assert one["AP"] < 1
    for name in NAMES:
        assert one[name] == pytest.approx(other[name], abs=1e-9, nan_ok=True), name


def test_sigmas_are_cocos_where_the_joints_are(coco_mini: Path, open_split: Callable) -> None:
    space = open_split(coco_mini, "val2017", "keypoints").sources["keypoints"].space
    assert space.sigmas[0] == pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist())
    assert space.mirrors
    left = space.joints[0].index("left_knee")
    assert space.joints[0][space.flips[0][left]] == "right_knee"


def test_a_skeleton_of_other_joints_is_cut_with_a_warning(
    crowdpose: Path, open_split: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        space = open_split(crowdpose, "val", "keypoints").sources["keypoints"].space
    assert "names joints that it does not have" in caplog.text
    assert len(space.joints[0]) == 14
    assert all(0 <= joint < 14 for edge in space.skeleton[0] for joint in edge)
    assert space.sigmas[0][-1] == SIGMA


def label(rng: np.random.Generator, count: int = 3) -> KeypointLabel:
    joints = rng.uniform(4, SIZE - 4, (count, 5, 3)).astype(np.float32)
    joints[..., 2] = rng.integers(0, 3, (count, 5))
    joints[..., :2] *= joints[..., 2:] > 0  # as COCO has what is not known
    return KeypointLabel(
        np.arange(count), np.zeros(count, np.int64), joints, np.full(count, 90, np.float32), FLIPS
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.4, 1.0))
def test_a_mirror_image_of_a_mirror_image_is_the_image(seed: int, scale: float) -> None:
    once = np.array([[-scale, 0, scale * SIZE], [0, scale, 0]])
    back = np.array([[-1 / scale, 0, SIZE], [0, 1 / scale, 0]])
    truth, ask = label(np.random.default_rng(seed)), KeypointAsk(joints=5)
    mirrored = truth.seen(View(once, SIZE), ask)
    left, right = truth.joints[:, 1], mirrored.joints[:, 2]
    known = left[:, 2] > 0
    assert np.array_equal(left[:, 2], right[:, 2])
    assert np.allclose(right[known, 0], scale * (SIZE - left[known, 0]), atol=1e-4)
    again = mirrored.seen(View(back, SIZE), ask)
    assert np.allclose(again.joints, truth.joints, atol=1e-3)
    assert np.allclose(again.areas, truth.areas, rtol=1e-5)
    direct = truth.seen(View(compose(back, once), SIZE), ask)
    assert np.allclose(direct.joints, truth.joints, atol=1e-3)


def test_a_mirrored_result_scores_the_same(shapes: Path, open_split: Callable) -> None:
    """Images and labels are mirrored, what is found is mirrored back."""
    split = open_split(shapes, "val", "keypoints")
    source = split.sources["keypoints"]

    def found(index: int, mirrored: bool) -> Keypoints:
        truth, width = split.label("keypoints", index), split.images.size(index)[1]
        shape = (*truth.joints.shape[:2], 2)
        noise = np.random.default_rng(index).normal(0, 1.5, shape).astype(np.float32)
        flip = View(np.array([[-1.0, 0, width], [0, 1, 0]]), 10**6)
        order = truth.flips[truth.labels][..., None]
        if mirrored:
            truth = truth.seen(flip, KeypointAsk(joints=shape[1]))
            noise = np.take_along_axis(noise * np.float32([-1, 1]), order, 1)
        moved = np.concatenate([truth.joints[..., :2] + noise, np.ones_like(noise[..., :1])], -1)
        if mirrored:
            moved = replace(truth, joints=moved).seen(flip, KeypointAsk()).joints
        labels = torch.from_numpy(truth.labels)
        ones = torch.ones(len(moved))
        return Keypoints(ones, labels, torch.from_numpy(moved), ones)

    plain = feed(CocoKeypointAP(source), split, lambda i: found(i, False))
    back = feed(CocoKeypointAP(source), split, lambda i: found(i, True))
    assert 0.2 < plain["AP"] < 1
    assert back == pytest.approx(plain, nan_ok=True, abs=1e-6)


def edited(shapes: Path, tmp_path: Path, change: Callable[[dict], Any]) -> Path:
    root = tmp_path / "copy"
    shutil.copytree(shapes, root)
    for split in ("train", "val"):
        file = root / "annotations" / f"person_keypoints_{split}.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))
    return root


def test_flips_are_switched_off_where_nobody_says_what_they_do(
    shapes: Path, tmp_path: Path, make: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(document: dict) -> None:
        for category in document["categories"]:
            category["keypoints"] = [f"joint {i}" for i in range(len(category["keypoints"]))]

    root = edited(shapes, tmp_path, rename)
    made = make("task=[detection,keypoints]", f"data.root={root}", "augment.strong.flip=1.0")
    with caplog.at_level(logging.WARNING):
        assert made.data.augment["strong"].flip == 0
    assert "view strong is not mirrored" in caplog.text
    assert made.config.augment["strong"].flip == 1.0
    other = make("task=[detection]", f"data.root={root}", "augment.strong.flip=1.0")
    assert other.data.augment["strong"].flip == 1.0


def test_flip_indices_say_it(shapes: Path, tmp_path: Path, make: Callable) -> None:
    def rename(document: dict) -> None:
        for category in document["categories"]:
            count = len(category["keypoints"])
            category["keypoints"] = [f"joint {i}" for i in range(count)]
            category["flip_indices"] = [1, 0, *range(2, count)]

    made = make("task=[detection,keypoints]", f"data.root={edited(shapes, tmp_path, rename)}")
    assert made.data.augment["strong"].flip > 0
    assert made.data.train_split.sources["keypoints"].space.flips[0][:3] == (1, 0, 2)


def first(document: dict) -> dict:
    return next(row for row in document["annotations"] if row["num_keypoints"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: first(d).update(keypoints=[1, 2, 2]), "it has 1 joints, its category 13"),
        (lambda d: first(d)["keypoints"].pop(), "Expected threes of numbers"),
        (lambda d: first(d)["keypoints"].__setitem__(2, 7), "Expected 0, 1 or 2"),
        (lambda d: first(d)["keypoints"].__setitem__(0, 1e12), "Expected pixels"),
        (lambda d: first(d)["keypoints"].__setitem__(0, "x"), "Expected `float`"),
        (lambda d: first(d).update(id=-77), "has no object, or several, of this id"),
        (lambda d: first(d).update(category_id=5), "it names category 5"),
        (lambda d: first(d).update(image_id=77), "it names image 77"),
        (lambda d: d["categories"][0].pop("keypoints"), "missing required field `keypoints`"),
        (lambda d: d["categories"][0].pop("keypoints"), "keypoints, the names of its joints"),
        (lambda d: d.update(categories=[], annotations=[]), "the list is empty"),
        (lambda d: d["annotations"].append(first(d)), "has it twice"),
        (lambda d: d["categories"][0].update(keypoints=["a", "a"]), "different names"),
        (lambda d: d["categories"][0].update(flip_indices=[0]), "Expected every joint"),
        (lambda d: d["categories"][0].update(sigmas=[0.1]), "Expected 13 numbers"),
        (lambda d: d.update(annotations=[]), "annotates no joint"),
    ],
)
def test_bad_joints_are_named(
    change: Callable, said: str, shapes: Path, tmp_path: Path, make: Callable
) -> None:
    root = edited(shapes, tmp_path, change)
    with pytest.raises(DataError) as caught:
        _ = make("task=[detection,keypoints]", f"data.root={root}").data
    assert said in str(caught.value)
    assert "person_keypoints_" in str(caught.value)


def test_spaces_that_do_not_fit_their_joints_are_refused() -> None:
    space = KeypointSpace((1,), ("a",), (("x", "y"),), (((0, 1),),), ((1, 0),), ((0.1, 0.1),))
    state = json.loads(json.dumps(space.to_dict()))
    assert KeypointSpace.from_dict(state) == space
    bad_sigmas = ({"sigmas": [[0.1]]}, {"sigmas": [[0.1, float("nan")]]})
    for bad in ({"skeleton": [[[0, 2]]]}, {"flips": [[0, 0]]}, *bad_sigmas):
        with pytest.raises(ValueError, match="does not fit"):
            KeypointSpace.from_dict(state | bad)
    assert space.differs(replace(space, joints=(("y", "x"),)))
    assert "sigmas" in str(space.differs(replace(space, sigmas=((0.1, 0.2),))))


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda xy: [5000.0] * 2, "100 % of the joints lie outside"),
     (lambda xy: [v / SIZE for v in xy], "pixels, not shares")],
)  # fmt: skip
def test_joints_that_cannot_be_meant_are_told_of(
    change: Callable, said: str, shapes: Path, tmp_path: Path, make: Callable,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def move(document: dict) -> None:
        for row in document["annotations"]:
            threes = zip(*[iter(row["keypoints"])] * 3, strict=True)
            row["keypoints"] = [v for x, y, flag in threes for v in (*change([x, y]), flag)]

    made = make("task=[detection,keypoints]", f"data.root={edited(shapes, tmp_path, move)}")
    with caplog.at_level(logging.WARNING):
        _ = made.data
    assert said in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _ = make("task=[detection,keypoints]").data
    assert "joint" not in caplog.text


def test_the_area_of_an_object_is_no_less_than_a_pixel(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    def shrink(document: dict) -> None:
        for row in document["annotations"]:
            row["area"] = 0.001

    split = open_split(edited(shapes, tmp_path, shrink), "train", "keypoints")
    assert split.sources["keypoints"].areas.min() >= 1


def test_joints_of_another_category_are_no_joints_of_this_one(
    shapes: Path, tmp_path: Path, make: Callable
) -> None:
    """The table of what each category has, which the losses read."""

    def add(document: dict) -> None:
        document["categories"].append({"id": 2, "name": "disc", "keypoints": ["centre", "rim"]})

    made = make("task=[detection,keypoints]", f"data.root={edited(shapes, tmp_path, add)}")
    task, space = made.tasks["keypoints"], made.spec.space(KeypointAsk)
    assert task.has.sum(1).tolist() == [len(joints) for joints in space.joints]
    assert sorted(task.has.sum(1).tolist()) == [2, 13]


def test_objects_without_joints_teach_boxes_only(make: Callable) -> None:
    """The loss counts the anchors of objects that have some."""
    made = make("task=[detection,keypoints]")
    batch = made.batch(8)
    outputs = made.model.train()(batch.images)
    upstream = Upstream(made.tasks["detection"].shares(outputs["detection"]))
    _, matches = made.tasks["detection"].loss(outputs["detection"], batch, upstream)
    upstream.add(matches)
    losses, _ = made.tasks["keypoints"].loss(outputs["keypoints"], batch, upstream)
    objects, joints = batch.labels["objects"], batch.labels["keypoints"]
    having = {(i, k) for i, k in zip(joints.image.tolist(), joints.keys.tolist(), strict=True)}
    place = zip(objects.image.tolist(), objects.keys.tolist(), strict=True)
    owners = [pair in having for pair in place]
    matched = [owners[row] for row in matches.target.tolist()]
    assert 0 < sum(matched) < len(matched)
    assert all(int(mean.count) == sum(matched) for mean in losses.values())


def learnt(made: Any, batch: Any) -> tuple[Any, dict, Upstream]:
    """The task, raw outputs of which the matched anchors say the truth, and the matches."""
    task, outputs = made.tasks["keypoints"], made.model.train()(batch.images)
    upstream = Upstream(made.tasks["detection"].shares(outputs["detection"]))
    _, matches = made.tasks["detection"].loss(outputs["detection"], batch, upstream)
    upstream.add(matches)
    objects, truth = batch.labels["objects"], batch.labels["keypoints"]
    rows = find_objects(objects, truth.image, truth.keys)[matches.target]
    raw = {name: torch.zeros_like(value) for name, value in outputs["keypoints"].items()}
    cells, own = matches.cells, task.head.of_anchors(raw)
    for index in (rows >= 0).nonzero().squeeze(1).tolist():
        name = cells.levels[cells.level[index]]
        joints = truth.joints[rows[index]]
        centre = (torch.stack([cells.x[index], cells.y[index]]) + 0.5) * task.head.strides[name]
        size = made.tasks["detection"].head.anchors[cells.level[index], cells.anchor[index]]
        said = torch.cat([(joints[:, :2] - centre) / size, (joints[:, 2:] > 0) * 80.0 - 40], 1)
        place = cells.image[index], cells.anchor[index], cells.y[index], cells.x[index]
        own[name][place] = torch.cat([said.flatten(), torch.tensor([40.0])])  # as similar as can be
    return task, raw, upstream


def test_where_the_network_says_the_truth_nothing_is_to_be_learnt(make: Callable) -> None:
    made = make("task=[detection,keypoints]", "augment=none")
    batch = made.batch(4)
    task, raw, upstream = learnt(made, batch)
    losses, _ = task.loss(raw, batch, upstream)
    assert losses["similarity"].count > 0
    for mean in losses.values():
        assert float(mean.total) == pytest.approx(0, abs=1e-3)


def test_fields_move_the_first_guess_step_by_step(make: Callable) -> None:
    """Truth that is off by two steps along a field: the last guess is right, the others are not."""
    made = make("task=[detection,keypoints]", "augment=none")
    batch = made.batch(4)
    task, raw, upstream = learnt(made, batch)
    step = torch.tensor([3.0, -2.0])
    truth = batch.labels["keypoints"]

    def losses(off: torch.Tensor) -> tuple[float, float]:
        moved = torch.cat([truth.joints[..., :2] + off, truth.joints[..., 2:]], -1)
        batch.labels["keypoints"] = replace(truth, joints=moved)
        found, _ = task.loss(raw, batch, upstream)
        return float(found["similarity"].total), float(found["distance"].total)

    still = [losses(left * step) for left in range(1 + STEPS)]  # all guesses are this far off
    level, stride = list(task.head.strides.items())[1]
    task.head.fields(raw)[level] += (step / stride)[:, None, None]
    similarity, distance = losses(STEPS * step)
    assert still[1][0] > 1
    assert similarity == pytest.approx(0, abs=1e-3)
    assert distance == pytest.approx(sum(each for _, each in still) / (1 + STEPS))


def linear(like: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """(B, K, 2, H, W) fields that grow with x, each image and joint by a slope (B, K)."""
    across = torch.arange(like.shape[-1]) + 0.5
    return slope[:, :, None, None, None] * across.expand_as(like)


def test_fields_are_read_of_the_own_image_where_the_joint_was_guessed(make: Callable) -> None:
    """With fields that are different everywhere; errors and their mean as one computes by hand."""
    made = make("task=[detection,keypoints]", "augment=none")
    batch = made.batch(4)
    task, raw, upstream = learnt(made, batch)
    level, stride = next(iter(task.head.strides.items()))
    field = task.head.fields(raw)[level]
    slope = torch.linspace(0.01, 0.2, 4)[:, None] * torch.linspace(1, 2, field.shape[1])
    field += linear(field, slope)
    losses, _ = task.loss(raw, batch, upstream)
    matches, truth = upstream[Matches], batch.labels["keypoints"]
    rows = find_objects(batch.labels["objects"], truth.image, truth.keys)[matches.target]
    similarity, distance, count = 0.0, 0.0, 0
    for row in rows[rows >= 0].tolist():
        known = truth.joints[row, :, 2] > 0
        x = truth.joints[row, known, 0]
        sigma = task.sigmas[truth.labels[row], known]
        off = torch.zeros_like(x)  # of the first guess
        count += 1
        for _ in range(STEPS if known.any() else 0):
            off = off + slope[truth.image[row], known] * (x + off).clamp(
                stride / 2, SIZE - stride / 2
            )
            error = 2 * off.square() / truth.areas[row]
            distance += float(((1 + error / 0.22**2).sqrt() - 1).mean()) / (1 + STEPS)
        if known.any():
            similarity += float((1 - (-error / (8 * sigma**2)).exp()).mean())
    assert int(losses["similarity"].count) == count
    assert float(losses["similarity"].total) == pytest.approx(similarity, rel=1e-3)
    assert float(losses["distance"].total) == pytest.approx(distance, rel=1e-3)


def test_the_steps_do_not_teach_where_to_look(make: Callable) -> None:
    """Fields are learnt where they are read; no guess learns what they are like beside it."""
    made = make("task=[detection,keypoints]", "augment=none")
    batch = made.batch(4)
    task, raw, upstream = learnt(made, batch)
    field = task.head.fields(raw)["p4"]
    field += linear(field, torch.full(field.shape[:2], 0.3)) - 0.3 * field.shape[-1] / 2
    raw = {name: value.requires_grad_() for name, value in raw.items()}
    cells = upstream[Matches].cells
    first, _ = task._first(raw, cells, upstream)
    guesses = task._guesses(raw, first[..., :2], cells.image)
    assert len(guesses) == 1 + STEPS
    guesses[1:].sum().backward()
    for name, stride in task.head.strides.items():
        assert not raw[name].grad[:, : task.head.at_anchors].any()
        read = raw[name].grad[:, task.head.at_anchors :].sum() / stride
        assert float(read) == pytest.approx(guesses[1:].numel())  # x and y of each, weight 1


def test_what_is_kept_is_the_last_guess(make: Callable) -> None:
    made = make("task=[detection,keypoints]", "augment=none")
    task, detection = made.tasks["keypoints"], made.tasks["detection"]
    outputs = made.model.eval()(made.batch(2, training=False).images)
    upstream = Upstream(detection.shares(outputs["detection"]))
    kept = detection.keep(outputs["detection"], upstream)
    upstream.add(kept)
    raw = {name: torch.zeros_like(value) for name, value in outputs["keypoints"].items()}
    for index, anchors in enumerate(task.head.of_anchors(raw).values()):
        anchors[..., -1] = index - 1.0
    kept_first = task.keep(raw, upstream)
    torch.testing.assert_close(kept_first.quality, (kept.cells.level - 1.0).sigmoid())
    first = kept_first.joints
    strides = torch.tensor(list(task.head.strides.values()))[kept.cells.level]
    centres = (torch.stack([kept.cells.x, kept.cells.y], 1) + 0.5) * strides[:, None]
    torch.testing.assert_close(first[..., :2], centres[:, None].expand_as(first[..., :2]))
    task.head.fields(raw)["p4"][:, 3] += 0.5
    last = task.keep(raw, upstream).joints
    assert len(last) > 0
    moved = torch.zeros_like(first)
    moved[:, 3, :2] = STEPS * 0.5 * task.head.strides["p4"]
    torch.testing.assert_close(last, first + moved)


def test_joints_that_a_category_does_not_have_teach_nothing(make: Callable) -> None:
    """Where another category has more: the loss is that of the joints that are there."""
    made = make("task=[detection,keypoints]", "augment=none")
    batch = made.batch(4)
    task, raw, upstream = learnt(made, batch)
    raw = {name: value + torch.randn_like(value) for name, value in raw.items()}
    truth = batch.labels["keypoints"]
    few = task.head.joints - 4
    joints = truth.joints.clone()
    joints[:, few:] = 0  # as a category with fewer joints is batched
    batch.labels["keypoints"] = replace(truth, joints=joints)
    task.has[:, few:] = 0

    def losses() -> dict[str, float]:
        return {
            name: float(mean.total) for name, mean in task.loss(raw, batch, upstream)[0].items()
        }

    before = losses()
    for name, anchors in task.head.of_anchors(raw).items():
        anchors[..., :-1].unflatten(4, (task.head.joints, 3))[..., few:, :] += 3.0
        task.head.fields(raw)[name][:, few:] += 1.0
    assert losses() == pytest.approx(before)
    task.has[:, few:] = 1
    assert losses()["visibility"] != pytest.approx(before["visibility"])


def test_similarity_is_what_coco_measures(make: Callable, coco_mini: Path) -> None:
    """One object whose joints are off by a known distance, against pycocotools."""
    made = make("task=[detection,keypoints]", "augment=none")
    batch = made.batch(4)
    task, raw, upstream = learnt(made, batch)
    truth = batch.labels["keypoints"]
    shift = 2.5
    moved = replace(truth, joints=truth.joints + torch.tensor([shift, 0, 0]))
    batch.labels["keypoints"] = moved
    losses, _ = task.loss(raw, batch, upstream)
    spread = 2 * truth.areas[:, None] * (2 * task.sigmas[truth.labels]) ** 2
    each = (-(shift**2) / spread).exp()
    known = truth.joints[..., 2] > 0
    oks = [float(e[k].mean()) for e, k in zip(each, known, strict=True)]
    objects = batch.labels["objects"]
    rows = find_objects(objects, truth.image, truth.keys)[upstream[Matches].target]
    expected = sum(1 - oks[row] for row in rows.tolist() if row >= 0)
    assert float(losses["similarity"].total) == pytest.approx(expected, rel=1e-3)
    ground, found = COCO(), []
    size = {"height": 64, "width": 64}
    row, joints = 0, truth.joints[0].clone()
    flat = joints.flatten().tolist()
    ground.dataset = {
        "images": [{"id": 1, **size}], "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "keypoints": flat,
                         "area": float(truth.areas[row]), "bbox": [0, 0, 9, 9],
                         "num_keypoints": int(known[row].sum())}],
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        ground.createIndex()
        joints[:, 0] += shift
        found = [
            {"image_id": 1, "category_id": 1, "keypoints": joints.flatten().tolist(), "score": 1}
        ]
        evaluation = COCOeval(ground, ground.loadRes(found), "keypoints")
        evaluation.params.kpt_oks_sigmas = task.sigmas[truth.labels[row]].numpy()
        evaluation.evaluate()
    assert float(evaluation.ious[1, 1][0, 0]) == pytest.approx(oks[row], rel=1e-4)


def test_quality_learns_the_similarity_of_the_joints_and_teaches_them_nothing(
    make: Callable,
) -> None:
    """Joints off by a tenth of the size: the slope of the cross-entropy is probability − OKS."""
    made = make("task=[detection,keypoints]", "augment=none")
    batch = made.batch(4)
    task, raw, upstream = learnt(made, batch)
    truth = batch.labels["keypoints"]
    off = (truth.areas.sqrt() * 0.1)[:, None, None] * torch.tensor([1.0, 0.0, 0.0])
    moved = replace(truth, joints=truth.joints + off)
    moved.joints[0, :, 2] = 0  # joints of which none is known say nothing
    batch.labels["keypoints"] = moved
    for anchors in task.head.of_anchors(raw).values():
        anchors[..., -1] = 1
    raw = {name: value.requires_grad_() for name, value in raw.items()}
    losses, _ = task.loss(raw, batch, upstream)
    losses["quality"].total.backward()
    slopes = torch.cat([
        anchors[..., -1].flatten()
        for anchors in task.head.of_anchors({n: v.grad for n, v in raw.items()}).values()
    ])  # fmt: skip
    rows = find_objects(batch.labels["objects"], truth.image, truth.keys)
    rows = rows[upstream[Matches].target]
    expected = 0.0
    for row in rows[rows > 0].tolist():
        known = truth.joints[row, :, 2] > 0
        sigma = task.sigmas[truth.labels[row], known]
        if known.any():
            oks = (-0.01 / (8 * sigma**2)).exp().mean()
            expected += float(torch.tensor(1.0).sigmoid() - oks)
    assert float(slopes.sum()) == pytest.approx(expected, rel=1e-3)
    rest = sum(float(value.grad.abs().sum()) for value in raw.values())
    assert rest == pytest.approx(float(slopes.abs().sum()), rel=1e-6)


def test_poses_stand_as_their_detections_and_score_with_their_quality(
    make: Callable, shapes: Path, open_split: Callable
) -> None:
    made = make("task=[detection,keypoints]", "augment=none")
    task = made.tasks["keypoints"]
    figure = int((task.classes >= 0).nonzero())
    image = torch.tensor([1, 0, 1])
    zero = torch.zeros(3, dtype=torch.long)
    kept = Kept(
        torch.zeros(3, 4), torch.tensor([0.9, 0.8, 0.5]), zero + figure,
        Cells(image, zero, zero, zero, zero, task.head.levels),
    )  # fmt: skip
    split = open_split(shapes, "val", "keypoints")
    source = split.sources["keypoints"]
    ids = source.images.ids.tolist()[:2]
    metas = [ImageMeta(i, "", 64, 64, letterbox(64, 64, 64)) for i in ids]
    joints = torch.rand(3, task.head.joints, 3)
    poses = Poses(joints, torch.tensor([0.2, 0.5, 0.8]))
    found = task.finish(poses, Batch(torch.zeros(2, 3, 64, 64), metas), Upstream([kept]))
    torch.testing.assert_close(found[1].scores, torch.tensor([0.9, 0.5]))
    torch.testing.assert_close(found[1].quality, torch.tensor([0.2, 0.8]))
    torch.testing.assert_close(found[1].joints[..., 2], joints[[0, 2], :, 2])
    assert found[1].above(0.6).quality.tolist() == pytest.approx([0.2])
    metric = CocoKeypointAP(source)
    metric.update(found, metas)
    scores = [row["score"] for _, rows in sorted(metric.records.items()) for row in rows]
    assert scores == pytest.approx([0.4, 0.18, 0.4])


def test_what_is_found_is_in_original_pixels_of_categories_with_joints(make: Callable) -> None:
    made = make("task=[detection,keypoints]", "augment=none")
    task = made.tasks["keypoints"]
    figure = int((task.classes >= 0).nonzero())
    labels = torch.tensor([figure, (figure + 1) % len(task.classes)])
    zero = torch.zeros(2, dtype=torch.long)
    kept = Kept(
        torch.zeros(2, 4), torch.tensor([0.9, 0.8]), labels,
        Cells(zero, zero, zero, zero, zero, task.head.levels),
    )  # fmt: skip
    meta = ImageMeta(1, "", 100, 200, letterbox(100, 200, 64))
    joints = torch.rand(2, task.head.joints, 3)
    origin = torch.rand(task.head.joints, 2) * torch.tensor([200, 100])
    joints[0, :, :2] = torch.from_numpy(move_points(origin.numpy(), meta.transform))
    poses = Poses(joints, torch.ones(2))
    (found,) = task.finish(poses, Batch(torch.zeros(1, 3, 64, 64), [meta]), Upstream([kept]))
    assert len(found.scores) == 1
    torch.testing.assert_close(found.joints[0, :, :2], origin, rtol=1e-4, atol=1e-3)


def test_a_pixel_has_its_centre_in_the_middle(coco_mini: Path, open_split: Callable) -> None:
    """The first column of a mirror image is the last one of the image."""
    split = open_split(coco_mini, "val2017", "keypoints")
    source = split.sources["keypoints"]
    document = json.loads(source.file.read_text())
    row = next(r for r in document["annotations"] if r["num_keypoints"])
    place = source.images.ids.tolist().index(row["image_id"])
    joints = source.read(place).joints[..., :2].reshape(-1, 2).tolist()
    x, y = next((x, y) for x, y, v in zip(*[iter(row["keypoints"])] * 3, strict=True) if v)
    assert [x + 0.5, y + 0.5] in joints


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["nose", "left_eye", "right_eye"], True),
        (["left_eye", "right_eye", "l_knee", "r_knee"], False),
        (["left_eye", "right_eye", "kneeLeft", "kneeRight"], False),
        (["left_eye", "right_eye", "wrist_left", "wrist_right"], False),
        (["left_eye", "right_knee"], False),
        (["nose", "tail"], False),
    ],
)
def test_names_say_what_a_mirror_does_or_nobody_does(names: list[str], known: bool) -> None:
    assert bool(Category(id=1, name="a", keypoints=names).flip()) == known


def test_joints_belong_to_one_object_of_their_category(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    root = edited(shapes, tmp_path, lambda d: None)
    file = root / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    joints = json.loads((root / "annotations" / "person_keypoints_val.json").read_text())
    owner = next(r for r in document["annotations"] if r["id"] == first(joints)["id"])
    before = owner["category_id"]
    owner["category_id"] = next(c["id"] for c in document["categories"] if c["id"] != before)
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match="use the same category ids"):
        open_split(root, "val", "keypoints")
    owner["category_id"] = before
    other = next(
        r for r in document["annotations"]
        if r["image_id"] == owner["image_id"] and r["id"] != owner["id"]
    )  # fmt: skip
    other["id"] = owner["id"]
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match="no object, or several, of this id"):
        open_split(root, "val", "keypoints")


def test_joints_far_away_are_drawn_as_far_as_the_picture_goes() -> None:
    canvas = Canvas(np.zeros((40, 60, 3), np.uint8))
    points = np.array([[1e12, -1e12], [5, 5], [np.nan, 3], [np.inf, 4]])
    canvas.skeleton(points, np.ones(4, bool), ((0, 1), (1, 2), (2, 3)), 0)
    assert canvas.picture().any()


def test_sizes_that_no_object_has_score_nothing(shapes: Path, open_split: Callable) -> None:
    """Whether something was found or not."""
    split = open_split(shapes, "val", "keypoints")
    none = torch.zeros(0)
    nothing = Keypoints(none, none.long(), torch.zeros(0, 13, 3), none)
    scores = [
        feed(CocoKeypointAP(split.sources["keypoints"]), split, read)
        for read in (lambda i: nothing, lambda i: split.result("keypoints", i))
    ]
    assert scores[0]["AP"] == 0
    for name in NAMES:
        assert np.isnan(scores[0][name]) == np.isnan(scores[1][name]), name
    assert np.isnan(scores[0]["APl"])


def test_an_area_of_nothing_is_that_of_the_box(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    """Distances are measured by it."""
    root = edited(shapes, tmp_path, lambda d: [r.update(area=0) for r in d["annotations"]])
    split = open_split(root, "val", "keypoints")
    metric = CocoKeypointAP(split.sources["keypoints"])
    assert feed(metric, split, lambda i: split.result("keypoints", i))["AP"] == pytest.approx(1)
    assert (split.sources["keypoints"].areas > 1).all()
