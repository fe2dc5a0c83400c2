"""Instance segmentation: coefficients at anchors, the loss on boxes, masks at the original size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from unified.errors import ConfigError, DataError
from unified.kinds.objects import find_objects
from unified.ops.dense import Cells
from unified.ops.masks import encode_inside, mask_loss
from unified.view import ImageMeta, letterbox


def test_cells_gather_what_lies_there() -> None:
    maps = {"p3": torch.rand(2, 2, 8, 8, 3), "p4": torch.rand(2, 2, 4, 4, 3)}
    cells = Cells(
        image=torch.tensor([0, 1, 1]),
        level=torch.tensor([0, 1, 0]),
        anchor=torch.tensor([1, 0, 1]),
        y=torch.tensor([2, 3, 7]),
        x=torch.tensor([5, 0, 1]),
        levels=("p3", "p4"),
    )
    p3, p4 = maps["p3"], maps["p4"]
    expected = torch.stack([p3[0, 1, 2, 5], p4[1, 0, 3, 0], p3[1, 1, 7, 1]])
    assert torch.equal(cells.gather(maps), expected)
    maps["p3"] = maps["p3"].bfloat16()  # autocast, and a code on one level only
    torch.testing.assert_close(cells.gather(maps), expected, atol=0.01, rtol=0.01)


def dense_masks(logits: torch.Tensor, boxes: torch.Tensor, meta: ImageMeta, stride: int):
    """The same by enlarging every map to the whole image and cropping."""
    matrix, size = torch.as_tensor(meta.transform), logits.shape[-1] * stride
    x, y = torch.arange(meta.width) + 0.5, torch.arange(meta.height) + 0.5
    u = (x * matrix[0, 0] + matrix[0, 2]) / size * 2 - 1
    v = (y * matrix[1, 1] + matrix[1, 2]) / size * 2 - 1
    grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).float()
    sampled = F.grid_sample(
        logits[:, None], grid.expand(len(logits), -1, -1, -1), padding_mode="border",
        align_corners=False,
    )[:, 0]  # fmt: skip
    across = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
    down = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
    return sampled, down[:, :, None] & across[:, None]


@pytest.mark.parametrize("chunk", [8_000_000, 700])
@pytest.mark.parametrize("shape", [(48, 64), (90, 31), (200, 150)])
def test_masks_are_those_of_enlarging_everything(
    shape: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unified.ops.masks.CHUNK", chunk)
    torch.manual_seed(0)
    meta = ImageMeta(1, "", *shape, letterbox(*shape, 64))
    limit = torch.tensor([shape[1], shape[0]])
    corners = (torch.rand(12, 2, 2) * 1.4 - 0.2).sort(1).values * limit
    boxes = corners.flatten(1).clamp(min=0).minimum(limit.repeat(2))
    boxes[0] = torch.tensor([0.0, 0.0, *limit])  # all of the image
    boxes[1, 2:] = boxes[1, :2]  # nothing
    logits = torch.randn(12, 16, 16)
    logits[0] = 1.0
    sampled, inside = dense_masks(logits, boxes, meta, 4)
    rles = encode_inside(logits, boxes, 4, meta)
    assert len(rles) == 12
    for rle, values, box in zip(rles, sampled, inside, strict=True):
        mask = torch.from_numpy(coco_mask.decode(rle)).bool()
        assert mask.shape == shape
        assert coco_mask.area(rle) == mask.sum()
        unsure = values.abs() < 1e-4
        assert torch.equal(mask & ~unsure, (values > 0) & box & ~unsure)
    assert coco_mask.area(rles[0]) == shape[0] * shape[1]
    assert coco_mask.area(rles[1]) == 0
    assert encode_inside(logits[:0], boxes[:0], 4, meta) == []


def loss_of(scale: float, boxes: list[list[float]], masks: torch.Tensor) -> float:
    """One prototype: 1 in the left half of the map, −1 in the right, times `scale`."""
    prototype = torch.where(torch.arange(16) < 8, 1.0, -1.0).expand(1, 1, 16, 16)
    count = len(boxes)
    rows = torch.where(masks.flatten(1).amax(1) > 0, torch.arange(count), -1)
    loss = mask_loss(
        prototype, torch.full((count, 1), scale), torch.arange(count), rows,
        torch.tensor(boxes), torch.zeros(count, dtype=torch.long), masks, 4, 14,
    )  # fmt: skip
    return float(loss.total / loss.count.clamp(min=1))


def test_the_loss_on_cases_that_fit_on_paper() -> None:
    left = torch.zeros(1, 16, 16, dtype=torch.uint8)
    left[:, :, :8] = 255
    box = [[0.0, 0.0, 64.0, 64.0]]
    assert loss_of(0, box, left) == pytest.approx(np.log(2), rel=1e-5)
    assert loss_of(60, box, left) < 0.05  # the seam is sampled between two cells
    assert loss_of(-60, box, left) > 20
    assert loss_of(60, box, left * 0) == 0  # no mask, no cost


def test_the_loss_weighs_objects_alike_whatever_their_size() -> None:
    """All wrong in a small box and right in a large one is half of all wrong."""
    masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    masks[1, :, 8:] = 255  # where the prototype says no
    masks[0, :, :8] = 255
    large, small = [0.0, 0.0, 32.0, 64.0], [40.0, 8.0, 48.0, 16.0]
    wrong = loss_of(30, [small], masks[1:])
    assert wrong == pytest.approx(30, rel=1e-3)
    assert loss_of(30, [large, small], masks) == pytest.approx(wrong / 2, rel=0.02)


def test_the_loss_is_the_mean_over_anchors_of_every_image() -> None:
    """Several anchors per object, several images: as one after the other."""
    torch.manual_seed(0)
    prototypes, coefficients = torch.randn(3, 5, 16, 16), torch.randn(9, 5)
    target = torch.tensor([2, 0, 2, 3, 0, 2, 1, 3, 2])
    corners = (torch.rand(4, 2, 2) * 64).sort(1).values
    boxes, image = corners.flatten(1) + torch.tensor([0, 0, 4.0, 4.0]), torch.tensor([0, 2, 1, 1])
    masks = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    rows = torch.tensor([1, 0, 2, -1])  # of the masks, for every object; the last has none

    def one(anchor: int, owner: int) -> torch.Tensor:
        loss = mask_loss(
            prototypes[image[owner]][None], coefficients[anchor][None], torch.zeros(1).long(),
            torch.zeros(1).long(), boxes[owner][None], torch.zeros(1).long(),
            masks[rows[owner]][None], 4, 7,
        )  # fmt: skip
        return loss.total / loss.count

    together = mask_loss(prototypes, coefficients, target, rows, boxes, image, masks, 4, 7)
    apart = [one(a, o) for a, o in enumerate(target.tolist()) if o != 3]
    torch.testing.assert_close(together.total / together.count, torch.stack(apart).mean())


def test_every_detection_has_a_mask_inside_its_box(make: Callable) -> None:
    made = make("task=[detection,instance]", "task.detection.min_score=0.0")
    batch = made.batch(3, training=False)
    with torch.no_grad():
        found = made.model.eval().decode(made.model(batch.images), batch)
    for detections, masks, meta in zip(
        found["detection"], found["instance"], batch.metas, strict=True
    ):
        assert torch.equal(detections.boxes, masks.boxes)
        assert torch.equal(detections.scores, masks.scores)
        dense = masks.dense()
        assert dense.shape == (len(detections.boxes), meta.height, meta.width)
        assert dense.any()
        for mask, box in zip(dense, detections.boxes.tolist(), strict=True):
            y, x = np.nonzero(mask)
            if len(x):
                assert x.min() >= box[0] - 0.5
                assert x.max() + 1 <= box[2] + 0.5
                assert y.min() >= box[1] - 0.5
                assert y.max() + 1 <= box[3] + 0.5


def test_coefficients_follow_the_anchors_of_detection(make: Callable) -> None:
    """Detection publishes how many there are; no configuration says it twice."""
    for count in (2, 3):
        made = make("task=[detection,instance]", f"task.detection.per_level={count}")
        assert (
            made.tasks["instance"].head.per_cell == made.tasks["detection"].head.per_cell == count
        )
        made.module().training_step(made.batch(4), 0).backward()


def test_masks_meet_the_objects_they_belong_to(make: Callable) -> None:
    """Where all objects but one lose their masks, only that one is learnt from."""
    made = make("task=[detection,instance]")
    batch = made.batch(4)
    objects, masks = batch.labels["objects"], batch.labels["masks"]
    rows = find_objects(objects, masks.image, masks.keys)
    found = rows[rows >= 0]
    assert len(found) == len(masks.keys)
    stride = made.tasks["instance"].asks[1].stride
    for row, place in enumerate(rows.tolist()):
        if place >= 0:
            y, x = np.nonzero(masks.masks[place].numpy())
            x1, y1, x2, y2 = (objects.boxes[row] / stride).tolist()
            assert x.min() >= x1 - 1.01
            assert x.max() <= x2 + 0.01
            assert y.min() >= y1 - 1.01
            assert y.max() <= y2 + 0.01


def test_boxes_without_masks_are_refused(shapes: Path, tmp_path: Path, make: Callable) -> None:
    root = tmp_path / "boxes"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    for row in document["annotations"]:
        del row["segmentation"]
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match="no masks"):
        _ = make("task=[detection,instance]", f"data.root={root}").data


def test_bad_requests_name_the_fix(make: Callable, coco_panoptic) -> None:
    with pytest.raises(ConfigError, match="per_level=1"):
        make("task=[detection]", "task.detection.anchors=[[[9,9]],[[20,20]],[[40,40]]]")
    only = (f"data.root={coco_panoptic}", "data.train=val2017", "data.val=val2017")
    for task in ("[detection]", "[detection,instance]", "[stuff]"):
        with pytest.raises(DataError, match=r"data\.derive=true"):
            make(f"task={task}", *only)
