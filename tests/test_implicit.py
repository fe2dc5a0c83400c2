"""The laws of implicit codes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unified.data.dataset import collate
from unified.errors import ConfigError
from unified.implicit import ImplicitBank, ImplicitConfig

HEADS = {"a": ({"p3": 8, "p4": 16}, {"p3": 6, "p4": 6}), "b": ({"pooled": 12}, {"logits": 5})}
ARMS = [
    "implicit=vector",
    "implicit=network",
    "implicit=factorization",
    "implicit=network implicit.shared=true",
    "implicit=factorization implicit.shared=true",
    "implicit=vector implicit.align=mul implicit.refine=add",
    "implicit=vector implicit.align=concat",
    "implicit=network implicit.align=concat implicit.refine=none",
]


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def assert_same(left: dict, right: dict) -> None:
    for task in left:
        for name in left[task]:
            assert torch.equal(left[task][name], right[task][name]), f"{task}.{name}"


def test_no_codes_add_no_key(make: Callable) -> None:
    plain, _ = make("implicit=none")
    coded, _ = make("implicit=vector")
    extra = set(coded.model.state_dict()) - set(plain.model.state_dict())
    assert set(plain.model.state_dict()) <= set(coded.model.state_dict())
    assert extra
    assert all(key.startswith("bank.") for key in extra)


@pytest.mark.parametrize("arm", ARMS)
def test_neutral_codes_are_the_network_without_codes(make: Callable, arm: str) -> None:
    plain = make("implicit=none")[0].model.eval()
    coded = make(*arm.split())[0].model.eval()
    with torch.no_grad():
        coded.bank.neutralise()
        assert_same(plain(images()), coded(images()))


@pytest.mark.parametrize("arm", ARMS)
def test_codes_hardly_change_the_output_at_the_start(make: Callable, arm: str) -> None:
    # In training mode on real input, as in step 0: batch norm gives features their working size.
    built, data = make("implicit=none")
    coded = make(*arm.split())[0].model.train()
    dataset = data.train_dataset()
    batch = collate([dataset[(0, i)] for i in range(8)])
    with torch.no_grad():
        before, after = built.model.train()(batch.images), coded(batch.images)
    for task, outputs in before.items():
        for name, tensor in outputs.items():
            change = (after[task][name] - tensor).norm() / tensor.norm()
            assert 0 < change < 0.05, f"{task}.{name} changed by {change:.3f}"


@pytest.mark.parametrize("arm", ARMS[:2])
def test_one_seed_starts_both_arms_alike(make: Callable, arm: str) -> None:
    plain, coded = make("implicit=none")[0].model, make(*arm.split())[0].model
    weights = coded.state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_a_head_starts_alike_whatever_else_takes_part(make: Callable) -> None:
    alone = make("implicit=none", "task=[detection]")[0].model.state_dict()
    joint = make("implicit=none", "task=[classification,detection,embedding]")[0].model.state_dict()
    for key, value in alone.items():
        assert torch.equal(value, joint[key]), key


@pytest.mark.parametrize("arm", ["implicit=vector", "implicit=network implicit.shared=true"])
def test_codes_learn_from_their_own_task_only(make: Callable, arm: str) -> None:
    model = make(*arm.split())[0].model
    model(images())["detection"]["p3"].square().sum().backward()
    codes = {n: p.grad for n, p in model.bank.named_parameters()}
    own = [g for n, g in codes.items() if n.startswith("tasks.detection.") and "p3" in n]
    others = [g for n, g in codes.items() if not n.startswith("tasks.detection.")]
    assert own
    assert all(g is not None and g.abs().sum() > 0 for g in own)
    assert others
    assert all(g is None for g in others)


def test_sites_can_be_chosen(make: Callable) -> None:
    model = make("implicit=vector", "implicit.sites=[align.p3,refine.*]", "task=[detection]")[
        0
    ].model
    assert set(model.bank.sites()) == {
        ("detection", "align", "p3"),
        ("detection", "refine", "p3"),
        ("detection", "refine", "p4"),
        ("detection", "refine", "p5"),
    }


def test_sites_can_differ_per_task() -> None:
    config = ImplicitConfig(
        "vector", per_task={"a": {"sites": ["align.p3"]}, "b": {"refine": "none", "align": "mul"}}
    )
    bank = ImplicitBank(config, HEADS)
    assert set(bank.sites()) == {("a", "align", "p3"), ("b", "align", "pooled")}
    assert bank.tasks["b"].align["pooled"].decoder.neutral == 1.0


def test_sizes_of_codes_follow_the_paper() -> None:
    network = ImplicitBank(ImplicitConfig("network"), HEADS)
    assert network.tasks["a"].align["p4"].decoder.z.shape == (32,)
    factorization = ImplicitBank(ImplicitConfig("factorization"), HEADS)
    assert factorization.tasks["a"].align["p4"].decoder.weight.shape == (16, 2)
    shared = ImplicitBank(ImplicitConfig("network", shared=True), HEADS)
    assert shared.tasks["a"].z.shape == (32,)
    assert shared.tasks["b"].z.shape == (24,)
    assert not [n for n, _ in shared.named_parameters() if n.endswith("decoder.z")]


@pytest.mark.parametrize("decoder", ["vector", "network", "factorization"])
def test_decoded_codes_start_with_the_given_spread(decoder: str) -> None:
    torch.manual_seed(0)
    bank = ImplicitBank(ImplicitConfig(decoder), {"t": ({"x": 4096}, {"y": 4096})})
    for place, mean in (("align", 0.0), ("refine", 1.0)):
        decoded = getattr(bank.tasks["t"], place)[{"align": "x", "refine": "y"}[place]].decoder()
        assert abs(float(decoded.mean()) - mean) < 0.02
        assert 0.012 < float(decoded.std()) < 0.03


@pytest.mark.parametrize("arm", ["implicit=none", *ARMS])
def test_fusing_changes_nothing_but_the_cost(make: Callable, arm: str) -> None:
    model = make(*arm.split(), "task.classification.classifier=linear")[0].model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        before = model(images())
        fused = copy.deepcopy(model).fuse()
        after = fused(images())
    assert not hasattr(fused, "bank")
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for task, outputs in before.items():
        for name, tensor in outputs.items():
            torch.testing.assert_close(after[task][name], tensor, rtol=1e-3, atol=1e-4)


def test_fusing_leaves_codes_that_no_linear_layer_can_hold(make: Callable) -> None:
    model = make("implicit=vector")[0].model.eval()
    with torch.no_grad():
        before, after = model(images()), model.fuse()(images())
    assert set(model.bank.sites()) == {
        ("classification", "align", "pooled"),
        ("classification", "refine", "logits"),
    }
    torch.testing.assert_close(
        after["classification"]["logits"], before["classification"]["logits"]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"refine": "concat"}, "implicit.refine=concat"),
        ({"align": "rotate"}, "implicit.align=rotate"),
        ({"decoder": "lstm"}, "implicit.decoder=lstm"),
        ({"shared": True}, "implicit.shared=true"),
        ({"per_task": {"a": {"refine": "concat"}}}, "implicit.per_task.a.refine=concat"),
        ({"per_task": {"a": {"sigma": 1}}}, "sigma"),
        ({"per_task": {"c": {"align": "mul"}}}, "'c'"),
        ({"sites": ["align.p9"]}, "align.p9"),
    ],
)
def test_impossible_codes_are_refused_with_a_fix(arguments: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImplicitBank(ImplicitConfig(**({"decoder": "vector"} | arguments)), HEADS)
    assert said in str(caught.value)
    assert "fix:" in str(caught.value)
