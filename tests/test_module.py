"""Joint optimisation."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from unified.checkpoint import network_of
from unified.data.split import Split
from unified.errors import DataError
from unified.guard import INTERVAL, FiniteGuard
from unified.implicit.bank import codes_of
from unified.module import UnifiedModule
from unified.run.callbacks import RampedEMA, Stopwatch
from unified.run.checkpoints import RunCheckpoints
from unified.run.history import History, read_history
from unified.run.train import train
from unified.schema import Config
from unified.task import Upstream
from unified.view import ImageMeta
from unified.weighting.values import task_total, values_of


@pytest.fixture
def module(make: Callable) -> tuple[UnifiedModule, object]:
    made = make()
    return made.module(), made


def test_codes_biases_and_norms_do_not_decay(module) -> None:
    module, _ = module
    groups = {g["name"]: g for g in module.parameter_groups()}
    everything = [p for g in groups.values() for p in g["params"]]
    assert {id(p) for p in everything} == {id(p) for p in module.parameters()}
    assert len(everything) == len({id(p) for p in everything})
    assert groups["codes"]["weight_decay"] == 0
    assert {id(p) for p in groups["codes"]["params"]} == {
        id(p) for _, code in codes_of(module.model) for p in code.parameters()
    }
    decayed = {id(p) for g in groups.values() if g["weight_decay"] for p in g["params"]}
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert id(layer.weight) not in decayed
        if isinstance(layer, nn.Conv2d):
            assert id(layer.weight) in decayed
    assert id(module.model.tasks["classification"].head.classify.weight) not in decayed
    assert all(p.ndim > 1 for g in groups.values() if g["weight_decay"] for p in g["params"])


def test_a_loss_that_is_not_finite_stops_with_its_name(module) -> None:
    module, made = module
    batch = made.batch(2)
    module.training_step(batch, 0)
    module.guard.read()  # nothing to say
    with torch.no_grad():
        module.model.tasks["embedding"].head.predictors["p3"].weight.fill_(float("nan"))
    module.training_step(made.batch(3), 0)
    with pytest.raises(DataError) as caught:
        module.on_train_epoch_end()
    assert "embedding/contrast" in str(caught.value)
    assert Path(made.batch(3).metas[0].file).name in str(caught.value)


def test_the_guard_asks_the_device_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step does not wait; the first culprit is kept until somebody looks."""
    guard, reads = FiniteGuard(), []
    monkeypatch.setattr(FiniteGuard, "read", lambda self: reads.append(len(self.steps)))
    meta = ImageMeta(1, "a.jpg", 1, 1, np.eye(3)[:2])
    for step in range(INTERVAL):
        assert not reads
        bad = float("inf") if step == 7 else 1.0
        guard.note(step, {"x": torch.tensor(1.0), "y": torch.tensor(bad)}, [meta])
    assert reads == [INTERVAL]
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"y is not finite at step 7, batch with a\.jpg"):
        guard.read()


def test_memory_is_saved_with_the_run_and_is_no_part_of_the_network(module) -> None:
    module, _ = module
    kept = {"model.tasks.embedding.memory.vectors", "model.tasks.embedding.memory.count"}
    assert kept <= set(module.state_dict())
    assert not [k for k in network_of({"state_dict": module.state_dict()}) if "memor" in k]


def test_copies_of_the_weights_are_copies_of_nothing_else(module) -> None:
    """What averages weights copies the module: not the annotations, nor the results."""
    module, _ = module
    copied = copy.deepcopy(module)
    assert copied.metrics is module.metrics
    assert copied.data is module.data
    for name, value in module.state_dict().items():
        assert torch.equal(copied.state_dict()[name], value)
    ours = {id(p) for p in module.parameters()}
    assert not ours & {id(p) for p in copied.parameters()}
    reached = [o for o in gc.get_objects() if isinstance(o, Split)]
    del copied
    assert len([o for o in gc.get_objects() if isinstance(o, Split)]) == len(reached)


