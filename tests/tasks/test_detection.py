"""Detection: what the loss rewards, decoding undoes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.detection import Detection
from unified.batch import Batch
from unified.errors import ConfigError, DataError
from unified.kinds.objects import ObjectSpace, ObjectTargets
from unified.ops.dense import Matches, Suppression, candidates, per_anchor
from unified.ops.matching import LevelMatch, match_level
from unified.task import DataSpec, Upstream
from unified.trunks.features import Level
from unified.view import ImageMeta, View, letterbox
from unified.weighting import values_of

FEATURES = {"p3": Level(16, 8), "p4": Level(16, 16), "p5": Level(16, 32)}
SPACE = ObjectSpace((3, 7, 9), ("a", "b", "c"))
ANCHORS = [
    [[10, 10], [16, 16], [20, 12]],
    [[30, 30], [40, 25], [25, 40]],
    [[60, 60], [90, 60], [60, 90]],
]


class Boxes:
    """A source of nothing but box sizes."""

    space = SPACE

    def __init__(self, sizes: np.ndarray) -> None:
        self.all = sizes

    def sizes(self, side: int) -> np.ndarray:
        return self.all


def make_task(size: int = 640, boxes: int = 200, **arguments: object) -> Detection:
    source = Boxes(np.random.default_rng(0).uniform(4, 60, (boxes, 2)))
    data = DataSpec(size, lambda kind, space: source)
    return Detection(FEATURES, data, **({"anchors": ANCHORS} | arguments))


def make_batch(boxes: list, labels: list, crowd: list | None = None, size: int = 128) -> Batch:
    count = len(boxes)
    objects = ObjectTargets(
        known=torch.ones(1, dtype=torch.bool),
        image=torch.zeros(count, dtype=torch.long),
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        crowd=torch.tensor(crowd or [False] * count, dtype=torch.bool),
        identities=torch.arange(count),
        keys=torch.arange(count),
    )
    images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    return Batch(images, [], {"objects": objects})


def losses_of(task: Detection, outputs: dict, batch: Batch) -> dict[str, torch.Tensor]:
    losses, _ = task.loss(outputs, batch, Upstream())
    return values_of({"detection": losses})[0]["detection"]


def empty_outputs(size: int = 128, fill: float = 0.0) -> dict[str, torch.Tensor]:
    return {
        name: torch.full((1, 3 * 8, size // spec.stride, size // spec.stride), fill)
        for name, spec in FEATURES.items()
    }


def test_boxes_of_all_anchors_are_those_that_are_decoded() -> None:
    """At matches, and at an anchor of each cell."""
    task = make_task(64)
    outputs = {
        name: torch.randn(3, 3 * 8, 64 // level.stride, 64 // level.stride)
        for name, level in FEATURES.items()
    }
    (dense,) = task.shares(outputs)
    raw = [per_anchor(outputs[level], task.head.per_cell) for level in task.levels]
    boxes, _, cells = candidates(raw, task.head.anchors, task.strides)
    for index, level in enumerate(raw):
        own = (cells[:, 0] == index).nonzero().squeeze(1)
        match = LevelMatch(torch.full_like(own, 2), *cells[own, 1:].T, own)
        torch.testing.assert_close(dense.at(index, match), boxes[2, own])
        per_anchor_boxes = boxes[:, own].view(3, task.head.per_cell, -1, 4)
        best = level[..., 4].flatten(2).argmax(1)
        wanted = per_anchor_boxes.gather(1, best[:, None, :, None].expand(-1, -1, -1, 4))[:, 0]
        which = level[..., 4].argmax(1)
        torch.testing.assert_close(dense.per_cell(index, which), wanted)


def test_a_box_matches_its_cell_and_two_neighbours() -> None:
    boxes = torch.tensor([[30.0, 42.0, 42.0, 54.0]])  # centre (36, 48): cell (4.5, 6.0) at stride 8
    match = match_level(
        boxes, torch.zeros(1, dtype=torch.long), torch.tensor([[12.0, 12.0]]), (16, 16), 8, 4.0
    )
    cells = set(zip(match.x.tolist(), match.y.tolist(), strict=True))
    assert cells == {(4, 6), (5, 6), (4, 5)}


@pytest.mark.parametrize(("side", "matched"), [(39.0, 1), (41.0, 0)])
def test_the_side_ratio_limits_matching(side: float, matched: int) -> None:
    boxes = torch.tensor([[50.0, 50.0, 50.0 + side, 60.0]])
    match = match_level(
        boxes, torch.zeros(1, dtype=torch.long), torch.tensor([[10.0, 10.0]]), (16, 16), 8, 4.0
    )
    assert (len(match.target) > 0) == bool(matched)


def test_cells_outside_of_the_image_are_left_out() -> None:
    boxes = torch.tensor([[0.0, 0.0, 6.0, 6.0]])
    match = match_level(
        boxes, torch.zeros(1, dtype=torch.long), torch.tensor([[6.0, 6.0]]), (4, 4), 8, 4.0
    )
    assert match.x.tolist() == [0]
    assert match.y.tolist() == [0]


def ideal_outputs(task: Detection, batch: Batch) -> dict[str, torch.Tensor]:
    """Outputs that say exactly what the targets are, at every cell responsible for them."""
    outputs = empty_outputs()
    for index, (name, spec) in enumerate(FEATURES.items()):
        outputs[name].view(1, 3, 8, *outputs[name].shape[2:])[:, :, 4:] = -12.0
        anchors = task.head.anchors[index]
        match = match_level(
            batch.labels["objects"].boxes,
            batch.labels["objects"].image,
            anchors,
            outputs[name].shape[2:],
            spec.stride,
            4.0,
        )
        view = outputs[name].view(1, 3, 8, *outputs[name].shape[2:])
        boxes = batch.labels["objects"].boxes[match.target]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / spec.stride
        cell = torch.stack([match.x, match.y], 1)
        unit_xy = (centre - cell + 0.5) / 2
        unit_wh = ((boxes[:, 2:] - boxes[:, :2]) / anchors[match.anchor]).sqrt() / 2
        raw = torch.logit(torch.cat([unit_xy, unit_wh], 1).clamp(1e-6, 1 - 1e-6))
        view[0, match.anchor, :4, match.y, match.x] = raw
        view[0, match.anchor, 4, match.y, match.x] = 12.0
        view[
            0, match.anchor, 5 + batch.labels["objects"].labels[match.target], match.y, match.x
        ] = 12.0
    return outputs


def test_the_ideal_output_costs_nothing_and_decodes_to_the_targets() -> None:
    task = make_task()
    boxes = [[10.0, 12.0, 40.0, 44.0], [70.0, 60.0, 120.0, 110.0], [80.0, 10.0, 92.0, 22.0]]
    batch = make_batch(boxes, [0, 2, 1])
    outputs = ideal_outputs(task, batch)
    losses = losses_of(task, outputs, batch)
    assert all(float(v) < 1e-3 for v in losses.values()), losses
    kept = task.keep(outputs, Upstream())
    assert len(kept.boxes) == 3
    order = kept.labels.argsort()
    expected = batch.labels["objects"].boxes[[0, 2, 1]]
    torch.testing.assert_close(kept.boxes[order], expected, atol=1e-2, rtol=1e-3)
    assert kept.labels[order].tolist() == [0, 1, 2]
    assert (kept.scores > 0.99).all()


def test_matches_are_published_with_batch_indices() -> None:
    task = make_task()
    batch = make_batch([[0, 0, 120, 120], [30, 30, 60, 60]], [0, 1], [True, False])
    _, matches = task.loss(empty_outputs(), batch, Upstream())
    assert isinstance(matches, Matches)
    assert len(matches.target) > 0
    assert set(matches.target.tolist()) == {1}


def test_crowds_are_neither_targets_nor_background() -> None:
    task = make_task()
    crowd = make_batch([[0, 0, 128, 128]], [0], [True])
    for fill in (-5.0, 5.0):
        losses = losses_of(task, empty_outputs(fill=fill), crowd)
        assert float(losses["objectness"]) == 0
        assert float(losses["box"]) == 0
    half = make_batch([[0, 0, 64, 128]], [0], [True])
    outputs = empty_outputs(fill=-5.0)
    before = float(losses_of(task, outputs, half)["objectness"])
    for tensor in outputs.values():
        tensor[..., : tensor.shape[-1] // 2] = 5.0  # loud, but only inside of the crowd
    assert float(losses_of(task, outputs, half)["objectness"]) == pytest.approx(before)


def test_candidates_are_capped_before_suppression(monkeypatch: pytest.MonkeyPatch) -> None:
    import unified.ops.dense as module

    sizes = []
    real = module.batched_nms
    monkeypatch.setattr(module, "batched_nms", lambda b, *a: sizes.append(len(b)) or real(b, *a))
    boxes, scores = torch.rand(2, 5000, 4).cumsum(2) * 100, torch.rand(2, 5000, 3)
    cells = torch.zeros(5000, 4, dtype=torch.long)
    kept = Suppression(0.001, 50, 0.6, 7).keep(boxes, scores, cells, ("p3",))
    assert sizes == [50, 50]
    assert torch.bincount(kept.cells.image, minlength=2).max() <= 7


def test_two_boxes_that_claim_one_anchor_give_the_better_quality() -> None:
    """Order of the annotations must not matter."""
    task = make_task()
    boxes = [[30.0, 30.0, 60.0, 60.0], [28.0, 30.0, 62.0, 58.0]]
    outputs = {k: torch.randn_like(v) for k, v in empty_outputs().items()}
    one = losses_of(task, outputs, make_batch(boxes, [0, 0]))
    two = losses_of(task, outputs, make_batch(boxes[::-1], [0, 0]))
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_anchors_scale_with_the_input_and_can_be_learnt_from_boxes() -> None:
    fixed = make_task(size=320).head.anchors
    torch.testing.assert_close(fixed * 2, torch.tensor(ANCHORS, dtype=torch.float32))
    auto = make_task(anchors="auto").head.anchors
    assert auto.shape == (3, 3, 2)
    areas = auto.prod(2).flatten()
    assert (areas.diff() >= 0).all()


def test_loss_weights_follow_the_size_of_input_and_label_space() -> None:
    task = make_task(size=320, loss_weights={"box": 0.05, "objectness": 0.7, "category": 0.8})
    expected = {"box": 0.05, "objectness": 0.7 / 4, "category": 0.8 * 3 / 80}
    assert task.loss_weights == pytest.approx(expected)


@pytest.mark.parametrize(
    "arguments", [{"anchors": "best"}, {"anchors": [[[1, 2]]]}, {"level_balance": [1.0]}]
)
def test_impossible_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="fix:"):
        make_task(**arguments)


def test_too_few_boxes_for_anchors_are_refused() -> None:
    with pytest.raises(DataError, match="anchors=auto"):
        make_task(boxes=3, anchors="auto")


def test_predictions_are_in_the_original_image() -> None:
    """Outputs that say what the letterboxed targets are decode to the annotations' own boxes."""
    task, height, width = make_task(), 150, 300
    truth = np.array([[10, 10, 90, 130], [150, 20, 180, 50], [230, 80, 290, 140]], np.float32)
    labels = [2, 0, 1]
    matrix = letterbox(height, width, 128)
    batch = make_batch(View(matrix, 128).boxes(truth).tolist(), labels)
    batch.metas.append(ImageMeta(1, "", height, width, matrix))
    kept = task.keep(ideal_outputs(task, batch), Upstream())
    (found,) = task.finish(kept, batch, Upstream())
    for box, label in zip(torch.from_numpy(truth), labels, strict=True):
        best = (found.boxes - box).abs().amax(1).argmin()
        torch.testing.assert_close(found.boxes[best], box, atol=0.05, rtol=0)
        assert found.labels[best] == label
