"""The CSP family against the official totals and layer order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn

import conf
from heads.detection import DetectionHead
from unified.classes import instantiate
from unified.errors import ConfigError
from unified.implicit.bank import fill_slots
from unified.implicit.config import ImplicitConfig
from unified.implicit.vector import Vector
from unified.model import UnifiedModel
from unified.trunks.csp import CSPTrunk

TRUNKS = sorted(p.stem for p in (Path(conf.__file__).parent / "trunk").glob("*.yaml"))


def make_head(trunk: nn.Module, classes: int = 80) -> DetectionHead:
    return DetectionHead(trunk.features, classes, torch.ones(len(trunk.features), 3, 2))


def make_trunk(name: str, *overrides: str) -> nn.Module:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=[f"trunk={name}", *overrides])
    return instantiate("trunk", nn.Module, OmegaConf.to_container(config.trunk))


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def add_codes(head: DetectionHead) -> None:
    fill_slots(ImplicitConfig(), {"detection": head}, Vector.of_task)


@pytest.mark.parametrize(
    ("name", "plain", "codes"),
    [
        ("yolov4_csp", 52_921_437, 2_557),
        ("yolor_csp", 52_921_437, 2_557),
        ("yolor_csp_x", 99_751_053, 3_005),
        ("yolor_p6", 37_262_204, 2_812),
        ("yolor_w6", 79_869_820, 3_580),
    ],
)
def test_totals_equal_the_official_ones(name: str, plain: int, codes: int) -> None:
    with torch.device("meta"):
        trunk = make_trunk(name)
        head = make_head(trunk)
        assert count(UnifiedModel(trunk, {"detection": nn.ModuleDict({"head": head})})) == plain
        add_codes(head)
    assert count(UnifiedModel(trunk, {"detection": nn.ModuleDict({"head": head})})) == plain + codes


def test_tiny_has_about_a_million_parameters() -> None:
    trunk = make_trunk("tiny")
    assert 0.7e6 < count(trunk, make_head(trunk)) < 1.3e6


def test_spp_sees_5_9_and_13_cells() -> None:
    spp = make_trunk("yolor_csp").eval().neck.spp
    seen: dict[str, torch.Tensor] = {}
    spp.before.register_forward_hook(lambda m, i, o: seen.update(y=o))
    spp.after[0].register_forward_hook(lambda m, i, o: seen.update(pooled=i[0]))
    with torch.no_grad():
        spp(torch.rand(1, 1024, 16, 16))
    pools = [nn.functional.max_pool2d(seen["y"], k, 1, k // 2) for k in (13, 9, 5)]
    assert torch.equal(seen["pooled"], torch.cat([*pools, seen["y"]], 1))


@pytest.mark.parametrize("name", [n for n in TRUNKS if n not in ("yolor_csp_x", "yolor_w6")])
def test_trunks_deliver_what_they_publish(name: str) -> None:
    trunk = make_trunk(name).eval()
    with torch.no_grad():
        pyramid = trunk(torch.rand(1, 3, 64, 128))
    assert list(pyramid) == list(trunk.features)
    for level, spec in trunk.features.items():
        assert pyramid[level].shape == (1, spec.channels, 64 // spec.stride, 128 // spec.stride)


@pytest.mark.parametrize("name", ["tiny", "yolor_csp"])
def test_signal_keeps_its_size_at_the_start(name: str) -> None:
    """Stable training from scratch: no level vanishes or explodes in a first batch."""
    torch.manual_seed(0)
    trunk = make_trunk(name).train()
    with torch.no_grad():
        pyramid = trunk(torch.rand(4, 3, 64, 64))
    for level, tensor in pyramid.items():
        assert 0.05 < float(tensor.std()) < 5, level


BLOCKS = sorted(p.stem for p in (Path(conf.__file__).parent / "block").glob("*.yaml"))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_leaves_a_trained_trunk_as_it_was_and_learns(block: str) -> None:
    plain, more = make_trunk("tiny"), make_trunk("tiny", f"+block@trunk.blocks.stage4={block}")
    weights = plain.state_dict()
    assert not more.load_state_dict(weights, strict=False).unexpected_keys
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        before, after = plain.eval()(image), more.eval()(image)
    for level in before:
        assert torch.equal(before[level], after[level])
    assert {name.split(".")[1] for name in more.state_dict() if name not in weights} == {"stage4"}
    optimizer = torch.optim.SGD(more.parameters(), 0.1)
    for _ in range(2):  # what lies behind a zero learns from the second step on
        optimizer.zero_grad()
        sum(level.square().mean() for level in more.train()(image).values()).backward()
        optimizer.step()
    for name, parameter in more.blocks.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_block_starts_the_rest_alike() -> None:
    torch.manual_seed(0)
    plain = make_trunk("tiny").state_dict()
    torch.manual_seed(0)
    more = make_trunk("tiny", "+block@trunk.blocks.stage2=selective").state_dict()
    assert all(torch.equal(value, more[name]) for name, value in plain.items())


@pytest.mark.parametrize(
    "argument",
    [{"widths": [8, 16]}, {"activation": "sine"}, {"blocks": {"stage9": {}}}, {"depths": [1] * 4}],
)
def test_impossible_trunks_are_refused(argument: dict) -> None:
    usual = {"stem": 8, "widths": [8, 16, 16, 16, 16], "depths": [1] * 5, "neck_depth": 1}
    with pytest.raises(ConfigError, match="fix:"):
        CSPTrunk(**(usual | argument))