def test_one_batch_can_be_learnt(make: Callable) -> None:
    """All tasks' losses fall together when the network may memorise a batch."""
    made = make("task.embedding.memory=0")  # earlier versions of the batch would be partners
    module = made.module().train()
    batch = made.batch()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    history: list[dict[str, float]] = []
    module._join = lambda values: torch.stack(
        [v for o in values.values() for v in o.values()]
    ).sum()
    for _ in range(40):
        optimizer.zero_grad()
        module.means.reset()
        module.training_step(batch, 0).backward()
        history.append(module.train_row())
        optimizer.step()
    for name in ("detection/box", "classification/category", "embedding/contrast"):
        assert history[-1][f"train/{name}"] < 0.8 * history[0][f"train/{name}"], name


def test_a_task_sees_the_rows_of_its_view(make: Callable) -> None:
    """Two views in a batch: each loss is that of its own view alone, from one pass of the trunk."""
    overrides = ("task=[detection,stuff]", "task.stuff.view=weak", "data.batch_size=8")
    made = make(*overrides)
    module, batch = made.module(), made.batch(4)
    made.model.eval()  # batch norm would mix the views
    passes = []
    made.model.trunk.register_forward_hook(lambda m, i, o: passes.append(len(i[0])))
    module.training_step(batch, 0)
    logged = module.train_row()
    assert passes == [8]
    for task, view in (("detection", "strong"), ("stuff", "weak")):
        alone = batch.see(batch.rows([view]))
        assert len(alone.metas) == 4
        losses, _ = made.tasks[task].loss(made.model(alone.images)[task], alone, Upstream())
        for name, value in values_of({task: losses})[1][task].items():
            assert logged[f"train/{task}/{name}"] == pytest.approx(float(value), rel=1e-5)


def test_balance_rules_what_reaches_the_trunk(make: Callable) -> None:
    made = make("task=[detection,stuff]", "weighting=balance", "+weighting.tasks.stuff=0.5")
    module, batch = made.module(), made.batch(4)
    made.model.eval()
    trunk = list(made.model.trunk.parameters())
    module.training_step(batch, 0).backward()
    factors = module.weighting.factors()
    assert module.train_row()["factor/stuff"] == factors["stuff"]
    assert len({round(factor, 3) for factor in factors.values()} | {1.0, 0.5}) == 4
    expected = [torch.zeros_like(p) for p in trunk]
    for name, task in made.tasks.items():
        losses, _ = task.loss(made.model(batch.images)[name], batch, Upstream())
        total = task_total(values_of({name: losses})[0][name], task.loss_weights)
        gradients = torch.autograd.grad(total, trunk, allow_unused=True)
        for sum_, gradient in zip(expected, gradients, strict=True):
            if gradient is not None:
                sum_ += factors[name] * gradient
    module.zero_grad()
    module.training_step(batch, 0).backward()
    whole = torch.cat([p.grad.flatten() for p in trunk])
    gap = whole - torch.cat([e.flatten() for e in expected])
    assert gap.norm() < 1e-4 * whole.norm()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_precision_trains(
    precision: str, configure: Callable[..., Config], tmp_path: Path
) -> None:
    scores = train(
        configure(
            "task=[detection]", f"trainer.precision={precision}", "trainer.max_epochs=1",
            "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
            f"out={tmp_path / 'run'}",
        )
    )  # fmt: skip
    assert "AP" in scores["detection"]


