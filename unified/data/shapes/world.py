"""What exists: categories, colours, and individuals that recur across images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unified.arrays import Array

SHAPES = (
    "disc", "square", "triangle", "star", "cross", "heart", "arrow", "moon", "hexagon", "figure",
)  # fmt: skip
PATTERNS = ("plain", "striped", "dotted", "checked", "ringed", "shaded")
STUFF = ("grass", "sand", "water", "sky", "brick", "gravel")
COLOURS = {
    "red": (205, 40, 40), "orange": (235, 125, 25), "yellow": (230, 210, 40),
    "green": (45, 160, 60), "blue": (40, 80, 200), "purple": (130, 50, 170),
    "pink": (240, 120, 180), "brown": (110, 65, 35), "turquoise": (40, 195, 190),
    "lime": (160, 220, 60),
}  # fmt: skip
"""Main colours; they say nothing about the shape."""
SECOND_COLOURS = {
    "white": (245, 245, 245), "black": (25, 25, 30), "grey": (125, 125, 125),
    "cream": (245, 225, 180),
}  # fmt: skip

JOINTS = (
    "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_hand",
    "right_hand", "left_hip", "right_hip", "left_knee", "right_knee", "left_foot", "right_foot",
)  # fmt: skip
SKELETON = (
    (0, 1), (0, 2), (1, 3), (3, 5), (2, 4), (4, 6),
    (1, 7), (2, 8), (7, 8), (7, 9), (9, 11), (8, 10), (10, 12),
)  # fmt: skip

FIRST_STUFF_ID = 101
OTHER_ID = FIRST_STUFF_ID + len(STUFF)
ZIPF_EXPONENT, ZIPF_SHIFT = 1.7, 4


def shape_id(shape: int) -> int:
    """COCO category id of a shape."""
    return shape + 1


def fine_categories() -> list[tuple[int, int]]:
    """(shape, pattern) from the most to the least frequent.

    Every block of ten holds each shape once, so that no shape as a whole is rare.
    """
    rng = np.random.default_rng(2105_04206)
    patterns = np.stack([rng.permutation(len(PATTERNS)) for _ in SHAPES])
    return [
        (int(shape), int(patterns[shape, block]))
        for block in range(len(PATTERNS))
        for shape in rng.permutation(len(SHAPES))
    ]


def fine_probabilities() -> Array:
    """Zipf's law over `fine_categories`, in Mandelbrot's form 1 / (rank + shift)^exponent."""
    rank = np.arange(1, len(SHAPES) * len(PATTERNS) + 1)
    weights = (rank + ZIPF_SHIFT) ** -ZIPF_EXPONENT
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class Individual:
    """Somebody who looks the same wherever they appear.

    Attributes:
        track_id: unique over all splits.
        fine: index into `fine_categories`.
        shape, pattern: indices.
        colours: names of the main and the second colour.
        tints: (2, 3) RGB of the two colours, shifted a little from the named ones.
        aspect: width over height.
        frequency, angle, phase: of the pattern.
    """

    track_id: int
    fine: int
    shape: int
    pattern: int
    colours: tuple[str, str]
    tints: Array
    aspect: float
    frequency: float
    angle: float
    phase: float


def draw_population(rng: np.random.Generator, first_id: int, sizes: Array) -> list[Individual]:
    """`sizes[k]` individuals of the k-th fine category, in their order."""
    population: list[Individual] = []
    for fine, (shape, pattern) in enumerate(fine_categories()):
        for _ in range(int(sizes[fine])):
            chosen = (str(rng.choice(list(COLOURS))), str(rng.choice(list(SECOND_COLOURS))))
            tints = np.array([COLOURS[chosen[0]], SECOND_COLOURS[chosen[1]]])
            tints = tints + rng.uniform(-25, 25, (2, 3))
            population.append(
                Individual(
                    track_id=first_id + len(population),
                    fine=fine,
                    shape=shape,
                    pattern=pattern,
                    colours=chosen,
                    tints=tints.clip(0, 255),
                    aspect=float(rng.uniform(0.8, 1.25)),
                    frequency=float(rng.uniform(1.6, 3.2)),
                    angle=float(rng.uniform(0, np.pi)),
                    phase=float(rng.uniform(0, 1)),
                )
            )
    return population
