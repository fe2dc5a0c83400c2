"""Multi-label classification."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from heads.classification import ClassificationHead
from tasks.classification import presence
from unified.errors import ConfigError
from unified.kinds.objects import ObjectTargets
from unified.ops.losses import asymmetric_loss
from unified.trunks.features import Level

FEATURES = {"p3": Level(8, 8), "p4": Level(8, 16)}


def test_presence_counts_crowds_and_repeats_once() -> None:
    targets = ObjectTargets(
        known=torch.ones(3, dtype=torch.bool),
        image=torch.tensor([0, 0, 2]),
        boxes=torch.zeros(3, 4),
        labels=torch.tensor([1, 1, 0]),
        crowd=torch.tensor([False, True, True]),
        identities=torch.zeros(3, dtype=torch.long),
        keys=torch.arange(3),
    )
    assert presence(targets, 2).tolist() == [[0, 1], [0, 0], [1, 0]]


def test_asymmetric_loss_without_focus_is_cross_entropy() -> None:
    logits, goal = torch.randn(4, 5), (torch.rand(4, 5) > 0.5).float()
    plain = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    torch.testing.assert_close(asymmetric_loss(logits, goal, 0.0, 0.0, 0.0), plain)


def test_asymmetric_loss_by_hand() -> None:
    """p = 0.5, margin 0.1, γ- = 2: 0.4² · -log(0.6)."""
    loss = asymmetric_loss(torch.zeros(1, 1), torch.zeros(1, 1), 0.0, 2.0, 0.1)
    assert float(loss) == pytest.approx(0.4**2 * 0.5108256, rel=1e-4)


def test_codes_and_linear_give_one_logit_per_class() -> None:
    maps = {"p3": torch.rand(2, 8, 4, 4), "p4": torch.rand(2, 8, 2, 2)}
    for classifier in ("codes", "linear"):
        head = ClassificationHead(FEATURES, 5, 6, classifier, 3)
        assert head(maps)["logits"].shape == (2, 5)


def test_logits_are_inner_products_with_class_codes() -> None:
    head = ClassificationHead(FEATURES, 5, 6, "codes", 3)
    seen = []
    head.align["pooled"].register_forward_hook(lambda m, i, o: seen.append(o))
    found = head({"p3": torch.rand(2, 8, 4, 4), "p4": torch.rand(2, 8, 2, 2)})["logits"]
    projected = head.project(seen[0])
    codes = head.classify
    expected = torch.einsum("bd,cd->bc", projected, codes.weight) + codes.bias
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("override", ["classifier=tree", "loss_kind=hinge"])
def test_unknown_choices_are_refused(override: str, make: Callable) -> None:
    with pytest.raises(ConfigError, match="fix:"):
        make("task=[classification]", f"task.classification.{override}")