class Walk(pl.LightningModule):
    """Its weight and its buffer stand at the number of steps taken, gathered over two batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.mean += 0.5
        self.seen += 1
        return -self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_average_follows_and_its_decay_ramps(decay: float, tmp_path: Path) -> None:
    module, steps, ramp = Walk(), 6, 3
    trainer = pl.Trainer(
        max_epochs=1, accumulate_grad_batches=2, callbacks=[RampedEMA(decay, ramp)], logger=False,
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.zeros(2 * steps, 1), batch_size=1))
    expected = 0.0
    for step in range(steps):
        keep = decay * (1 - math.exp(-step / ramp))  # none yet: the first step is taken whole
        expected = keep * expected + (1 - keep) * (step + 1)
    # Training ends with the averages in the module; what is counted is not averaged.
    torch.testing.assert_close(module.weight.detach(), torch.full((3,), expected))
    torch.testing.assert_close(module.mean, torch.tensor(expected))
    assert module.seen == 2 * steps


def test_a_stopwatch_counts_steps_and_not_the_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor an epoch before the interruption twice."""
    now = [100.0]
    monkeypatch.setattr("unified.run.callbacks.time.monotonic", lambda: now[0])
    trainer = SimpleNamespace(global_step=0, num_training_batches=4)
    watch, again = Stopwatch(), Stopwatch()
    watch.on_train_start(trainer, None)
    for _ in range(2):
        watch.on_train_epoch_start(trainer, None)
        for index in range(4):
            now[0] += 3
            trainer.global_step += index % 2  # two batches a step
            watch.on_train_batch_end(trainer, None, None, None, index)
        now[0] += 50  # is scored
    assert watch.step_seconds == 6
    assert watch.seconds == 2 * (12 + 50)
    again.load_state_dict(watch.state_dict())
    again.on_train_start(trainer, None)  # in the middle of an epoch
    now[0] += 12
    trainer.global_step += 1
    again.on_train_batch_end(trainer, None, None, None, 3)
    assert again.step_seconds == (24 + 12) / 5
    assert again.seconds == 2 * (12 + 50) + 12
    assert Stopwatch().step_seconds is None


def test_a_checkpoint_replaces_its_predecessor_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "last.ckpt"
    RunCheckpoints().save_checkpoint({"step": 1}, target)
    real_save = torch.save

    def interrupted(*arguments: object) -> None:
        real_save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RunCheckpoints().save_checkpoint({"step": 2}, target)
    assert torch.load(target, weights_only=True) == {"step": 1}


def test_history_keeps_a_row_per_epoch_and_goes_on(tmp_path: Path) -> None:
    first = History(tmp_path)
    first.log_metrics({"epoch": 0, "val/a": 0.5}, 9)
    first.log_metrics({"epoch": 0, "train/loss_epoch": 2.0}, 9)
    first.log_metrics({"train/loss_step": 3.0}, 9)
    again = History(tmp_path)
    again.log_metrics({"epoch": 1, "val/a": 0.6}, 19)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0].split(",") == ["epoch", "step", "val/a", "train/loss"]
    assert lines[1:] == ["0,10,0.5,2.0", "1,20,0.6,"]


