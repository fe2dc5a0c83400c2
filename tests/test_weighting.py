"""One loss out of many."""

from __future__ import annotations

import pytest
import torch

from unified.bounds import checked
from unified.errors import ConfigError
from unified.weighting import WeightingConfig, build_weighting, task_total


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


class Balanced:
    """Two tasks read one pyramid of two levels, each through a factor of its own."""

    def __init__(self, loudness: tuple[float, float], **shares: float) -> None:
        self.weighting = build_weighting(WeightingConfig("balance", shares), ["a", "b"])
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
        self.weighting.seen.zero_()
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
    assert float(case.weighting.scales()["a"]) == pytest.approx(1.0)


def test_balance_learns_nothing_from_gradients_that_overflow() -> None:
    case = Balanced((1.0, 2.0))
    case.step("a", "b")
    before = {name: b.clone() for name, b in case.weighting.named_buffers()}
    case.loudness["b"] = float("inf")
    case.step("a", "b")
    for name, buffer in case.weighting.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_balance_goes_on_where_it_was() -> None:
    case, other = Balanced((1.0, 5.0)), Balanced((1.0, 5.0))
    for _ in range(3):
        case.step("a", "b")
    other.weighting.load_state_dict(case.weighting.state_dict())
    for task, gradient in case.step("a", "b").items():
        assert torch.equal(gradient, other.step("a", "b")[task])


def test_names_without_a_weight_count_once() -> None:
    total = task_total({"x": torch.tensor(2.0), "y": torch.tensor(3.0)}, {"y": 0.5})
    assert float(total) == 3.5


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="captions"):
        build_weighting(WeightingConfig("fixed", {"captions": 1.0}), ["detection"])
    with pytest.raises(ConfigError, match="fix:"):
        checked("weighting", {"kind": "magic"}, WeightingConfig)
