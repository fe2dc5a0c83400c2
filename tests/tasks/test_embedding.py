"""Instance embedding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tasks.embedding import _unambiguous
from unified.data.dataset import collate
from unified.errors import ConfigError
from unified.inference import decode_all
from unified.specs import Cells, Matches


def test_cells_gather_what_lies_there() -> None:
    maps = {"p3": torch.rand(2, 3, 8, 8), "p4": torch.rand(2, 3, 4, 4)}
    cells = Cells(
        image=torch.tensor([0, 1, 1]),
        level=torch.tensor([0, 1, 0]),
        y=torch.tensor([2, 3, 7]),
        x=torch.tensor([5, 0, 1]),
        levels=("p3", "p4"),
    )
    expected = torch.stack([maps["p3"][0, :, 2, 5], maps["p4"][1, :, 3, 0], maps["p3"][1, :, 7, 1]])
    assert torch.equal(cells.gather(maps), expected)


def test_every_detection_has_a_unit_vector(make: Callable) -> None:
    built, data = make("task=[detection,embedding]", "task.detection.min_score=0.0")
    dataset = data.val_dataset()
    batch = collate([dataset[(0, i)] for i in range(3)])
    with torch.no_grad():
        found = decode_all(built.tasks, built.model.eval()(batch.images), batch)
    for detections, vectors in zip(found["detection"], found["embedding"], strict=True):
        assert len(detections.boxes) == len(vectors.vectors) > 0
        torch.testing.assert_close(vectors.vectors.norm(dim=1), torch.ones(len(vectors.vectors)))
    truth = torch.cat([v.truth_identities for v in found["embedding"]])
    assert truth.tolist() == batch.targets.identities[~batch.targets.crowd].tolist()


def test_equal_individuals_cost_less_when_their_vectors_agree(make: Callable) -> None:
    built, data = make("task=[detection,embedding]", "implicit=none")
    task, dataset = built.tasks["embedding"], data.train_dataset()
    batch = collate([dataset[(0, i)] for i in range(8)])
    outputs, upstream = built.model(batch.images), {}
    built.tasks["detection"].loss(outputs["detection"], batch, upstream)
    cells = upstream["detection"].cells
    identity = batch.targets.identities[upstream["detection"].target]
    codebook = torch.eye(64)[torch.arange(len(identity.unique()))]
    row = torch.unique(identity, return_inverse=True)[1]
    good = {k: torch.full_like(v, 1e-3) for k, v in outputs["embedding"].items()}
    for index, name in enumerate(good):
        rows = cells.level == index
        good[name][cells.image[rows], :, cells.y[rows], cells.x[rows]] = codebook[row[rows]]
    random = {k: torch.randn_like(v) for k, v in good.items()}
    losses = [float(task.loss(o, batch, upstream)["contrast"]) for o in (good, random)]
    assert losses[0] < 0.5 * losses[1]


def test_a_cell_that_two_objects_claim_stands_for_none() -> None:
    column = torch.tensor
    cells = Cells(
        image=column([0, 0, 0, 0, 1]),
        level=column([0, 0, 0, 1, 0]),
        y=column([2, 2, 2, 2, 2]),
        x=column([3, 3, 4, 3, 3]),
        levels=("p3", "p4"),
    )
    rows = _unambiguous(Matches(cells, target=column([7, 8, 7, 8, 9])))
    assert rows.tolist() == [[0, 0, 2, 4, 7], [0, 1, 2, 3, 8], [1, 0, 2, 3, 9]]
    # The anchors of one cell that agree on the object count once.
    twice = Cells(*(torch.zeros(2, dtype=torch.long) for _ in range(4)), levels=("p3",))
    assert len(_unambiguous(Matches(twice, target=column([5, 5])))) == 1


def test_without_identities_two_views_are_needed(make: Callable, coco_mini) -> None:
    real = [f"data.root={coco_mini}", "data.train=train2017", "data.val=val2017"]
    with pytest.raises(ConfigError, match=r"data\.views=2"):
        make("task=[detection,embedding]", *real)
    built, data = make("task=[detection,embedding]", *real, "data.views=2", "data.image_size=128")
    dataset = data.train_dataset()
    batch = collate([dataset[(0, i)] for i in range(2)])
    assert [m.view for m in batch.metas] == [0, 1, 0, 1]
    assert not np.array_equal(batch.samples[0].image, batch.samples[1].image)
    ids = [set(s.instances.identities.tolist()) for s in batch.samples]
    assert ids[0] & ids[1]
    assert not ids[0] & ids[2]
    outputs, upstream = built.model(batch.images), {}
    losses = [t.loss(outputs[n], batch, upstream) for n, t in built.tasks.items()]
    assert float(losses[1]["contrast"]) > 0
