"""One loss out of many."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unified.bounds import checked
from unified.errors import ConfigError, JobError
from unified.weighting.balance import BalanceWeighting
from unified.weighting.build import build_weighting
from unified.weighting.config import WeightingConfig
from unified.weighting.values import task_total


def test_fixed_weights_add_up() -> None:
    weighting = build_weighting(WeightingConfig("fixed", {"b": 3.0}, scale=2.0), ["a", "b"])
    total = weighting({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    assert float(total) == 2 * 1 + 2 * 3 * 10
    assert not list(weighting.parameters())


def test_uncertainty_starts_as_fixed_and_settles_at_the_loss() -> None:
    """exp(-s) L + s is smallest at s = log L."""
    weighting = build_weighting(WeightingConfig("uncertainty"), ["a", "b"])
    losses = {"a": torch.tensor(4.0), "b": torch.tensor(0.25)}
    assert float(weighting(losses).detach()) == pytest.approx(4.25)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        weighting(losses).backward()
        optimizer.step()
    learned = {n: float(p.detach().exp()) for n, p in weighting.log_variance.items()}
    assert learned == pytest.approx({"a": 4.0, "b": 0.25}, rel=1e-2)


def test_uncertainty_learns_nothing_of_a_task_without_labels() -> None:
    weighting = build_weighting(WeightingConfig("uncertainty"), ["a", "b"])
    weighting({"a": torch.tensor(0.0), "b": torch.tensor(0.25)}).backward()
    assert float(weighting.log_variance["a"].grad) == 0
    assert float(weighting.log_variance["b"].grad) == 0.75


def test_the_slower_a_loss_falls_the_more_it_weighs() -> None:
    """Against equation 7, by hand; two epochs have to be known."""
    weighting = build_weighting(WeightingConfig("dwa", {"b": 3.0}), ["a", "b"])
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(10.0)}
    weighting.end_epoch({"a": 4.0, "b": 10.0})
    assert float(weighting(losses)) == 31
    weighting.end_epoch({"a": 1.0, "b": 9.0})
    share = math.exp(0.25 / 2) / (math.exp(0.25 / 2) + math.exp(0.9 / 2))
    assert weighting.factors() == pytest.approx({"a": 2 * share, "b": 3 * 2 * (1 - share)})
    assert float(weighting(losses)) == pytest.approx(2 * share + 60 * (1 - share))
    copied = build_weighting(WeightingConfig("dwa", {"b": 3.0}), ["a", "b"])
    copied.load_state_dict(weighting.state_dict())  # as a resumed run does
    for one in (weighting, copied):
        one.end_epoch({"a": 1.0, "b": 4.5})
    assert copied.factors() == weighting.factors()
    assert weighting.factors()["a"] > weighting.factors()["b"] / 3


@pytest.mark.parametrize("earlier", [0.0, math.nan, -0.002])
def test_a_loss_that_says_nothing_of_its_speed_weighs_as_one_that_stands(earlier: float) -> None:
    weighting = build_weighting(WeightingConfig("dwa"), ["a", "b"])
    weighting.end_epoch({"a": earlier, "b": 1.0})
    weighting.end_epoch({"a": 2.0, "b": 1.0})
    assert weighting.factors() == pytest.approx({"a": 1.0, "b": 1.0})
    weighting.end_epoch({"a": 1e9, "b": 1.0})  # nor may one silence all others
    assert min(weighting.factors().values()) > 0.01
    assert all(buffer.isfinite().all() for buffer in weighting.buffers())


class Balanced:
    """Two tasks read one pyramid of two levels, each through a factor of its own.

    Args:
        loudness: factor on each loss.
        scale, shares: of `balance`.
        config: in place of it.
    """

    def __init__(
        self,
        loudness: tuple[float, float],
        scale: float = 1.0,
        config: WeightingConfig | None = None,
        **shares: float,
    ) -> None:
        config = config or WeightingConfig("balance", shares, scale)
        self.weighting = build_weighting(config, ["a", "b"])
        self.loudness = dict(zip("ab", loudness, strict=True))
        generator = torch.Generator().manual_seed(0)
        self.pyramid = {
            n: torch.randn(2, 3, s, s, generator=generator) for n, s in (("p3", 4), ("p4", 2))
        }
        self.asked = {
            t: [torch.randn(p.shape, generator=generator) for p in self.pyramid.values()]
            for t in "ab"
        }

    def step(self, *tasks: str) -> dict[str, torch.Tensor]:
        """What each task sends to the whole pyramid, times its factor; with a star, its own."""
        leaves = {n: p.clone().requires_grad_() for n, p in self.pyramid.items()}
        own = {t: torch.tensor(1.0, requires_grad=True) for t in tasks}
        self.weighting(self._losses(own, self.weighting.enter(leaves))).backward()
        found = {f"{t}*": own[t].grad for t in tasks}
        for task, factor in self.weighting.factors().items():
            if task in tasks:
                loss = self._losses({task: torch.tensor(1.0)}, {task: leaves})[task]
                sent = torch.autograd.grad(loss, list(leaves.values()))
                found[task] = factor * torch.cat([g.flatten() for g in sent])
        whole = torch.cat([leaf.grad.flatten() for leaf in leaves.values()])
        if whole.isfinite().all():
            torch.testing.assert_close(whole, torch.stack([found[t] for t in tasks]).sum(0))
        return found

    def _losses(
        self, own: dict[str, torch.Tensor], read: dict[str, dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        return {
            task: self.loudness[task] * one * sum(
                (r * w).sum() for r, w in zip(read[task].values(), self.asked[task], strict=True)
            )
            for task, one in own.items()
        }  # fmt: skip


def test_balance_gives_every_task_its_share_of_the_pyramid_s_gradient() -> None:
    case = Balanced((1.0, 500.0), a=2.0)
    found = case.step("a", "b")
    assert found["b*"].abs() > 100 * found["a*"].abs()  # heads learn from their losses as they are
    assert float(found["a"].norm() / found["b"].norm()) == pytest.approx(2.0, rel=1e-4)
    louder = Balanced((7.0, 0.1), a=2.0)
    other = louder.step("a", "b")
    ratio = other["a"].norm() / found["a"].norm()
    for task in "ab":  # however loud they are
        torch.testing.assert_close(other[task], ratio * found[task], rtol=1e-4, atol=1e-5)


def test_balance_of_one_task_changes_nothing() -> None:
    """Nor of one that is heard, beside another that is not."""
    case = Balanced((3.0, 1.0))
    first, second = case.step("a"), case.step("a")
    torch.testing.assert_close(first["a"], second["a"])
    assert case.weighting.factors() == pytest.approx({"a": 1.0, "b": 1.0})


def test_balance_learns_nothing_from_gradients_that_overflow() -> None:
    case = Balanced((1.0, 2.0))
    case.step("a", "b")
    before = {name: b.clone() for name, b in case.weighting.named_buffers()}
    case.loudness["b"] = float("inf")
    case.step("a", "b")
    for name, buffer in case.weighting.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_balance_keeps_the_order_of_magnitude() -> None:
    """Of the sum of norms by share; `scale` multiplies everything."""
    case, double = Balanced((1.0, 50.0), a=3.0), Balanced((1.0, 50.0), 2.0, a=3.0)
    found = case.step("a", "b")
    factors = case.weighting.factors()
    norms = {task: float(found[task].norm()) / factors[task] for task in "ab"}
    common = (3 * norms["a"] + norms["b"]) / 4
    for task, share in (("a", 3.0), ("b", 1.0)):
        assert float(found[task].norm()) == pytest.approx(share * common, rel=1e-4)
    for name, gradient in double.step("a", "b").items():
        torch.testing.assert_close(gradient, 2 * found[name])


def test_balance_of_a_task_that_is_silent_for_long_stays_as_it_was() -> None:
    case = Balanced((1.0, 4.0))
    for _ in range(3):
        case.step("a", "b")
    before = case.weighting.factors()
    for _ in range(500):
        case.step("a")
    assert case.weighting.factors() == pytest.approx(before, rel=1e-4)


def test_balance_of_a_task_that_is_heard_late_has_its_share_at_once() -> None:
    """Its mean begins where it is first heard, and does not rise from 0."""
    case = Balanced((1.0, 4.0))
    for _ in range(50):
        case.step("a")
    found = case.step("a", "b")
    assert float(found["a"].norm() / found["b"].norm()) == pytest.approx(1.0, rel=1e-3)


def test_balance_follows_what_changes_slowly() -> None:
    """Neither the last step alone rules, nor the first ones for ever."""
    case = Balanced((1.0, 1.0))
    for _ in range(20):
        case.step("a", "b")
    steady = case.weighting.factors()["b"]
    louder = Balanced((1.0, 10.0))
    louder.step("a", "b")
    loud = louder.weighting.factors()["b"]
    case.loudness["b"] = 10.0
    case.step("a", "b")
    assert 1.05 * loud < case.weighting.factors()["b"] < steady
    for _ in range(500):
        case.step("a", "b")
    assert case.weighting.factors()["b"] == pytest.approx(loud, rel=1e-2)


def test_balance_goes_on_where_it_was() -> None:
    case, other = Balanced((1.0, 5.0)), Balanced((1.0, 5.0))
    for loudness in (5.0, 3.0, 20.0):
        case.loudness["b"] = loudness
        case.step("a", "b")
    other.weighting.load_state_dict(case.weighting.state_dict())
    for loudness in (1.0, 7.0):
        for each in (case, other):
            each.loudness["b"] = loudness
        ours, theirs = case.step("a", "b"), other.step("a", "b")
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_weighting_says_its_factors() -> None:
    assert build_weighting(WeightingConfig("fixed", {"b": 3.0}, 2.0), ["a", "b"]).factors() == {
        "a": 2.0,
        "b": 6.0,
    }
    learned = build_weighting(WeightingConfig("uncertainty"), ["a"])
    with torch.no_grad():
        learned.log_variance["a"].fill_(1.0)
    assert learned.factors()["a"] == pytest.approx(math.exp(-1))


def test_names_without_a_weight_count_once() -> None:
    total = task_total({"x": torch.tensor(2.0), "y": torch.tensor(3.0)}, {"y": 0.5})
    assert float(total) == 3.5


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="captions"):
        build_weighting(WeightingConfig("fixed", {"captions": 1.0}), ["detection"])
    with pytest.raises(ConfigError, match="fix:"):
        checked("weighting", {"kind": "magic"}, WeightingConfig)


OPTIONS: dict[str, dict[str, Any]] = {
    "Constant": {"weights": [1.0, 2.0]},
    "COSMOS": {"lambda_": 1.0, "weights": [1.0, 2.0]},
    "FairGrad": {"alpha": 1.0},
    "PBI": {"theta": 1.0, "weights": [1.0, 2.0]},
    "STCH": {"mu": 0.1},
}
"""Of torchjd's classes that cannot do without."""


