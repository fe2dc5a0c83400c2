"""Strokes on a picture: boxes, masks, tints, names; what they mean is not known here."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unified.arrays import IGNORE, Array

SMALL = 320
"""Pictures below this size are drawn at twice their size, so that text stays readable."""
TINT = 0.45


def colour_of(index: int) -> tuple[int, int, int]:
    """A stable, bright colour for an index."""
    r, g, b = colorsys.hsv_to_rgb((index * 0.618034) % 1, 0.75, 1.0)
    return int(r * 255), int(g * 255), int(b * 255)


class Canvas:
    """A copy of an image to draw on; boxes are in the image's pixels, maps (h, w) cover it.

    Args:
        image: (H, W, 3) uint8 RGB.
    """

    def __init__(self, image: Array) -> None:
        self.scale = 2 if max(image.shape[:2]) < SMALL else 1
        self.pixels = image.repeat(self.scale, 0).repeat(self.scale, 1)
        self.lines: list[str] = []

    def boxes(self, boxes: Array, colours: Sequence[int], captions: Sequence[str]) -> None:
        """Outline boxes (N, 4), with a caption where there is one."""
        picture = Image.fromarray(self.pixels)
        draw = ImageDraw.Draw(picture)
        line = max(1, round(max(self.pixels.shape[:2]) / SMALL))
        font = self._font(45, 10)
        for box, index, caption in zip(
            (boxes * self.scale).tolist(), colours, captions, strict=True
        ):
            colour = colour_of(int(index))
            draw.rectangle(box, outline=colour, width=line)
            if caption:
                _write(draw, (box[0], box[1]), caption, font, colour)
        self.pixels = np.array(picture)

    def skeleton(
        self, points: Array, shown: Array, edges: Sequence[tuple[int, int]], index: int
    ) -> None:
        """Dots at points (K, 2) that are shown (K,), and lines between pairs of them."""
        size = max(1, round(max(self.pixels.shape[:2]) / SMALL))
        shown = shown & np.isfinite(points).all(1)
        most = 2 * max(self.pixels.shape[:2])  # a line may lead out of the picture
        near = np.nan_to_num(points * self.scale).clip(-most, most)
        places = [tuple(place) for place in np.rint(near).astype(int).tolist()]
        for a, b in edges:
            if shown[a] and shown[b]:
                cv2.line(self.pixels, places[a], places[b], colour_of(index), size, cv2.LINE_AA)
        for place in (place for place, is_shown in zip(places, shown, strict=True) if is_shown):
            cv2.circle(self.pixels, place, size + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(self.pixels, place, size, colour_of(index), -1, cv2.LINE_AA)

    def masks(self, masks: Iterable[Array]) -> None:
        """Tint and outline masks (H, W), each in a colour of its own; the first lies on top."""
        for index, mask in reversed(list(enumerate(masks))):
            large = self._enlarged(mask)
            colour = colour_of(index)
            inside = large > 0
            self.pixels[inside] = self.pixels[inside] // 2 + np.array(colour, np.uint8) // 2
            outline, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(self.pixels, outline, -1, colour, 1)

    def tint(self, colours: Array) -> None:
        """Colour pixels by an index (H, W) uint8, where it is not `IGNORE`."""
        index = self._enlarged(colours)
        palette = np.array([colour_of(i) for i in range(256)], np.uint8)
        tinted = cv2.addWeighted(self.pixels, 1 - TINT, palette[index], TINT, 0)
        self.pixels = np.where((index == IGNORE)[..., None], self.pixels, tinted)

    def borders(self, regions: Array) -> None:
        """White lines between regions of different numbers (H, W)."""
        large = self._enlarged(regions)
        border = np.zeros(large.shape, bool)
        border[:, 1:] |= large[:, 1:] != large[:, :-1]
        border[1:] |= large[1:] != large[:-1]
        self.pixels[border] = 255

    def names(self, regions: Iterable[tuple[str, Array]]) -> None:
        """Write each name where its region (H, W) is widest, if there is room."""
        picture = Image.fromarray(self.pixels)
        draw = ImageDraw.Draw(picture)
        font = self._font(45, 10)
        for name, region in regions:
            padded = np.pad(self._enlarged(region), 1).astype(np.uint8)
            depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
            _, most, _, (x, y) = cv2.minMaxLoc(depth)
            if most >= font.size * 0.7:
                draw.text(
                    (x, y), name, (255, 255, 255), font, "mm", stroke_width=1, stroke_fill=(0, 0, 0)
                )
        self.pixels = np.array(picture)

    def below(self, text: str) -> None:
        """Text under the picture, in as many lines as it needs."""
        font, line = self._font(40, 11), ""
        for word in text.split():
            longer = f"{line} {word}".lstrip()
            if line and font.getlength(longer) > self.pixels.shape[1] - 6:
                self.lines.append(line)
                longer = word
            line = longer
        self.lines.append(line)

    def picture(self) -> Array:
        """What was drawn, (H', W', 3) uint8 RGB, with the lines below it."""
        font = self._font(40, 11)
        strips = [self.pixels]
        for text in self.lines:
            strip = Image.new("RGB", (self.pixels.shape[1], int(font.size) + 8), (255, 255, 255))
            ImageDraw.Draw(strip).text((3, 2), text, fill=(0, 0, 0), font=font)
            strips.append(np.asarray(strip))
        return np.vstack(strips)

    def _enlarged(self, cells: Array) -> Array:
        """(h, w) of any resolution → that of the picture, by nearest neighbour."""
        (height, width), (h, w) = self.pixels.shape[:2], cells.shape
        rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
        return np.asarray(cells[rows][:, columns])

    def _font(self, share: int, least: int) -> Any:
        return ImageFont.load_default(size=max(least, max(self.pixels.shape[:2]) // share))


def _write(draw: Any, at: tuple[float, float], text: str, font: Any, colour: Any) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    x, y = at[0], max(0.0, at[1] - (bottom - top) - 4)
    draw.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0), font=font)
