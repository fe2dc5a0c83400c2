"""What augmentation draws: matrices and colours. Drawing is apart from applying."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from msgspec import Meta

from unified.arrays import Array
from unified.bounds import NonNegative, Share
from unified.view import compose, letterbox, meeting

_BAND = 128
"""Rows whose colours change at a time: what is in between then stays in the cache."""


@dataclass
class AugmentConfig:
    """Strength of the augmentation of one view.

    Attributes:
        mosaic: probability that four images are put together.
        scale: the size varies in [1 - scale, 1 + scale].
        translate: shift in both axes, as a share of the input size.
        rotate: largest rotation in degrees.
        shear: largest shear in degrees.
        flip: probability of a mirror image.
        hue: largest turn of the hue, as a share of the circle.
        saturation, value: largest relative change of each.
        min_side: objects narrower than this many input pixels are dropped.
        min_visible: objects of which less than this share of the box is left are dropped.
        share: of a batch's images that are seen in this view, compared with the view of most; of
            one view alone it says nothing.
    """

    mosaic: Share = 0.0
    scale: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    translate: Share = 0.0
    rotate: Annotated[float, Meta(ge=0, le=180)] = 0.0
    shear: Annotated[float, Meta(ge=0, lt=90)] = 0.0
    flip: Share = 0.0
    hue: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    saturation: Share = 0.0
    value: Share = 0.0
    min_side: NonNegative = 2.0
    min_visible: Share = 0.1
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0


def draw_affine(rng: np.random.Generator, config: AugmentConfig, size: int) -> Array:
    """A random affine map of the input square onto itself, (2, 3), about its centre."""
    scale = rng.uniform(1 - config.scale, 1 + config.scale)
    angle = math.radians(rng.uniform(-config.rotate, config.rotate))
    shear_x, shear_y = np.tan(np.radians(rng.uniform(-config.shear, config.shear, 2)))
    flip = -1.0 if rng.random() < config.flip else 1.0
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = scale * rotation @ np.array([[1, shear_x], [shear_y, 1]]) @ np.diag([flip, 1.0])
    centre = np.full(2, size / 2)
    shift = rng.uniform(-config.translate, config.translate, 2) * size
    return np.column_stack([linear, centre + shift - linear @ centre])


def draw_single(
    rng: np.random.Generator, config: AugmentConfig, height: int, width: int, size: int
) -> Array:
    """Original pixels → input pixels for one image."""
    return compose(draw_affine(rng, config, size), letterbox(height, width, size))


def draw_mosaic(
    rng: np.random.Generator, config: AugmentConfig, shapes: list[tuple[int, int]], size: int
) -> list[Array]:
    """Original pixels → input pixels for four images that meet at a random point.

    The four stand in a canvas of twice the input size, of which the affine map then takes
    the middle. No pixel is drawn twice: each image is warped straight to the input.
    """
    meet = rng.uniform(size / 2, 3 * size / 2, 2)
    window = draw_affine(rng, config, size)
    to_window = compose(window, np.array([[1.0, 0, -size / 2], [0, 1.0, -size / 2]]))
    return [compose(to_window, place) for place in meeting(shapes, meet, size)]


def draw_colour(rng: np.random.Generator, config: AugmentConfig) -> Array | None:
    """(3,) factors on hue, saturation and value; None when colours stay."""
    strength = np.array([config.hue, config.saturation, config.value])
    if not strength.any():
        return None
    return np.asarray(1 + rng.uniform(-1, 1, 3) * strength)


def recolour(rgb: Array, gain: Array) -> None:
    """Change colours in place, as in HSV space, without the way there and back.

    A saturation that is scaled by s and a value that is scaled by v make v·(s·c + (1 − s)·max)
    of a channel c, where max is the largest of a pixel's three. The hue is turned about the grey
    axis by as much of the circle as its factor differs from 1.

    Args:
        rgb: (H, W, 3) uint8.
        gain: (3,) factors on hue, saturation and value.
    """
    hue, saturation, value = gain.tolist()
    turn = _turn(2 * math.pi * (hue - 1))
    for top in range(0, len(rgb), _BAND):
        band = rgb[top : top + _BAND]
        turned = cv2.transform(band, turn)
        red, green, blue = cv2.split(turned)
        largest = cv2.max(cv2.max(red, green), blue)
        grey = cv2.merge([largest, largest, largest])
        cv2.addWeighted(turned, value * saturation, grey, value * (1 - saturation), 0, dst=band)


def _turn(angle: float) -> Array:
    """(3, 3) rotation of colours about the axis on which red, green and blue are equal."""
    along = (1 - math.cos(angle)) / 3
    across = math.sin(angle) / math.sqrt(3)
    same, before, after = math.cos(angle) + along, along - across, along + across
    return np.array([[same, before, after], [after, same, before], [before, after, same]])
