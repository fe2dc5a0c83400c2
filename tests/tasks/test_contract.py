"""The contract that every task keeps, whatever it does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import conf
from unified.build import Built, order_tasks
from unified.data.dataset import collate
from unified.errors import ConfigError
from unified.inference import decode_all
from unified.module import UnifiedModule
from unified.specs import Batch, Sample

TASKS = sorted(p.stem for p in (Path(conf.__file__).parent / "task").glob("*.yaml"))


def with_requirements(name: str, make: Callable) -> tuple[Built, Batch]:
    """The task, what it requires, and a labelled batch."""
    names = [name]
    while True:
        try:
            built, data = make(f"task=[{','.join(names)}]", "implicit=vector")
            break
        except ConfigError as error:
            names.insert(0, str(error).split("requires task ")[1].split(",")[0])
    dataset = data.train_dataset()
    return built, collate([dataset[(0, i)] for i in range(8)])


def run_losses(built: Built, batch: Batch) -> dict[str, dict[str, torch.Tensor]]:
    outputs, upstream = built.model.train()(batch.images), {}
    return {n: t.loss(outputs[n], batch, upstream) for n, t in built.tasks.items()}


def without_labels(batch: Batch) -> Batch:
    samples = [Sample(image=s.image, meta=s.meta) for s in batch.samples]
    return collate([[s] for s in samples])


@pytest.mark.parametrize("name", TASKS)
def test_losses_are_finite_named_scalars(name: str, make: Callable) -> None:
    built, batch = with_requirements(name, make)
    losses = run_losses(built, batch)[name]
    assert losses
    assert built.tasks[name].name == name
    assert set(built.tasks[name].loss_weights) <= set(losses)
    for value in losses.values():
        assert value.shape == ()
        assert value.isfinite()
        assert value > 0


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("labelled", [True, False])
def test_every_parameter_is_reached(
    name: str, labelled: bool, make: Callable, configure: Callable
) -> None:
    """Distributed training hangs or raises on a parameter without gradient."""
    names = list(with_requirements(name, make)[0].tasks)
    overrides = (f"task=[{','.join(names)}]", "implicit=vector")
    built, data = make(*overrides)
    dataset = data.train_dataset()
    batch = collate([dataset[(0, i)] for i in range(8)])
    module = UnifiedModule(configure(*overrides), built, data.val_split)
    module.training_step(batch if labelled else without_labels(batch), 0).backward()
    missed = [n for n, p in built.model.named_parameters() if p.grad is None]
    assert not missed


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_without_labels_costs_nothing(name: str, make: Callable) -> None:
    built, batch = with_requirements(name, make)
    losses = run_losses(built, without_labels(batch))[name]
    assert all(float(v) == 0 for v in losses.values())


@pytest.mark.parametrize("name", TASKS)
def test_unlabelled_images_contribute_nothing(name: str, make: Callable) -> None:
    """Half a batch without labels gives the labelled half's loss, whatever those images show."""
    results = []
    for invert in (False, True):
        built, batch = with_requirements(name, make)  # anew: a loss may keep a memory
        built.model.eval()  # batch norm would mix the images
        half = [[s] for s in batch.samples[:4]]
        rest = [
            Sample(image=255 - s.image if invert else s.image, meta=s.meta)
            for s in batch.samples[4:]
        ]
        mixed = collate(half + [[s] for s in rest])
        outputs, upstream = built.model(mixed.images), {}
        results.append(
            {n: t.loss(outputs[n], mixed, upstream) for n, t in built.tasks.items()}[name]
        )
    for key in results[0]:
        assert float(results[0][key]) > 0
        torch.testing.assert_close(results[0][key], results[1][key])


@pytest.mark.parametrize("name", TASKS)
def test_decoding_feeds_the_metric(name: str, make: Callable, tmp_path: Path) -> None:
    built, _ = with_requirements(name, make)
    _, data = make(f"task=[{','.join(built.tasks)}]")
    dataset = data.val_dataset()
    metric = built.tasks[name].metric(data.val_split)
    built.model.eval()
    for start in range(0, 12, 4):
        batch = collate([dataset[(0, i)] for i in range(start, start + 4)])
        with torch.no_grad():
            found = decode_all(built.tasks, built.model(batch.images), batch)
        assert len(found[name]) == 4
        metric.update(found[name], batch)
    scores = metric.compute()
    assert metric.primary in scores
    assert all(isinstance(v, float) for v in scores.values())
    metric.write(tmp_path)
    assert list(tmp_path.iterdir())
    for file in tmp_path.glob("*.json"):
        json.loads(file.read_text())
    for x, y in metric.curves().values():
        assert len(x) == len(y)
    metric.reset()
    assert metric.compute()[metric.primary] == 0


@pytest.mark.parametrize("name", TASKS)
def test_half_precision_trains_and_decodes(name: str, make: Callable) -> None:
    """As on a GPU; with codes on one level only, whose maps are then of another type."""
    needed = with_requirements(name, make)[0].tasks
    names = ",".join(dict.fromkeys(["detection", *needed]))
    built, data = make(f"task=[{names}]", "implicit=vector", "implicit.sites=[align.*,refine.p3]")
    dataset = data.train_dataset()
    batch = collate([dataset[(0, i)] for i in range(4)])
    with torch.autocast("cpu", torch.bfloat16):
        losses = run_losses(built, batch)[name]
        built.model.eval()
        with torch.no_grad():
            found = decode_all(built.tasks, built.model(batch.images), batch)
    assert all(value.isfinite() for value in losses.values())
    assert len(found[name]) == 4


@pytest.mark.parametrize("name", TASKS)
def test_fusing_changes_nothing(name: str, make: Callable) -> None:
    """Codes and batch norms fold away without a trace in the outputs."""
    built, batch = with_requirements(name, make)
    built.model.train()(batch.images)  # batch norms with statistics of their own
    built.model.eval()
    with torch.no_grad():
        before = built.model(batch.images)[name]
        after = copy.deepcopy(built.model).fuse()(batch.images)[name]
    for output, value in before.items():
        torch.testing.assert_close(after[output], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_requirements_are_tasks(name: str, make: Callable) -> None:
    built, _ = with_requirements(name, make)
    assert set(built.tasks[name].requires) <= set(TASKS)
    order = list(built.tasks)
    assert all(order.index(other) < order.index(name) for other in built.tasks[name].requires)


def test_tasks_run_after_what_they_require() -> None:
    requires = {"c": ("b",), "a": (), "b": ("a",)}
    assert order_tasks(requires) == ["a", "b", "c"]


def test_a_missing_requirement_names_the_override() -> None:
    with pytest.raises(ConfigError) as caught:
        order_tasks({"embedding": ("detection",)})
    assert "task=[detection,embedding]" in str(caught.value)


def test_a_circle_of_requirements_is_refused() -> None:
    with pytest.raises(ConfigError, match="circle"):
        order_tasks({"a": ("b",), "b": ("a",)})
