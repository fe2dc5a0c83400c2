"""Instance embedding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tasks.embedding import Memory
from unified.data.dataset import collate
from unified.errors import ConfigError
from unified.inference import decode_all


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
    built, data = make("task=[detection,embedding]", "implicit=none", "task.embedding.memory=0")
    task, dataset = built.tasks["embedding"], data.train_dataset()
    batch = collate([dataset[(0, i)] for i in range(8)])
    identity = batch.targets.identities[~batch.targets.crowd]
    names, row = torch.unique(identity, return_inverse=True)
    assert len(names) < len(identity), "no individual appears twice"
    good = torch.eye(64)[row]
    assert float(task._contrast(good, identity)) < 0.2 * float(
        task._contrast(good[torch.randperm(len(row))], identity)
    )


def test_a_vector_is_read_at_the_core_of_its_box(make: Callable) -> None:
    built, _ = make("task=[detection,embedding]", "implicit=none")
    task = built.tasks["embedding"]
    ramp = torch.arange(8.0).expand(2, 1, 8, 8)  # the column, at cell centres 4, 12, 20, …
    dense = torch.cat([torch.ones_like(ramp), ramp, torch.zeros(2, 1, 8, 8)], 1)
    dense[1, 2] = 1
    boxes = torch.tensor([[10.0, 10, 30, 50], [14, 20, 26, 24], [10, 10, 30, 50]])
    read = task._read({"p3": dense}, boxes, torch.tensor([0, 0, 1]))
    expected = torch.nn.functional.normalize(torch.tensor([[1, 2.0, 0], [1, 2, 0], [1, 2, 1]]))
    torch.testing.assert_close(read, expected)


def test_memory_keeps_the_latest_and_lends_partners(make: Callable) -> None:
    memory = Memory(4, 2)
    assert len(memory.recall()[0]) == 0
    memory.put(torch.tensor([[1.0, 0], [2, 0], [3, 0]]), torch.tensor([1, 2, 3]))
    assert memory.recall()[1].tolist() == [1, 2, 3]
    memory.put(torch.tensor([[4.0, 0], [5, 0]]), torch.tensor([4, 5]))
    assert memory.recall()[1].tolist() == [5, 2, 3, 4]
    memory.put(torch.arange(12.0).view(6, 2), torch.arange(6))
    assert sorted(memory.recall()[1].tolist()) == [2, 3, 4, 5]

    built, _ = make("task=[detection,embedding]", "implicit=none")
    task = built.tasks["embedding"]
    alone = torch.eye(64)[:2].requires_grad_()
    assert float(task._contrast(alone, torch.tensor([1, 2]))) == 0  # nobody has a partner yet
    again = torch.eye(64)[:2].flip(0).requires_grad_()
    loss = task._contrast(again, torch.tensor([1, 2]))
    assert float(loss) > 1
    loss.backward()
    assert float(again.grad.abs().sum()) > 0


@pytest.mark.parametrize("core", [0.0, 1.5])
def test_a_core_that_is_no_share_is_refused(core: float, make: Callable) -> None:
    with pytest.raises(ConfigError, match="core"):
        make("task=[detection,embedding]", f"task.embedding.core={core}")


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
