"""Instance embedding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tasks.embedding import Memory
from unified.errors import ConfigError
from unified.task import Upstream
from unified.view import PLAIN
from unified.weighting.values import values_of


def contrast(task, vectors: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    loss = {"embedding": {"contrast": task._contrast(vectors, identities)}}
    return values_of(loss)[0]["embedding"]["contrast"]


def test_every_detection_has_a_unit_vector(make: Callable) -> None:
    made = make("task=[detection,embedding]", "task.detection.min_score=0.0")
    batch = made.batch(3, training=False)
    with torch.no_grad():
        found = made.model.eval().decode(made.model(batch.images), batch)
    for detections, vectors in zip(found["detection"], found["embedding"], strict=True):
        assert len(detections.boxes) == len(vectors.vectors) > 0
        assert torch.equal(detections.scores, vectors.scores)
        torch.testing.assert_close(vectors.vectors.norm(dim=1), torch.ones(len(vectors.vectors)))
    truth = torch.cat([v.truth_identities for v in found["embedding"]])
    objects = batch.labels["objects"]
    assert truth.tolist() == objects.identities[~objects.crowd].tolist()


def test_equal_individuals_cost_less_when_their_vectors_agree(make: Callable) -> None:
    made = make("task=[detection,embedding]", "implicit=none", "task.embedding.memory=0")
    task, objects = made.tasks["embedding"], made.batch().labels["objects"]
    identity = objects.identities[~objects.crowd]
    names, row = torch.unique(identity, return_inverse=True)
    assert len(names) < len(identity), "no individual appears twice"
    good = torch.eye(64)[row]
    shuffled = good[torch.randperm(len(row))]
    assert float(contrast(task, good, identity)) < 0.2 * float(contrast(task, shuffled, identity))


def test_the_mean_is_over_vectors_that_have_a_partner(make: Callable) -> None:
    task = make("task=[detection,embedding]", "task.embedding.memory=0").tasks["embedding"]
    vectors = torch.nn.functional.normalize(torch.randn(5, 64), dim=1)
    loss = task._contrast(vectors, torch.tensor([1, 1, 2, 3, 4]))
    assert float(loss.count) == 2


def test_a_vector_is_read_at_the_core_of_its_box(make: Callable) -> None:
    task = make("task=[detection,embedding]", "implicit=none").tasks["embedding"]
    ramp = torch.arange(8.0).expand(2, 1, 8, 8)  # the column, at cell centres 4, 12, 20, …
    dense = torch.cat([torch.ones_like(ramp), ramp, torch.zeros(2, 1, 8, 8)], 1)
    dense[1, 2] = 1
    boxes = torch.tensor([[10.0, 10, 30, 50], [14, 20, 26, 24], [10, 10, 30, 50]])
    read = task._read(dense, boxes, torch.tensor([0, 0, 1]))
    expected = torch.nn.functional.normalize(torch.tensor([[1, 2.0, 0], [1, 2, 0], [1, 2, 1]]))
    torch.testing.assert_close(read, expected)


def test_vectors_are_read_at_the_level_that_is_named(make: Callable) -> None:
    finest, coarser = (
        make("task=[detection,embedding]", *own) for own in ([], ["task.embedding.level=p4"])
    )
    batch = coarser.batch(2)
    for made, stride in ((finest, 8), (coarser, 16)):
        assert made.tasks["embedding"].stride == stride
        (dense,) = made.model(batch.images)["embedding"].values()
        assert dense.shape[-1] == 64 // stride
    with pytest.raises(ConfigError, match=r"task\.embedding\.level: the trunk has no level p9"):
        make("task=[detection,embedding]", "task.embedding.level=p9")


def test_memory_keeps_the_latest_and_lends_partners(make: Callable) -> None:
    memory = Memory(4, 2)
    assert len(memory.recall()[0]) == 0
    memory.put(torch.tensor([[1.0, 0], [2, 0], [3, 0]]), torch.tensor([1, 2, 3]))
    assert memory.recall()[1].tolist() == [1, 2, 3]
    memory.put(torch.tensor([[4.0, 0], [5, 0]]), torch.tensor([4, 5]))
    assert memory.recall()[1].tolist() == [5, 2, 3, 4]
    memory.put(torch.arange(12.0).view(6, 2), torch.arange(6))
    assert sorted(memory.recall()[1].tolist()) == [2, 3, 4, 5]

    task = make("task=[detection,embedding]", "implicit=none").tasks["embedding"]
    alone = torch.eye(64)[:2].requires_grad_()
    assert float(contrast(task, alone, torch.tensor([1, 2]))) == 0  # nobody has a partner yet
    again = torch.eye(64)[:2].flip(0).requires_grad_()
    loss = contrast(task, again, torch.tensor([1, 2]))
    assert float(loss) > 1
    loss.backward()
    assert float(again.grad.abs().sum()) > 0


@pytest.mark.parametrize("core", [0.0, 1.5])
def test_a_core_that_is_no_share_is_refused(core: float, make: Callable) -> None:
    with pytest.raises(ConfigError, match="core"):
        make("task=[detection,embedding]", f"task.embedding.core={core}")


def test_without_identities_two_views_are_needed(make: Callable, coco_mini) -> None:
    real = [f"data.root={coco_mini}", "data.train=train2017", "data.val=val2017"]
    with pytest.raises(ConfigError, match=r"task\.embedding\.views=\[strong,weak\]"):
        make("task=[detection,embedding]", *real)
    made = make(
        "task=[detection,embedding]", *real, "task.embedding.views=[strong,weak]",
        "data.image_size=128",
    )  # fmt: skip
    batch = made.batch(2)
    assert [m.view for m in batch.metas] == ["strong", "strong", "weak", "weak"]
    assert not torch.equal(batch.images[0], batch.images[2])
    objects = batch.labels["objects"]
    ids = [set(objects.identities[objects.image == row].tolist()) for row in range(4)]
    assert ids[0] & ids[2]
    assert not ids[0] & ids[1]
    module = made.module()
    module.training_step(batch, 0).backward()
    assert module.train_row()["train/embedding/contrast"] > 0
    # Detection learns from the first view alone.
    alone = batch.see(batch.rows(["strong"]))
    made.model.eval()
    seen = made.tasks["detection"].loss(made.model(alone.images)["detection"], alone, Upstream())[
        0
    ]["box"]
    made.model.train()
    assert seen.count.sum() > 0
    assert len(alone.labels["objects"].boxes) < len(objects.boxes)


def test_in_validation_an_objects_partner_is_its_further_view(make: Callable, coco_mini) -> None:
    made = make(
        "task=[detection,embedding]", f"data.root={coco_mini}", "data.train=train2017",
        "data.val=val2017", "task.embedding.views=[strong,weak]", "data.image_size=128",
    )  # fmt: skip
    batch = made.batch(3, training=False)
    assert [m.view for m in batch.metas] == [PLAIN] * 3 + ["weak"] * 3
    module = made.module().eval()
    module.on_validation_epoch_start()
    with torch.no_grad():
        module.validation_step(batch, 0)
    assert set(module.metrics["detection"].records) == {m.image_id for m in batch.metas}
    records = module.metrics["embedding"].records
    assert set(records) == {(m.image_id, m.view) for m in batch.metas}
    plain, weak = (set(records[batch.metas[0].image_id, view][1]) for view in (PLAIN, "weak"))
    assert plain & weak
    assert module.metrics["embedding"].compute()["Recall@1"] >= 0


def test_people_are_known_across_real_frames(mot17, make: Callable) -> None:
    made = make(
        "task=[detection,embedding]", f"data.root={mot17}", "data.batch_size=4",
        "data.image_size=256", "task.detection.anchors=auto",
    )  # fmt: skip
    assert made.spec.spaces["objects"].identified
    objects = made.batch(4).labels["objects"]
    _, counts = torch.unique(objects.identities, return_counts=True)
    assert counts.max() == 4
    assert counts.float().mean() > 3
