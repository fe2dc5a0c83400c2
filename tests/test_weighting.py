"""One loss out of many."""

from __future__ import annotations

import math

import pytest
import torch

from unified.bounds import checked
from unified.errors import ConfigError
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
    """Two tasks read one pyramid of two levels, each through a factor of its own."""

    def __init__(self, loudness: tuple[float, float], scale: float = 1.0, **shares: float) -> None:
        self.weighting = build_weighting(WeightingConfig("balance", shares, scale), ["a", "b"])
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
        """The gradient of each task on the whole pyramid; on its own parameter with a star."""
        leaves = {n: p.clone().requires_grad_() for n, p in self.pyramid.items()}
        found, losses = {}, {}
        own = {t: torch.tensor(1.0, requires_grad=True) for t in tasks}
        for task in tasks:
            read = self.weighting.enter(task, leaves)
            losses[task] = self.loudness[task] * own[task] * sum(
                (r * w).sum() for r, w in zip(read.values(), self.asked[task], strict=True)
            )  # fmt: skip
        for task in tasks:
            one = {name: loss * (name == task) for name, loss in losses.items()}
            gradients = torch.autograd.grad(
                self.weighting(one), [*leaves.values(), own[task]], retain_graph=True
            )
            found[task] = torch.cat([g.flatten() for g in gradients[:-1]])
            found[f"{task}*"] = gradients[-1]
        self.weighting.squares.zero_()
        self.weighting(losses).backward()
        self.weighting.learn()
        return found


def test_balance_gives_every_task_its_share_of_the_pyramid_s_gradient() -> None:
    case = Balanced((1.0, 500.0), a=2.0)
    first, second = case.step("a", "b"), case.step("a", "b")
    assert first["b"].norm() > 100 * first["a"].norm()
    assert float(second["a"].norm() / second["b"].norm()) == pytest.approx(2.0, rel=1e-4)
    for task in "ab":
        assert torch.cosine_similarity(first[task], second[task], 0) == pytest.approx(1.0)
        assert torch.equal(first[f"{task}*"], second[f"{task}*"])  # heads learn as ever
    louder = Balanced((7.0, 0.1), a=2.0)
    louder.step("a", "b")
    third = louder.step("a", "b")
    ratio = third["a"].norm() / second["a"].norm()
    for task in "ab":  # however loud they are
        torch.testing.assert_close(third[task], ratio * second[task], rtol=1e-4, atol=1e-5)


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
    first, second = case.step("a", "b"), case.step("a", "b")
    norms = {task: float(first[task].norm()) for task in "ab"}
    norms["a"] /= 3  # a share of 3 until more is known
    common = (3 * norms["a"] + norms["b"]) / 4
    for task, share in (("a", 3.0), ("b", 1.0)):
        assert float(second[task].norm()) == pytest.approx(share * common, rel=1e-4)
    double.step("a", "b")
    for name, gradient in double.step("a", "b").items():
        torch.testing.assert_close(gradient, 2 * second[name])


def test_balance_of_a_task_that_is_silent_for_long_stays_as_it_was() -> None:
    case = Balanced((1.0, 4.0))
    for _ in range(3):
        case.step("a", "b")
    before = case.weighting.factors()
    for _ in range(2000):
        case.weighting.squares[0] = case.weighting.mean[0]
        case.weighting.learn()
    assert case.weighting.factors() == pytest.approx(before, rel=1e-4)


def test_balance_of_a_task_that_is_heard_late_has_its_share_at_once() -> None:
    """Its mean begins where it is first heard, and does not rise from 0."""
    case = Balanced((1.0, 4.0))
    for _ in range(50):
        case.step("a")
    case.step("a", "b")
    found = case.step("a", "b")
    assert float(found["a"].norm() / found["b"].norm()) == pytest.approx(1.0, rel=1e-3)


def test_balance_follows_what_changes_slowly() -> None:
    """Neither the last step alone rules, nor the first ones for ever."""
    case = Balanced((1.0, 1.0))
    for _ in range(20):
        case.step("a", "b")
    steady = case.weighting.factors()["b"]
    case.loudness["b"] = 10.0
    case.step("a", "b")
    assert 0.3 * steady < case.weighting.factors()["b"] < steady
    for _ in range(1500):
        case.weighting.squares.copy_(case.weighting.mean.new_tensor([1.0, 100.0]))
        case.weighting.learn()
    factors = case.weighting.factors()
    assert factors["a"] / factors["b"] == pytest.approx(10.0, rel=1e-3)


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
