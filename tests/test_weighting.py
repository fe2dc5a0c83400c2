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


def test_names_without_a_weight_count_once() -> None:
    total = task_total({"x": torch.tensor(2.0), "y": torch.tensor(3.0)}, {"y": 0.5})
    assert float(total) == 3.5


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="captions"):
        build_weighting(WeightingConfig("fixed", {"captions": 1.0}), ["detection"])
    with pytest.raises(ConfigError, match="fix:"):
        checked("weighting", {"kind": "magic"}, WeightingConfig)
