"""The CSP family against the official totals and layer order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import nn

import conf
from heads.detection import DetectionHead
from unified.errors import ConfigError
from unified.implicit.bank import fill_slots
from unified.implicit.config import ImplicitConfig
from unified.implicit.vector import Vector
from unified.model import UnifiedModel
from unified.trunks.csp import CSPTrunk

TRUNKS = sorted(p.stem for p in (Path(conf.__file__).parent / "trunk").glob("*.yaml"))
ANCHORS = torch.ones(3, 3, 2)


def make_trunk(name: str) -> nn.Module:
    with initialize_config_module("conf", version_base="1.3"):
        return instantiate(compose("config", overrides=[f"trunk={name}"]).trunk)


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
    ],
)
def test_totals_equal_the_official_ones(name: str, plain: int, codes: int) -> None:
    with torch.device("meta"):
        trunk = make_trunk(name)
        head = DetectionHead(trunk.features, 80, ANCHORS)
        assert count(UnifiedModel(trunk, {"detection": nn.ModuleDict({"head": head})})) == plain
        add_codes(head)
    assert count(UnifiedModel(trunk, {"detection": nn.ModuleDict({"head": head})})) == plain + codes


def test_tiny_has_about_a_million_parameters() -> None:
    trunk = make_trunk("tiny")
    assert 0.7e6 < count(trunk, DetectionHead(trunk.features, 80, ANCHORS)) < 1.3e6


def test_convolutions_stand_in_the_official_order() -> None:
    """(kernel, stride, channels) of every convolution, as the public configuration lists them."""
    with torch.device("meta"):
        trunk = make_trunk("yolor_csp")
    found = [
        (m.kernel_size[0], m.stride[0], m.out_channels)
        for m in trunk.modules()
        if isinstance(m, nn.Conv2d)
    ]
    expected = [(3, 1, 32), (3, 2, 64), (1, 1, 32), (3, 1, 64)]
    for width, depth in ((128, 2), (256, 8), (512, 8), (1024, 4)):
        half = width // 2
        expected += [(3, 2, width), (1, 1, half), (1, 1, half)]
        expected += [(1, 1, half), (3, 1, half)] * depth + [(1, 1, half), (1, 1, width)]
    c = 512
    expected += [(1, 1, c), (1, 1, c), (3, 1, c), (1, 1, c), (1, 1, c), (3, 1, c), (1, 1, c)]

    def block(width: int) -> list[tuple[int, int, int]]:
        pairs = [(1, 1, width), (3, 1, width)] * 2
        return [(1, 1, width), (1, 1, width), *pairs, (1, 1, width)]

    for width in (256, 128):
        expected += [(1, 1, width), (1, 1, width), *block(width)]
    for width in (256, 512):
        expected += [(3, 2, width), *block(width)]
    assert found == expected


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("stage2", "leave"),
        ("neck.spp", "after.1"),
        ("neck.up_path4", "process.3"),
        ("neck.down_path4", "process.3"),
    ],
)
def test_processed_part_comes_first_in_a_merge(path: str, first: str) -> None:
    """Concatenation order decides which input channels of the merge see which part."""
    trunk = make_trunk("yolor_csp").eval()
    block = trunk.get_submodule(path)
    seen: dict[str, torch.Tensor] = {}
    for name in (first, "bypass", "merge"):
        block.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: seen.update({name: o, f"{name}.in": i[0]})
        )
    with torch.no_grad():
        trunk(torch.rand(1, 3, 64, 64))
    joined = torch.cat([seen[first], seen["bypass"]], 1)
    assert torch.equal(seen["merge.in"], joined)


@pytest.mark.parametrize(
    ("block", "first", "second"),
    [("down_path4", "lateral4", "up4"), ("up_path4", "stride4", "down_path4")],
)
def test_own_map_comes_first_in_the_neck(block: str, first: str, second: str) -> None:
    neck = make_trunk("yolor_csp").eval().neck
    seen: dict[str, torch.Tensor] = {}
    for name in (first, second, block):
        neck.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: seen.update({name: o, f"{name}.in": i[0]})
        )
    with torch.no_grad():
        neck(torch.rand(1, 256, 8, 8), torch.rand(1, 512, 4, 4), torch.rand(1, 1024, 2, 2))
    width = seen[first].shape[1]
    assert torch.equal(seen[f"{block}.in"][:, :width], seen[first])
    tail = seen[f"{block}.in"][:, width:]
    other = seen[second]
    if other.shape[2:] != tail.shape[2:]:
        other = nn.functional.interpolate(other, scale_factor=2.0)
    assert torch.equal(tail, other)


def test_spp_sees_5_9_and_13_cells() -> None:
    spp = make_trunk("yolor_csp").eval().neck.spp
    seen: dict[str, torch.Tensor] = {}
    spp.before.register_forward_hook(lambda m, i, o: seen.update(y=o))
    spp.after[0].register_forward_hook(lambda m, i, o: seen.update(pooled=i[0]))
    with torch.no_grad():
        spp(torch.rand(1, 1024, 16, 16))
    pools = [nn.functional.max_pool2d(seen["y"], k, 1, k // 2) for k in (13, 9, 5)]
    assert torch.equal(seen["pooled"], torch.cat([*pools, seen["y"]], 1))


@pytest.mark.parametrize("name", [n for n in TRUNKS if n != "yolor_csp_x"])
def test_trunks_deliver_what_they_publish(name: str) -> None:
    trunk = make_trunk(name).eval()
    with torch.no_grad():
        pyramid = trunk(torch.rand(1, 3, 64, 96))
    assert list(pyramid) == list(trunk.features)
    for level, spec in trunk.features.items():
        assert pyramid[level].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


@pytest.mark.parametrize("name", ["tiny", "yolor_csp"])
def test_signal_keeps_its_size_at_the_start(name: str) -> None:
    """Stable training from scratch: no level vanishes or explodes in a first batch."""
    torch.manual_seed(0)
    trunk = make_trunk(name).train()
    with torch.no_grad():
        pyramid = trunk(torch.rand(4, 3, 64, 64))
    for level, tensor in pyramid.items():
        assert 0.05 < float(tensor.std()) < 5, level


@pytest.mark.parametrize("argument", [{"widths": [8, 16]}, {"activation": "sine"}])
def test_impossible_trunks_are_refused(argument: dict) -> None:
    usual = {"stem": 8, "widths": [8, 16, 16, 16, 16], "depths": [1] * 5, "neck_depth": 1}
    with pytest.raises(ConfigError, match="fix:"):
        CSPTrunk(**(usual | argument))