@pytest.mark.parametrize("length", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 16}])
def test_the_learning_rate_rises_then_falls(module, length: dict[str, int]) -> None:
    """Whether the length of training is said in epochs or in steps."""
    module, made = module
    trainer = pl.Trainer(
        **length, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer.callbacks.append(Watch())
    trainer.fit(module, made.data)
    peak = module.config.optim.lr
    assert max(rates) == pytest.approx(peak)
    assert rates[-1] < 0.2 * peak
    assert rates.index(max(rates)) in (2, 3, 4)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_goes_on_at_the_rates_that_it_is_told(
    make: Callable, tmp_path: Path, optimizer: str
) -> None:
    """From its first step on, as if it had had them from the start; told nothing, as before."""
    first = ("optim.lr=0.001", "optim.code_lr=0", "optim.momentum=0.9")
    second = ("optim.lr=0.0004", "optim.trunk_lr=2", "optim.code_lr=1", "optim.momentum=0.8")
    start = tmp_path / "start.ckpt"

    def rates(words: tuple[str, ...], ckpt: Path | None = None) -> list[list[tuple[float, ...]]]:
        seen = []

        class Watch(pl.Callback):
            def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
                seen.append([
                    (g["lr"], g["weight_decay"], g.get("momentum", g.get("betas", (0,))[0]))
                    for g in optimizer.param_groups
                ])  # fmt: skip

            def on_train_batch_end(self, trainer, module, *_: object) -> None:
                groups = zip(trainer.optimizers[0].param_groups, seen[-1], strict=True)
                told = {f"rate/{g['name'].split('.')[0]}": rate for g, (rate, *_) in groups}
                assert module.rates() == pytest.approx(told)
                if trainer.global_step == 3 and ckpt is None:
                    trainer.save_checkpoint(start)

        made = make("task=[detection]", "implicit=vector", f"optim={optimizer}", *words)
        trainer = pl.Trainer(
            max_epochs=-1, max_steps=6, accelerator="cpu", logger=False, callbacks=[Watch()],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(made.module(), made.data, ckpt_path=ckpt, weights_only=True)
        return seen

    wanted = rates(second)
    before = rates(first)
    assert rates(first, start) == before[3:]
    assert rates(second, start) == wanted[3:]
    assert wanted[3:] != before[3:]


def test_trunk_and_codes_may_learn_at_rates_of_their_own(make: Callable) -> None:
    own = ("optim.lr=0.01", "optim.trunk_lr=3", "optim.code_lr=0.5", "weighting=uncertainty")
    rates = {g["name"]: g["lr"] for g in make(*own).module().parameter_groups()}
    trunk = {"trunk": 0.03, "trunk.no_decay": 0.03}
    others = {"tasks": 0.01, "tasks.no_decay": 0.01, "weighting.no_decay": 0.01, "codes": 0.005}
    assert rates == pytest.approx(trunk | others)


def test_files_are_complete_and_results_belong_to_the_best_epoch(
    configure: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When `last.ckpt` is written the epoch's row is there; the final scores are the best's."""
    rows_at_save = []

    class Watched(RunCheckpoints):
        def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
            if Path(path).name == "last.ckpt":
                rows = read_history(tmp_path / "run" / "metrics.csv")
                rows_at_save.append(
                    (checkpoint["epoch"], rows[-1]["epoch"], "train/loss" in rows[-1])
                )
            super().save_checkpoint(checkpoint, path, storage_options)

    monkeypatch.setattr("unified.run.trainer.RunCheckpoints", Watched)
    # Later epochs climb the loss, so that the last is not the best.
    honest = UnifiedModule.training_step

    def training_step(self, batch, index):
        loss = honest(self, batch, index)
        return loss if self.current_epoch == 0 else -loss

    monkeypatch.setattr(UnifiedModule, "training_step", training_step)
    scores = train(
        configure(
            "trainer=smoke", "trainer.max_epochs=4", "trainer.limit_train_batches=4",
            "task=[classification]", "optim.lr=0.02", "optim.ema_ramp=1", "optim.ema_decay=0.5",
            "logger=none", f"out={tmp_path / 'run'}",
        )
    )  # fmt: skip
    assert rows_at_save == [(epoch, epoch, True) for epoch in range(4)]
    history = [row["score"] for row in read_history(tmp_path / "run" / "metrics.csv")]
    assert history[-1] < max(history) - 1e-3, "the last epoch is not the best"
    assert scores["classification"]["mAP"] == pytest.approx(max(history), abs=1e-9)


def test_a_score_without_bounds_does_not_rule_the_mean(module, monkeypatch) -> None:
    module, _ = module
    said = {"detection": {"AP": 0.2}, "classification": {"mAP": 9.0}, "embedding": {"Recall@1": 1}}
    logged: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(type(module.metrics["classification"]), "share", lambda own, v: v / (1 + v))
    monkeypatch.setattr(module, "score", lambda: said)
    monkeypatch.setattr(module, "log_dict", logged.update)
    module.on_validation_epoch_end()
    assert float(logged["score"]) == pytest.approx((0.2 + 0.9 + 1) / 3)
    assert float(logged["val/classification/mAP"]) == 9.0
