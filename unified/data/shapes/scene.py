"""Compose one image: ground, things from back to front, and the label maps that go with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

from unified.arrays import Array
from unified.data.shapes import bodies
from unified.data.shapes.world import SHAPES, STUFF, Individual

SUPERSAMPLING = 2
MIN_PIXELS = 14
MIN_VISIBLE = 0.5
GROUND_GREY, GROUND_CONTRAST = 135.0, 0.6
MIN_THINGS, MAX_THINGS = 2, 8
THINGS_PER_IMAGE = (MIN_THINGS + MAX_THINGS) / 2
_BITS = 4


@dataclass
class Thing:
    """A placed object; its visible pixels are those of the scene's `owner` map with its index."""

    individual: Individual
    crowd: bool
    full_area: int
    joints: Array | None = None


@dataclass
class Scene:
    """An image and its labels.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        ground: (S, S) uint8 stuff index of every pixel, also below things.
        owner: (S, S) int16 index into `things`, -1 where the ground is seen.
        things: from back to front.
    """

    image: Array
    ground: Array
    owner: Array
    things: list[Thing] = field(default_factory=list)


def draw_scene(
    rng: np.random.Generator, population: list[Individual], odds: Array, size: int
) -> Scene:
    """Draw one scene of `size` pixels; `odds` are the individuals' probabilities."""
    ground = _draw_ground(rng, size)
    canvas = _paint_ground(rng, ground)
    scene = Scene(canvas, ground, np.full((size, size), -1, np.int16))
    if rng.random() < 0.12:
        _place(scene, rng, population[rng.choice(len(population), p=odds)], crowd=True)
    wanted = int(rng.integers(MIN_THINGS, MAX_THINGS + 1))
    for _ in range(wanted * 4):
        if len(scene.things) >= wanted:
            break
        _place(scene, rng, population[rng.choice(len(population), p=odds)], crowd=False)
    scene.image = _photograph(rng, scene.image, size)
    return scene


# --- Ground ---------------------------------------------------------------------------------


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _draw_ground(rng: np.random.Generator, size: int) -> Array:
    """Two to four kinds of stuff; the borders follow noise of two scales."""
    kinds = rng.choice(len(STUFF), int(rng.integers(2, 5)), replace=False)
    fields = [
        _smooth_noise(rng, size, 4) + 0.25 * _smooth_noise(rng, size, 16) for _ in range(len(kinds))
    ]
    return np.asarray(kinds[np.argmax(fields, 0)], np.uint8)


def _paint_ground(rng: np.random.Generator, ground: Array) -> Array:
    """(S, S) kinds → (2S, 2S, 3) float32 texture."""
    side = ground.shape[0] * SUPERSAMPLING
    large = cv2.resize(ground, (side, side), interpolation=cv2.INTER_NEAREST)
    canvas = np.zeros((side, side, 3), np.float32)
    for kind in np.unique(ground):
        tile = _texture(int(kind))
        y, x = rng.integers(0, tile.shape[0] - side + 1, 2) if tile.shape[0] > side else (0, 0)
        piece = _fit(tile, y, x, side)[:, :: rng.choice([-1, 1])]
        inside = large == kind
        faded = GROUND_GREY + GROUND_CONTRAST * (piece[inside] - GROUND_GREY)
        canvas[inside] = faded * rng.uniform(0.85, 1.12) + rng.uniform(-8, 8, 3)
    return canvas


def _fit(tile: Array, y: int, x: int, side: int) -> Array:
    if tile.shape[0] >= side:
        return tile[y : y + side, x : x + side]
    return cv2.resize(tile, (side, side))


