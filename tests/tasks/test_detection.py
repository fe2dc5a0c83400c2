"""Detection: what the loss rewards, decoding undoes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss

from tasks.detection import Detection
from unified.batch import Batch
from unified.errors import ConfigError, DataError
from unified.kinds.objects import ObjectSpace, ObjectTargets
from unified.ops.dense import Cells, DenseBoxes, Matches, Suppression, candidates
from unified.ops.matching import match
from unified.task import DataSpec, Upstream
from unified.trunks.features import Level
from unified.view import ImageMeta, View, letterbox
from unified.weighting.values import values_of

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
    boxes, _, cells = candidates(dense)
    for index, level in enumerate(dense.raw.values()):
        own = cells[:, 0] == index
        per_anchor_boxes = boxes[:, own].view(3, task.head.per_cell, -1, 4)
        best = level[..., 4].flatten(2).argmax(1)
        wanted = per_anchor_boxes.gather(1, best[:, None, :, None].expand(-1, -1, -1, 4))[:, 0]
        which = level[..., 4].argmax(1)
        torch.testing.assert_close(dense.per_cell(index, which), wanted)
    # Cells in any order, of all levels.
    order = torch.randperm(len(cells))
    level, anchor, y, x = cells[order].unbind(1)
    places = Cells(torch.full_like(level, 2), level, anchor, y, x, task.levels)
    found = places.gather(dense.raw)
    torch.testing.assert_close(dense.decode(found, places), boxes[2, order])


def test_cells_are_read_written_and_counted_level_by_level() -> None:
    """Against one cell after the other; a level is never written by cells of another."""
    generator = torch.Generator().manual_seed(0)
    maps = {"p3": torch.rand(2, 3, 8, 6, 5), "p4": torch.rand(2, 3, 4, 3, 5)}
    places = []
    for _ in range(40):
        level = int(torch.randint(2, (), generator=generator))
        size = list(maps.values())[level].shape[:4]
        places.append([level, *(int(torch.randint(n, (), generator=generator)) for n in size)])
    level, image, anchor, y, x = torch.tensor(places).unbind(1)
    cells = Cells(image, level, anchor, y, x, tuple(maps))
    values = torch.rand(len(places), generator=generator)
    wanted = {name: torch.zeros(level.shape[:4]) for name, level in maps.items()}
    for (index, *place), value in zip(places, values, strict=True):
        goal = list(wanted.values())[index]
        goal[tuple(place)] = max(goal[tuple(place)], value)
    spread = cells.spread(values, maps)
    assert all(torch.equal(spread[name], goal) for name, goal in wanted.items())
    read = [list(maps.values())[index][tuple(place)] for index, *place in places]
    assert torch.equal(cells.gather(maps), torch.stack(read))
    own = [
        sum(v for (level, *_), v in zip(places, values, strict=True) if level == n) for n in (0, 1)
    ]
    torch.testing.assert_close(cells.per_level(values), torch.stack(own))
    flat = torch.cat([level.flatten(2, 3) for level in maps.values()], 2)
    assert torch.equal(flat[image, anchor, cells.flat(maps)], torch.stack(read))


def matched(box: list[float], anchor: float, cells: int) -> Matches:
    """Of one box and one anchor on one level of stride 8."""
    raw = {"p3": torch.zeros(1, 1, cells, cells, 4)}
    dense = DenseBoxes(raw, torch.full((1, 1, 2), anchor), torch.tensor([8.0]))
    one = torch.ones(1, dtype=torch.bool)
    return match(torch.tensor([box]), torch.zeros(1, dtype=torch.long), one, dense, 4.0)


def test_a_box_matches_its_cell_and_two_neighbours() -> None:
    found = matched([30.0, 42.0, 42.0, 54.0], 12.0, 16)  # centre (36, 48): cell (4.5, 6.0)
    cells = set(zip(found.cells.x.tolist(), found.cells.y.tolist(), strict=True))
    assert cells == {(4, 6), (5, 6), (4, 5)}


@pytest.mark.parametrize(
    ("side", "anchor", "count"),
    [(39.0, 10.0, 1), (41.0, 10.0, 0), (10.0, 39.0, 1), (10.0, 41.0, 0)],
)
def test_the_side_ratio_limits_matching(side: float, anchor: float, count: int) -> None:
    found = matched([50.0, 50.0, 50.0 + side, 50.0 + anchor], anchor, 16)
    assert (len(found.target) > 0) == bool(count)


def test_matches_are_those_of_one_box_and_cell_after_the_other() -> None:
    """On levels of several sizes, of inputs that are no squares, and with boxes not counted."""
    generator = torch.Generator().manual_seed(0)
    raw = {f"p{n}": torch.zeros(3, 2, 48 >> n, 80 >> n, 4) for n in (1, 2, 3)}
    anchors = torch.tensor([[[3.0, 3], [6, 4]], [[8, 8], [5, 12]], [[20, 16], [30, 30]]])
    dense = DenseBoxes(raw, anchors, torch.tensor([2.0, 4.0, 8.0]))
    corner = torch.rand(60, 2, generator=generator) * torch.tensor([78.0, 46.0])
    sides = torch.rand(60, 2, generator=generator).square() * 40 + 1
    edge = torch.tensor([80.0, 48.0])
    boxes = torch.cat([corner, (corner + sides).minimum(edge)], 1)
    image = torch.randint(3, (60,), generator=generator)
    counted = torch.rand(60, generator=generator) < 0.8
    found = match(boxes, image, counted, dense, 4.0)
    cells = found.cells
    each = (cells.level, cells.image, cells.anchor, cells.y, cells.x, found.target)
    wanted = []
    for index, (level, stride) in enumerate(zip(raw.values(), (2, 4, 8), strict=True)):
        height, width = level.shape[2:4]
        for target, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            x, y = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
            column, row = int(x), int(y)
            beside = column + (1 if x - column >= 0.5 else -1)
            above = row + (1 if y - row >= 0.5 else -1)
            for anchor, (w, h) in enumerate(anchors[index].tolist()):
                ratios = ((x2 - x1) / w, (y2 - y1) / h)
                if not counted[target] or max(max(r, 1 / r) for r in ratios) >= 4:
                    continue
                for c, r in ((column, row), (beside, row), (column, above)):
                    if 0 <= c < width and 0 <= r < height:
                        wanted.append((index, int(image[target]), anchor, r, c, target))
    assert sorted(zip(*(part.tolist() for part in each), strict=True)) == sorted(wanted)
    assert {place[0] for place in wanted} == {0, 1, 2}


def test_the_loss_is_that_of_one_anchor_after_the_other() -> None:
    """With a crowd over an object, an input without labels, and two boxes for an anchor."""
    task, size = make_task(64), 64
    task.level_balance = (3.0, 0.5, 0.2)
    torch.manual_seed(0)
    outputs = {
        name: torch.randn(3, 3 * 8, size // level.stride, size // level.stride) / 3
        for name, level in FEATURES.items()
    }
    boxes = torch.tensor(
        [[4.0, 4, 12, 11], [5, 5, 11, 12], [0, 0, 40, 40], [20, 24, 50, 48], [10, 10, 17, 18]]
    )
    image, crowd = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([False, False, True, False, False])
    targets = ObjectTargets(
        known=torch.tensor([True, True, False]), image=image, boxes=boxes,
        labels=torch.tensor([0, 2, 1, 1, 2]), crowd=crowd, identities=torch.arange(5),
        keys=torch.arange(5),
    )  # fmt: skip
    batch = Batch(torch.zeros(3, 3, size, size, dtype=torch.uint8), [], {"objects": targets})
    losses, matches = task.loss(outputs, batch, Upstream())
    (dense,) = task.shares(outputs)
    cells, seen = matches.cells, 0
    for index, name in enumerate(task.levels):
        raw, stride = dense.raw[name], FEATURES[name].stride
        goal = torch.zeros(raw.shape[:4])
        box, category, count = 0.0, 0.0, 0
        for row in (cells.level == index).nonzero().squeeze(1).tolist():
            place = cells.image[row], cells.anchor[row], cells.y[row], cells.x[row]
            said, target = raw[place], int(matches.target[row])
            assert not crowd[target]
            unit = said[:4].sigmoid()
            middle = (2 * unit[:2] - 0.5 + torch.stack([place[3], place[2]])) * stride
            half = (2 * unit[2:]).square() * task.head.anchors[index, place[1]] / 2
            own = complete_box_iou_loss(torch.cat([middle - half, middle + half]), boxes[target])
            box, count = box + float(own), count + 1
            goal[place] = max(float(goal[place]), 1 - float(own), 0.0)
            wanted = torch.zeros(3)
            wanted[targets.labels[target]] = 1
            category += float(F.binary_cross_entropy_with_logits(said[5:], wanted))
        seen += int((goal[0] > 0).sum())
        total, number = 0.0, 0
        for place in np.ndindex(*goal.shape):
            x, y = (place[3] + 0.5) * stride, (place[2] + 0.5) * stride
            hidden = place[0] == 0 and max(x, y) <= 40 and goal[place] == 0
            if place[0] < 2 and not hidden:
                one = F.binary_cross_entropy_with_logits(raw[(*place, 4)], goal[place])
                total, number = total + float(one), number + 1
        means = {
            "box": (box, count), "category": (category, count),
            "objectness": (task.level_balance[index] * total, number),
        }  # fmt: skip
        for part, (sum_, n) in means.items():
            assert float(losses[part].count[index]) == n
            assert float(losses[part].total[index]) == pytest.approx(sum_, rel=1e-4), part
    assert seen, "an anchor of an object within the crowd"


def test_cells_outside_of_the_image_are_left_out() -> None:
    for box, place in (([0.0, 0.0, 6.0, 6.0], 0), ([26.0, 26.0, 32.0, 32.0], 3)):
        found = matched(box, 6.0, 4)
        assert (found.cells.x.tolist(), found.cells.y.tolist()) == ([place], [place])


def ideal_outputs(task: Detection, batch: Batch) -> dict[str, torch.Tensor]:
    """Outputs that say exactly what the targets are, at every cell responsible for them."""
    outputs = empty_outputs()
    truth = batch.labels["objects"]
    (dense,) = task.shares(outputs)
    counted = torch.ones(len(truth.boxes), dtype=torch.bool)
    matches = match(truth.boxes, truth.image, counted, dense, 4.0)
    for index, (name, spec) in enumerate(FEATURES.items()):
        view = outputs[name].view(1, 3, 8, *outputs[name].shape[2:])
        view[:, :, 4:] = -12.0
        own = matches.cells.level == index
        cells, target = matches.cells.of(own), matches.target[own]
        boxes = truth.boxes[target]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / spec.stride
        unit_xy = (centre - torch.stack([cells.x, cells.y], 1) + 0.5) / 2
        sizes = task.head.anchors[index][cells.anchor]
        unit_wh = ((boxes[:, 2:] - boxes[:, :2]) / sizes).sqrt() / 2
        raw = torch.logit(torch.cat([unit_xy, unit_wh], 1).clamp(1e-6, 1 - 1e-6))
        view[0, cells.anchor, :4, cells.y, cells.x] = raw
        view[0, cells.anchor, 4, cells.y, cells.x] = 12.0
        view[0, cells.anchor, 5 + truth.labels[target], cells.y, cells.x] = 12.0
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


@pytest.mark.parametrize("levels", [1, 3, 4])
def test_objectness_is_balanced_over_as_many_levels_as_there_are(levels: int) -> None:
    features = {f"p{n}": Level(16, 2**n) for n in range(3, 3 + levels)}
    task = Detection(
        features,
        DataSpec(64, lambda kind, space: Boxes(np.random.default_rng(0).uniform(4, 60, (99, 2)))),
    )
    assert task.level_balance == (4.0, 1.0, 0.4, 0.1)[:levels]


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
