"""What cannot be is refused before work starts, by key, value and fix."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unified.bounds import checked, known_arguments
from unified.build import check
from unified.errors import ConfigError
from unified.schema import OptimConfig
from unified.trunks.csp import CSPTrunk


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.ema_decay=2", "optim.ema_decay=2"),
        ("optim.ema_decay=nan", "optim.ema_decay=nan"),
        ("optim.lr=fast", "optim.lr=fast"),
        ("optim.lr=inf", "optim.lr=inf"),
        ("trainer.precision=64-true", "trainer.precision=64-true"),
        ("trainer.strategy=ddp_spawn", "trainer.strategy=ddp_spawn"),
        ("+trainer.val_check_interval=10", "use trainer.check_val_every_n_epoch"),
        ("optim.name=adam", "use one of: adamw, sgd"),
        ("seed=-1", "seed=-1"),
        ("seed=1.5", "seed=1.5"),
        ("name=../x", "name=../x"),
        ("min_score=-1", "min_score=-1"),
        ("augment.strong.rotate=1e9", "augment.strong.rotate=1000000000.0"),
        ("augment.weak.flip=-0.5", "augment.weak.flip=-0.5"),
        ("+augment.weak.blur=1", "augment.weak.blur is unknown"),
        ("data.batch_size=0", "data.batch_size=0"),
        ("data.workers=-1", "data.workers=-1"),
        ("+data.shapes={size:8}", "data.shapes.size=8"),
        ("weighting.scale=0", "weighting.scale=0"),
        ("+weighting.tasks.detection=-1", "weighting.tasks.detection=-1"),
        ("+implicit.per_task.detection.sites=3", "implicit.per_task.detection.sites=3"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5"),
        ("trainer.limit_val_batches=-1", "trainer.limit_val_batches=-1"),
        ("trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=0"),
    ],
)
def test_values_out_of_bounds_are_refused_by_their_key(
    override: str, said: str, configure: Callable
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(override)
    assert said in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.detection.nms_iou=-1", "task.detection.nms_iou=-1"),
        ("task.detection.max_detections=-5", "task.detection.max_detections=-5"),
        ("task.detection.evaluator=mine", "use one of: faster, pycocotools"),
        ("task.detection.loss_weights.box=-1", "task.detection.loss_weights.box=-1"),
        ("+task.detection.loss_weights.boxx=1", "task.detection.loss_weights.boxx"),
        ("task.detection.view=[strong]", "task.detection.view=['strong']"),
        ("task.embedding.core=0", "task.embedding.core=0"),
        ("task.embedding.views=[]", "task.embedding.views=[]"),
        ("task.embedding.views=strong", "task.embedding.views=strong"),
        ("trunk.depths=[-1,1,1,1,1]", "trunk.depths[0]"),
        ("implicit.decoder.sigma=-1", "implicit.decoder.sigma=-1"),
        ("trunk._target_=tasks.stuff.nothing", "trunk._target_=tasks.stuff.nothing"),
        ("implicit.decoder._target_=tasks.stuff.Stuff", "is no Decoder"),
        ("trunk._target_=unified.data.sampler.EpochSampler", "is no Module"),
    ],
)
def test_arguments_of_classes_are_checked_by_their_types(
    override: str, said: str, make: Callable
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "task.detection.nms_iou=-1",
        "trunk.depths=[101,1,1,1,1]",
        "task=[instance]",
        "+task.detection.loss_weights.boxx=1",
        "+weighting.tasks.poetry=1",
        "implicit=vector +implicit.decoder.nonsense=1",
    ],
)
def test_what_no_data_makes_right_is_refused_before_any_is_read(
    override: str, configure: Callable
) -> None:
    with pytest.raises(ConfigError):
        check(configure(*override.split(), "data.root=nowhere"))


def test_a_whole_number_serves_where_any_is_meant() -> None:
    config = {"name": "sgd", "lr": 1, "weight_decay": 0, "momentum": 0.9, "warmup_epochs": 1}
    config |= {"final_lr": 0, "trunk_lr": 1, "code_lr": 1, "ema_decay": 0, "ema_ramp": 10}
    built = checked("optim", config, OptimConfig)
    assert built.lr == 1.0
    assert isinstance(built.lr, float)
    with pytest.raises(ConfigError, match=r"optim\.lr is not set"):
        checked("optim", {k: v for k, v in config.items() if k != "lr"}, OptimConfig)
    # What was made before the key was there goes on as it was.
    older = {key: value for key, value in config.items() if key != "trunk_lr"}
    assert checked("optim", older, OptimConfig).trunk_lr == 1


def test_classes_of_ones_own_are_no_types_of_a_file() -> None:
    assert {"stem", "widths", "activation"} <= known_arguments(CSPTrunk.__init__).keys()
    assert "self" not in known_arguments(CSPTrunk.__init__)


@pytest.mark.parametrize("value", [[1.0, float("inf")], [[1.0], [float("nan")]]])
def test_numbers_within_lists_are_finite(value: list) -> None:
    with pytest.raises(ConfigError, match="is no number"):
        checked("key", value, list)
