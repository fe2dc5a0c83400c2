"""The contract that every task keeps, whatever it does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import conf
from unified.batch import Batch
from unified.build import order_tasks
from unified.errors import ConfigError
from unified.kinds.kind import STRONG
from unified.task import Publication, Task, Upstream
from unified.weighting.values import values_of

TASKS = sorted(p.stem for p in (Path(conf.__file__).parent / "task").glob("*.yaml"))
NEEDED = {
    "embedding": "detection,embedding",
    "instance": "detection,instance",
    "keypoints": "detection,keypoints",
    "panoptic": "detection,instance,stuff,panoptic",
}
"""Selections that hold what a task requires; of the others, the task alone."""

VIEWS = {"caption": "weak"}
"""Of those that do not learn from the strong one."""


def selection(name: str) -> str:
    return f"task=[{NEEDED.get(name, name)}]"


def run_losses(made: Any, batch: Batch) -> dict[str, dict[str, torch.Tensor]]:
    """Task → loss name → value, in training mode."""
    outputs, upstream, losses = made.model.train()(batch.images), Upstream(), {}
    for name, task in made.tasks.items():
        upstream.add(*task.shares(outputs[name]))
        losses[name], published = task.loss(outputs[name], batch, upstream)
        upstream.add(*([] if published is None else [published]))
    return values_of(losses)[0]


def unlabelled(made: Any, batch: Batch, rows: range) -> Batch:
    """The same inputs, of which `rows` know nothing."""
    dataset = made.data.train_dataset()
    groups = [dataset[(0, index)] for index in range(len(batch.metas))]
    for row in rows:
        for view in groups[row]:
            view.labels = {}
    return dataset.collate(groups)


def test_selections_are_what_tasks_require() -> None:
    assert set(NEEDED) <= set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_losses_are_finite_named_means(name: str, make: Callable) -> None:
    made = make(selection(name), "implicit=vector")
    losses = run_losses(made, made.batch())[name]
    assert losses
    assert made.tasks[name].name == name
    assert isinstance(made.tasks[name], Task)
    assert set(made.tasks[name].loss_weights) == set(losses) == set(made.tasks[name].losses)
    for value in losses.values():
        assert value.shape == ()
        assert value.isfinite()
        assert value > 0


@pytest.mark.parametrize("name", TASKS)
def test_labels_teach_every_parameter_of_the_head(name: str, make: Callable) -> None:
    """Each gets a gradient that is not zero, codes included."""
    made = make(selection(name), "implicit=vector")
    losses = run_losses(made, made.batch())[name]
    torch.stack(list(losses.values())).sum().backward()
    untaught = [
        n
        for n, p in made.tasks[name].head.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not untaught


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_without_labels_reaches_every_parameter_all_the_same(
    name: str, make: Callable
) -> None:
    """Distributed training hangs or raises on a parameter without gradient."""
    made = make(selection(name), "implicit=vector")
    batch = unlabelled(made, made.batch(), range(8))
    module = made.module()
    module.training_step(batch, 0).backward()
    assert not [n for n, p in module.named_parameters() if p.grad is None]
    assert not [n for n, p in module.named_parameters() if p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_without_labels_costs_nothing(name: str, make: Callable) -> None:
    made = make(selection(name))
    losses = run_losses(made, unlabelled(made, made.batch(), range(8)))[name]
    assert all(float(v) == 0 for v in losses.values())


@pytest.mark.parametrize("name", TASKS)
def test_unlabelled_images_contribute_nothing(name: str, make: Callable) -> None:
    """Half a batch without labels gives the labelled half's loss, whatever those images show."""
    results = []
    for invert in (False, True):
        made = make(selection(name))  # anew: a loss may keep a memory
        mixed = unlabelled(made, made.batch(), range(4, 8))
        if invert:
            mixed.images[4:] = 255 - mixed.images[4:]
        made.model.eval()  # batch norm would mix the images
        made.model.train = lambda: made.model  # noqa: B023
        results.append(run_losses(made, mixed)[name])
    for key in results[0]:
        assert float(results[0][key]) > 0
        torch.testing.assert_close(results[0][key], results[1][key])


@pytest.mark.parametrize("name", TASKS)
def test_decoding_feeds_the_metric(name: str, make: Callable, tmp_path: Path) -> None:
    made = make(selection(name))
    dataset, task = made.data.val_dataset(), made.tasks[name]
    metric = task.metric(made.data.val_split.sources[task.truth.kind])
    made.model.eval()
    for start in range(0, 12, 4):
        batch = dataset.collate([dataset[(0, i)] for i in range(start, start + 4)])
        with torch.no_grad():
            found = made.model.decode(made.model(batch.images), batch)
        assert len(found[name]) == 4
        for result in found[name]:
            json.dumps(result.of(made.spec.spaces).plain())
        metric.update(found[name], batch.metas)
    metric.gather()
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
def test_what_is_kept_are_tensors_of_fixed_rank(name: str, make: Callable) -> None:
    """Whatever the number of images, and without any label or image at hand."""
    made = make(selection(name))
    made.model.eval()
    ranks = []
    for count in (1, 3):
        upstream, found = Upstream(), {}
        with torch.no_grad():
            outputs = made.model(made.batch(count, training=False).images)
            for other, task in made.tasks.items():
                upstream.add(*task.shares(outputs[other]))
                found[other] = task.keep(outputs[other], upstream)
                if isinstance(found[other], task.publishes):
                    upstream.add(found[other])
        ranks.append({place: t.ndim for place, t in tensors_of(found[name], "")})
    assert ranks[0]
    assert ranks[0] == ranks[1]


