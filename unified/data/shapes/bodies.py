"""Outlines of the shapes and the articulated figure, in a unit frame: x right, y down, [-1, 1]."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from unified.arrays import Array

Pieces = list[Array]
"""Polygons whose union is the body; each (P, 2)."""


def outline(shape: str) -> Array:
    """(P, 2) polygon of a rigid shape."""
    return np.array(_OUTLINES[shape])


def _regular(corners: int, start: float = -np.pi / 2) -> Array:
    angles = start + np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _star() -> Array:
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return _regular(10) * radii[:, None]


def _cross(arm: float = 0.36) -> Array:
    a = arm
    return np.array(
        [[-a, -1], [a, -1], [a, -a], [1, -a], [1, a], [a, a],
         [a, 1], [-a, 1], [-a, a], [-1, a], [-1, -a], [-a, -a]]
    )  # fmt: skip


def _heart() -> Array:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return np.stack([x, y], 1)


def _arrow() -> Array:
    return np.array(
        [[-1, -0.3], [0.1, -0.3], [0.1, -0.85], [1, 0], [0.1, 0.85], [0.1, 0.3], [-1, 0.3]]
    )


def _moon() -> Array:
    outer = np.linspace(-0.72 * np.pi, 0.72 * np.pi, 30) + np.pi
    inner = np.linspace(0.62 * np.pi, -0.62 * np.pi, 24) + np.pi
    far = np.stack([np.cos(outer), np.sin(outer)], 1)
    near = np.stack([0.42 + 0.83 * np.cos(inner), 0.83 * np.sin(inner)], 1)
    outline: Array = np.concatenate([far, near])
    outline[:, 0] += 0.25
    return outline


_OUTLINES = {
    "disc": _regular(36),
    "square": np.array([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]]),
    "triangle": np.array([[0, -0.95], [1, 0.8], [-1, 0.8]]),
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
    "arrow": _arrow(),
    "moon": _moon(),
    "hexagon": _regular(6, 0.0),
}


def draw_figure(rng: np.random.Generator) -> tuple[Pieces, Array]:
    """A figure in a random pose: body pieces and (13, 2) joints in the order of `JOINTS`.

    It faces the viewer, so its left side has the larger x. Both sides look alike: only the
    geometry tells left from right.
    """
    joints = np.zeros((13, 2))
    joints[0] = [rng.uniform(-0.08, 0.08), -0.78]
    for side, (shoulder, elbow, hand, hip, knee, foot) in {
        1: (1, 3, 5, 7, 9, 11),
        -1: (2, 4, 6, 8, 10, 12),
    }.items():
        joints[shoulder] = [side * 0.24, -0.45]
        upper, lower = rng.uniform(-0.5, 1.4), rng.uniform(-0.3, 1.3)
        joints[elbow] = joints[shoulder] + 0.33 * _direction(side, upper)
        joints[hand] = joints[elbow] + 0.32 * _direction(side, upper - lower)
        joints[hip] = [side * 0.15, 0.12]
        thigh, bend = rng.uniform(0.8, 1.5), rng.uniform(-0.35, 0.25)
        joints[knee] = joints[hip] + 0.40 * _direction(side, thigh)
        joints[foot] = joints[knee] + 0.40 * _direction(side, min(thigh - bend, 1.75))
    torso = joints[[2, 1, 7, 8]] + [[-0.06, -0.05], [0.06, -0.05], [0.07, 0.06], [-0.07, 0.06]]
    pieces = [torso, 0.2 * _regular(16) + joints[0], _limb([0, -0.65], [0, -0.45], 0.09)]
    for chain in ((1, 3, 5), (2, 4, 6), (7, 9, 11), (8, 10, 12)):
        for begin, end in pairwise(chain):
            pieces.append(_limb(joints[begin], joints[end], 0.1))
    return pieces, joints


def _direction(side: int, angle: float) -> Array:
    """Unit vector, 0 sideways, π/2 down, mirrored for the figure's right side."""
    return np.array([side * np.cos(angle), np.sin(angle)])


def _limb(begin: Array | list[float], end: Array | list[float], radius: float) -> Array:
    """A capsule from begin to end."""
    begin, end = np.asarray(begin, float), np.asarray(end, float)
    along = end - begin
    turn = np.arctan2(along[1], along[0])
    cap = np.linspace(-np.pi / 2, np.pi / 2, 7) + turn
    far = end + radius * np.stack([np.cos(cap), np.sin(cap)], 1)
    near = begin - radius * np.stack([np.cos(cap), np.sin(cap)], 1)
    return np.concatenate([far, near])