@cache
def _texture(kind: int) -> Array:
    """A (640, 640, 3) float32 tile of one kind of stuff."""
    side = 640
    rng = np.random.default_rng(7 + kind)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    grain = rng.standard_normal((side, side)).astype(np.float32)
    name = STUFF[kind]
    if name == "grass":
        shade = cv2.GaussianBlur(grain, (3, 13), 0.8, sigmaY=3.5) * 38
        return np.asarray(np.array([70, 125, 50]) + shade[..., None])
    if name == "sand":
        shade = cv2.GaussianBlur(grain, (0, 0), 0.8) * 14 + _smooth_noise(rng, side, 20) * 6
        return np.asarray(np.array([205, 180, 125]) + shade[..., None])
    if name == "water":
        wave = np.sin(y / 4.5 + 1.6 * _smooth_noise(rng, side, 24) + x / 60)
        return np.asarray(np.array([55, 110, 165]) + 20 * wave[..., None])
    if name == "sky":
        cloud = np.clip(_smooth_noise(rng, side, 10) + 0.4 * _smooth_noise(rng, side, 40), 0, 1.6)
        return np.asarray(np.array([140, 185, 230]) + cloud[..., None] * np.array([55, 38, 12]))
    if name == "brick":
        row = (y // 12).astype(int)
        joint = (y % 12 < 2) | ((x + 12 * (row % 2)) % 24 < 2)
        tone = rng.uniform(-18, 18, (64, 64))[
            row % 64, ((x + 12 * (row % 2)) // 24).astype(int) % 64
        ]
        wall = np.array([160, 80, 62]) + (tone + grain * 5)[..., None]
        return np.where(joint[..., None], np.array([185, 178, 168]) + grain[..., None] * 5, wall)
    stones = cv2.GaussianBlur(grain, (0, 0), 2.2)
    return np.array([128, 124, 120]) + np.clip(stones * 260, -50, 50)[..., None]


# --- Things ---------------------------------------------------------------------------------


def _place(scene: Scene, rng: np.random.Generator, who: Individual, crowd: bool) -> None:
    """Put a thing (or a crowd of one kind) on top, unless it would bury what is there."""
    size = scene.owner.shape[0]
    reach = size * (rng.uniform(0.14, 0.25) if crowd else 0.5 * _draw_extent(rng))
    centre = rng.uniform(0.03 * size, 0.97 * size, 2)
    turn = float(rng.uniform(-0.45, 0.45))
    if crowd:
        members = _draw_crowd(rng, who, centre, reach)
        joints = None
    else:
        pieces, joints = _body(rng, who)
        frame = _frame(centre, reach, turn, who.aspect)
        members = [([p @ frame[:, :2].T + frame[:, 2] for p in pieces], frame)]
        joints = None if joints is None else joints @ frame[:, :2].T + frame[:, 2]
    mask = _fill([p for pieces, _ in members for p in pieces], size, 1)
    area = int(mask.sum())
    if area < MIN_PIXELS or _buries(scene, mask):
        return
    for pieces, frame in members:
        _paint(scene.image, rng, who, pieces, frame)
    scene.owner[mask > 0] = len(scene.things)
    scene.things.append(Thing(who, crowd, area, joints))


def _draw_extent(rng: np.random.Generator) -> float:
    """Share of the image's side, log-uniform from 10 % to 60 %."""
    return float(np.exp(rng.uniform(np.log(0.10), np.log(0.60))))


def _body(rng: np.random.Generator, who: Individual) -> tuple[bodies.Pieces, Array | None]:
    if SHAPES[who.shape] == "figure":
        return bodies.draw_figure(rng)
    return [bodies.outline(SHAPES[who.shape])], None


def _draw_crowd(
    rng: np.random.Generator, who: Individual, centre: Array, reach: float
) -> list[tuple[bodies.Pieces, Array]]:
    members = []
    for _ in range(int(rng.integers(8, 15))):
        pieces, _ = _body(rng, who)
        offset = rng.normal(0, 0.45, 2) * reach
        frame = _frame(centre + offset, reach * 0.26, float(rng.uniform(-0.4, 0.4)), who.aspect)
        members.append(([p @ frame[:, :2].T + frame[:, 2] for p in pieces], frame))
    return members


def _frame(centre: Array, reach: float, turn: float, aspect: float) -> Array:
    """(2, 3) map from the unit frame to pixels."""
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([reach * rotation @ np.diag([aspect**0.5, aspect**-0.5]), centre])


def _fill(pieces: bodies.Pieces, size: int, scale: int) -> Array:
    """(size·scale, size·scale) uint8 union of polygons given in pixels of scale 1."""
    mask = np.zeros((size * scale, size * scale), np.uint8)
    for piece in pieces:
        fixed = np.rint((piece * scale - 0.5) * (1 << _BITS)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 1, shift=_BITS)
    return mask


def _buries(scene: Scene, mask: Array) -> bool:
    """Whether too little of an earlier thing would stay visible."""
    if not scene.things:
        return False
    count = len(scene.things)
    left = np.bincount(scene.owner[(mask == 0) & (scene.owner >= 0)], minlength=count)
    full = np.array([thing.full_area for thing in scene.things])
    return bool(((left < MIN_PIXELS) | (left < MIN_VISIBLE * full)).any())


def _paint(
    canvas: Array, rng: np.random.Generator, who: Individual, pieces: bodies.Pieces, frame: Array
) -> None:
    """Draw a body with its individual's pattern onto the supersampled canvas, in place."""
    scale, side = SUPERSAMPLING, canvas.shape[0]
    hull = np.concatenate(pieces) * scale
    low = np.floor(hull.min(0) - 2).astype(int).clip(0, side)
    high = np.ceil(hull.max(0) + 2).astype(int).clip(0, side)
    if (high <= low).any():
        return
    mask = _fill(pieces, side // scale, scale)[low[1] : high[1], low[0] : high[0]] > 0
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
    centred = np.stack([x, y], -1) / scale - frame[:, 2]
    unit = centred @ np.linalg.inv(frame[:, :2]).T
    share = _pattern(who, unit[..., 0], unit[..., 1])[..., None]
    colour = who.tints[0] * (1 - share) + who.tints[1] * share
    light = rng.uniform(0.85, 1.12) * (1 - 0.12 * unit[..., 1:2])
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    region = canvas[low[1] : high[1], low[0] : high[0]]
    region[mask] = (colour * light)[mask]
    rim = mask & (inner == 0)
    region[rim] = region[rim] * 0.45


def _pattern(who: Individual, u: Array, v: Array) -> Array:
    """Share of the second colour at unit coordinates."""
    along = u * np.cos(who.angle) + v * np.sin(who.angle)
    f, phase = who.frequency, who.phase
    match who.pattern:
        case 1:
            return np.asarray(np.sin(2 * np.pi * (f * along + phase)) > 0.35, float)
        case 2:
            du, dv = (u * f + phase) % 1 - 0.5, (v * f + phase) % 1 - 0.5
            return (du**2 + dv**2 < 0.09).astype(float)
        case 3:
            return ((np.floor(u * f + phase) + np.floor(v * f + phase)) % 2).astype(float)
        case 4:
            return (np.sin(2 * np.pi * (f * np.hypot(u, v) + phase)) > 0.35).astype(float)
        case 5:
            return np.asarray((along + 1) / 2).clip(0, 1)
    return np.zeros_like(u)


def _photograph(rng: np.random.Generator, canvas: Array, size: int) -> Array:
    """Down to the final size, with a little blur, noise and exposure."""
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.4, 0.8))
    image = image * rng.uniform(0.8, 1.15) + rng.normal(0, rng.uniform(1, 5), image.shape)
    return image.clip(0, 255).astype(np.uint8)