def tensors_of(kept: Any, place: str) -> list[tuple[str, torch.Tensor]]:
    if isinstance(kept, torch.Tensor):
        return [(place, kept)]
    fields = vars(kept).items() if hasattr(kept, "__dict__") else ()
    return [found for key, part in fields for found in tensors_of(part, f"{place}.{key}")]


@pytest.mark.parametrize("name", TASKS)
def test_half_precision_trains_and_decodes(name: str, make: Callable) -> None:
    """As on a GPU; with codes on one level only, whose maps are then of another type."""
    names = ",".join(dict.fromkeys(["detection", *NEEDED.get(name, name).split(",")]))
    made = make(f"task=[{names}]", "implicit=vector", "implicit.sites=[align.*,refine.p3]")
    batch = made.batch(4)
    with torch.autocast("cpu", torch.bfloat16):
        losses = run_losses(made, batch)[name]
        made.model.eval()
        with torch.no_grad():
            plain = made.batch(4, training=False)
            found = made.model.decode(made.model(plain.images), plain)
    assert all(value.isfinite() for value in losses.values())
    assert len(found[name]) == 4


@pytest.mark.parametrize("name", TASKS)
def test_fusing_changes_nothing(name: str, make: Callable) -> None:
    """Codes and batch norms fold away without a trace in the outputs."""
    made = make(selection(name), "implicit=vector")
    batch = made.batch()
    made.model.train()(batch.images)  # batch norms with statistics of their own
    made.model.eval()
    with torch.no_grad():
        before = made.model(batch.images)[name]
        after = copy.deepcopy(made.model).fuse()(batch.images)[name]
    for output, value in before.items():
        torch.testing.assert_close(after[output], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_the_view_that_a_task_learns_from_can_be_chosen(name: str, make: Callable) -> None:
    chosen = NEEDED.get(name, name).split(",")
    views = [
        "task.embedding.views=[weak]" if t == "embedding" else f"task.{t}.view=weak" for t in chosen
    ]
    made = make(selection(name), *views)
    assert made.tasks[name].views == ("weak",)
    assert {meta.view for meta in made.batch(2).metas} == {"weak"}
    assert make(selection(name)).tasks[name].views == (VIEWS.get(name, STRONG),)


# --- Requirements -------------------------------------------------------------------------


class A(Publication):
    pass


class B(Publication):
    pass


def needing(requires: tuple = (), publishes: tuple = (), uses: tuple = ()) -> type[Task]:
    parts = {"requires": requires, "publishes": publishes, "uses": uses}
    return type("Some", (Task,), parts)


def test_tasks_run_after_what_they_require() -> None:
    tasks = {"c": needing((B,)), "a": needing((), (A,)), "b": needing((A,), (B,))}
    assert order_tasks(tasks) == ["a", "b", "c"]


def test_what_a_task_uses_comes_before_it_or_not_at_all() -> None:
    user, other = needing(uses=(A,)), needing((), (A,))
    assert order_tasks({"user": user, "other": other}) == ["other", "user"]
    assert order_tasks({"user": user}) == ["user"]
    with pytest.raises(ConfigError, match="a and b publish"):
        order_tasks({"a": other, "b": other, "user": user})


@pytest.mark.parametrize(
    ("chosen", "fix"),
    [
        ("embedding", "task=[detection,embedding]"),
        ("instance", "task=[detection,instance]"),
        ("panoptic", "task=[detection,instance,stuff,panoptic]"),
        ("instance,panoptic", "task=[detection,instance,stuff,panoptic]"),
        ("detection,instance,panoptic", "task=[detection,instance,stuff,panoptic]"),
    ],
)
def test_a_missing_requirement_names_the_override(make: Callable, chosen: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(f"task=[{chosen}]")
    assert fix in str(caught.value)


def test_a_circle_of_requirements_is_refused() -> None:
    with pytest.raises(ConfigError, match="circle"):
        order_tasks({"a": needing((B,), (A,)), "b": needing((A,), (B,))})


def test_two_publishers_of_one_thing_are_refused() -> None:
    with pytest.raises(ConfigError, match="a and b publish"):
        order_tasks({"a": needing((), (A,)), "b": needing((), (A,)), "c": needing((A,))})


def test_a_reader_of_matches_must_see_what_detection_sees(make: Callable) -> None:
    with pytest.raises(ConfigError, match=r"task\.instance\.view=strong"):
        make("task=[detection,instance]", "task.instance.view=weak")


def test_something_that_is_no_task_is_refused(make: Callable) -> None:
    with pytest.raises(ConfigError, match="is no Task"):
        make("task=[stuff]", "task.stuff._target_=heads.semantic.SemanticHead")