def torchjd(method: str, **options: Any) -> WeightingConfig:
    return WeightingConfig("torchjd", method=method, options=options or OPTIONS.get(method, {}))


def methods() -> list[str]:
    """All that torchjd offers here, but for one that needs packages of its own."""
    with pytest.raises(ConfigError, match="UPGrad") as refused:
        build_weighting(torchjd("Poetry"), ["a"])
    names = str(refused.value).split("use one of ")[1].split(", ")
    assert {"UPGrad", "MGDA", "PCGrad", "GeometricMean", "UW"} < set(names)
    return [name for name in names if name != "CAGrad"]


@pytest.mark.parametrize("method", methods())
def test_every_method_of_torchjd_joins_losses(method: str) -> None:
    """Also where a task sends nothing; the heads learn in any case."""
    case = Balanced((1.0, 3.0), config=torchjd(method))
    read = case.weighting.enter({n: p.requires_grad_() for n, p in case.pyramid.items()})
    for silent in (1.0, 0.0):
        own = torch.ones(2, requires_grad=True)
        losses = {t: 100 + own[i] * read[t]["p3"].mean() for i, t in enumerate("ab")}
        losses["b"] = silent * losses["b"]  # as of a step whose images do not know its labels
        (joint := case.weighting(losses)).backward(retain_graph=True)
        assert joint.isfinite()
        assert own.grad is not None
        assert own.grad.isfinite().all()
        assert own.grad[0] != 0
        for level in ("p3",):
            assert case.pyramid[level].grad.isfinite().all()
        assert all(math.isfinite(factor) for factor in case.weighting.factors().values())


