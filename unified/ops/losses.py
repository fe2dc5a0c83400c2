"""Losses that the field names but torch and torchvision do not have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6


def asymmetric_loss(
    logits: Tensor, targets: Tensor, gamma_pos: float, gamma_neg: float, clip: float
) -> Tensor:
    """Asymmetric loss for multi-label classification (Ridnik et al. 2021, equations 4 to 7).

    Args:
        logits, targets: (N, C); targets are 0 or 1.
        gamma_pos, gamma_neg: focusing of positives and negatives.
        clip: probability margin below which negatives cost nothing.

    Returns:
        (N, C) losses.
    """
    logits = logits.float()
    positive = logits.sigmoid()
    negative = (1 - positive + clip).clamp(max=1)
    # The weights are constants of the gradient, as the authors train it.
    with torch.no_grad():
        weight = torch.where(targets > 0, (1 - positive) ** gamma_pos, (1 - negative) ** gamma_neg)
    log_negative = negative.clamp(min=1e-8).log()
    return -weight * torch.where(targets > 0, F.logsigmoid(logits), log_negative)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Cross-entropy that easy samples hardly enter: |y − p|^γ BCE (Lin et al. 2017, RetinaNet).

    Args:
        logits, targets: of one shape; targets are 0 or 1.
        gamma: how hardly.

    Returns:
        Losses of that shape, float32.
    """
    logits = logits.float()
    missed = (targets - logits.sigmoid()).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return missed.clamp(min=EPSILON) ** gamma * entropy


def focal_gradient(missed: Tensor, gamma: float) -> Tensor:
    """Size of the gradient of `focal_loss` in the logit: m^γ (m − γ (1 − m) log(1 − m)).

    Args:
        missed: m = |y − p|, of any shape.
        gamma: as there.
    """
    missed = missed.clamp(EPSILON, 1 - EPSILON)
    return missed**gamma * (missed - gamma * (1 - missed) * (1 - missed).log())
