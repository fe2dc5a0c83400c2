"""Sampling of maps at points."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from unified.ops.sampling import sample


def test_values_are_those_of_torch() -> None:
    """Each point from a map of its own, within the map and beyond it."""
    maps = torch.randn(2, 3, 2, 5, 7)
    image = torch.tensor([0, 1, 1, 0])
    places = torch.rand(4, 3, 2) * torch.tensor([9.0, 7.0]) - 1
    found = sample(maps, image, places)
    for row in range(4):
        for joint in range(3):
            at = places[row, joint] / torch.tensor([7.0, 5.0]) * 2 - 1
            wanted = F.grid_sample(
                maps[image[row], joint][None], at[None, None, None],
                padding_mode="border", align_corners=False,
            )  # fmt: skip
            torch.testing.assert_close(found[row, joint], wanted.flatten(), rtol=1e-4, atol=1e-5)


def test_vectors_to_a_point_lead_there_from_between_the_centres() -> None:
    """Such a field is linear, so that nothing is lost between cells; beyond the outermost centres
    it stays as it is there.
    """
    goal = torch.tensor([2.3, 3.6])
    y, x = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(6) + 0.5, indexing="ij")
    field = (goal - torch.stack([x, y], -1)).permute(2, 0, 1)[None, None]
    places = torch.rand(20, 1, 2) * 5 + 0.5
    moved = places + sample(field, torch.zeros(20, dtype=torch.long), places)
    torch.testing.assert_close(moved, goal.expand_as(moved))
    outside, border = torch.tensor([[[-3.0, 2.0]]]), torch.tensor([[[0.5, 2.0]]])
    found = [sample(field, torch.zeros(1, dtype=torch.long), at) for at in (outside, border)]
    assert torch.equal(*found)


def test_no_points_are_no_values() -> None:
    nobody = torch.zeros(0, dtype=torch.long)
    assert sample(torch.zeros(2, 3, 2, 4, 4), nobody, torch.zeros(0, 3, 2)).shape == (0, 3, 2)


def test_places_that_are_no_numbers_break_nothing() -> None:
    """Losses find what is not finite, and say so: an index out of bounds would come first."""
    places = torch.tensor([float("nan"), float("inf"), -float("inf")]).view(3, 1, 1).expand(3, 1, 2)
    assert sample(torch.ones(1, 1, 2, 4, 4), torch.zeros(3, dtype=torch.long), places).eq(1).all()