def test_a_task_that_sends_nothing_has_no_say_in_the_others_weights() -> None:
    """The shortest mean of gradients, MGDA's, would be nothing at all."""
    case = Balanced((1.0, 3.0), config=torchjd("MGDA"))
    assert case.step("a")["a"].norm() > 0


@pytest.mark.parametrize("method", ["UPGrad", "MGDA", "IMTLG", "PCGrad"])
def test_weights_say_nothing_of_how_loud_all_are(method: str) -> None:
    """Late in a training gradients are small, and torchjd takes what is small for nothing."""
    factors = []
    for loudness in (1.0, 1e-5):
        case = Balanced((loudness, 3 * loudness), config=torchjd(method))
        case.asked["b"] = [b - a for a, b in zip(case.asked["a"], case.asked["b"], strict=True)]
        case.step("a", "b")
        factors.append(case.weighting.factors())
    assert factors[1] == pytest.approx(factors[0], rel=1e-3)
    assert factors[0]["a"] != pytest.approx(factors[0]["b"], rel=1e-2)


def test_factors_of_tasks_come_before_an_aggregator() -> None:
    """It sees gradients times them: a task twice as loud is one with the factor 2."""
    config = WeightingConfig("torchjd", {"b": 2.0}, method="MGDA")
    by_factor, louder = (
        Balanced((1.0, 3.0), config=config),
        Balanced((1.0, 6.0), config=torchjd("MGDA")),
    )
    ours, theirs = by_factor.step("a", "b"), louder.step("a", "b")
    for task in "ab":
        torch.testing.assert_close(ours[task], theirs[task])
    assert by_factor.weighting.factors()["b"] == pytest.approx(
        2 * louder.weighting.factors()["b"], rel=1e-4
    )


def test_an_aggregator_weighs_nothing_in_a_step_that_overflows() -> None:
    case = Balanced((1.0, float("inf")), config=torchjd("MGDA"))
    case.step("a", "b")
    assert case.weighting.factors() == {"a": 1.0, "b": 1.0}


def test_sums_of_torchjd_are_the_plain_sum() -> None:
    for config in (torchjd("Sum"), WeightingConfig("fixed")):
        case = Balanced((1.0, 3.0), config=config)
        leaves = {n: p.clone().requires_grad_() for n, p in case.pyramid.items()}
        losses = case._losses({t: torch.tensor(1.0) for t in "ab"}, dict.fromkeys("ab", leaves))
        plain = torch.autograd.grad(sum(losses.values()), list(leaves.values()))
        found = case.step("a", "b")
        torch.testing.assert_close(found["a"] + found["b"], torch.cat([g.flatten() for g in plain]))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_no_task_is_worked_against(seed: int, loudness: float) -> None:
    """UPGrad's law, an acute angle with every task's, up to what it adds to all squares (1e-4)."""
    case = Balanced((1.0, loudness), config=torchjd("UPGrad"))
    torch.manual_seed(seed)
    case.asked = {t: [torch.randn(p.shape) for p in case.pyramid.values()] for t in "ab"}
    case.asked["b"] = [b - a for a, b in zip(case.asked["a"], case.asked["b"], strict=True)]
    found = case.step("a", "b")
    joint = found["a"] + found["b"]
    for task in "ab":
        assert joint @ found[task] >= -1e-3 * sum(f @ f for n, f in found.items() if n in "ab")


def test_factors_of_a_scalarizer_are_its_slopes() -> None:
    config = WeightingConfig("torchjd", {"b": 2.0}, 3.0, "GeometricMean")
    weighting = build_weighting(config, ["a", "b"])
    losses = {n: torch.tensor(v, requires_grad=True) for n, v in (("a", 2.0), ("b", 4.0))}
    assert float(weighting(losses).detach()) == pytest.approx(3 * 4)  # of 2 and 8
    assert weighting.factors() == pytest.approx({"a": 3.0, "b": 1.5})
    weighting(losses).backward()
    assert [float(loss.grad) for loss in losses.values()] == pytest.approx([3.0, 1.5])
    with pytest.raises(JobError, match=r"GeometricMean.*negative"):
        weighting({"a": torch.tensor(-1.0), "b": torch.tensor(4.0)})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: torchjd("CAGrad", c=0.5), "cvxpy"),
        (lambda: torchjd("UPGrad", pref_vector=[1.0, 2.0]), "weighting.tasks"),
        (lambda: torchjd("Constant", weights=["a", None]), "Constant"),
        (lambda: torchjd("GradVac"), "weighting.method=GradVac"),
        (
            lambda: WeightingConfig("torchjd", {"a": 0.0}, method="GeometricMean"),
            "has to see every loss",
        ),
        (lambda: WeightingConfig("fixed", {"a": 0.0, "b": 0.0}), "nothing would be learnt"),
        (lambda: torchjd("STCH", mu=-1.0), "strictly positive"),
        (lambda: torchjd("UPGrad", poetry=1), "poetry"),
        (lambda: torchjd("Constant", weights=[1.0]), "shape"),
        (lambda: WeightingConfig("fixed", method="UPGrad"), "weighting=torchjd"),
        (lambda: WeightingConfig("torchjd"), "weighting.method=None"),
    ],
)
def test_what_torchjd_cannot_do_is_refused(
    config: Callable[[], WeightingConfig], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        build_weighting(config(), ["a", "b"])


def test_torchjd_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ConfigError, match=r"pip install 'unified\[torchjd\]'"):
        build_weighting(torchjd("UPGrad"), ["a", "b"])


def test_large_gradients_of_half_precision_are_balanced() -> None:
    balance = BalanceWeighting({"loud": 1.0, "quiet": 1.0})
    loud = torch.full((64, 64), 30_000.0, dtype=torch.float16)
    balance.weigh([[loud], [loud / 1000]])
    assert balance.factor.isfinite().all()
    assert float(balance.factor[1] / balance.factor[0]) == pytest.approx(1000, rel=1e-2)
