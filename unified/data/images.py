"""Decode an image file, no larger than needed, and say clearly when it is broken."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from unified.arrays import Array
from unified.errors import DataError
from unified.files import read_file
from unified.view import draw

_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
_FIX = "replace the file, or remove the image and its annotations from the json"
MAX_PIXELS = 134_000_000
"""Of an image that is decoded, unless `data.max_megapixels` says otherwise."""
_TOO_LARGE = "make it smaller, or raise data.max_megapixels"
BROKEN = (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)
"""What Pillow raises for files that are no images, or bad ones."""


def read_image(
    file: Path, scale: float = 1.0, upright: bool = False, max_pixels: int = MAX_PIXELS
) -> Array:
    """Decode to (h, w, 3) uint8 RGB.

    Args:
        file: JPEG, PNG or anything that OpenCV decodes.
        scale: the factor by which the image will be resized afterwards; it is decoded at 1/2, 1/4
            or 1/8 of its size where that is still no smaller than needed.
        upright: apply the camera's orientation; COCO's annotations expect the raw one.
        max_pixels: more are not decoded.

    Raises:
        DataError: the file is missing, cut short, too large or no image.
    """
    try:
        data = read_file(file)
    except OSError as error:
        raise DataError(f"image {file} cannot be read: {error.strerror}", _FIX) from error
    _header(data, file, max_pixels)
    if not _ends_well(data[:2], data[-12:]):
        _decode_strictly(data, file)
    turned = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    image = _decode(data, _REDUCED[reduction(scale)] | turned)
    if image is None:  # the shorter side may have shrunk to nothing
        image = _decode(data, cv2.IMREAD_COLOR | turned)
    if image is None:
        raise DataError(f"image {file} is not an image that can be decoded", _FIX)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def draw_file(
    canvas: Array,
    file: Path,
    matrix: Array,
    size: tuple[int, int],
    upright: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Array:
    """Draw an image file into an input: the one way for training, evaluation and prediction.

    Args:
        canvas: (S, S, 3) uint8, changed in place.
        file: the image.
        matrix: original → input pixels.
        size: (height, width) that the image is said to have.
        upright, max_pixels: see `read_image`.

    Returns:
        The matrix that labels have to follow.

    Raises:
        DataError: the file is missing, broken, or of another shape.
    """
    height, width = size
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    image = read_image(file, scale, upright, max_pixels)
    shrunk = max(size) / max(image.shape[:2])  # a decoder rounds the shorter side
    rows, columns = image.shape[:2]
    off = [abs(n - m / shrunk) > 1 + 0.1 * n for n, m in ((rows, height), (columns, width))]
    if shrunk < 0.9 or any(off):
        raise DataError(
            f"image {file} is not the {width}×{height} pixels that the json says",
            "correct width and height in the json, or undo the rotation of the file",
        )
    return draw(canvas, image, matrix, height, width)


def reduction(scale: float) -> int:
    """The largest of 8, 4, 2 and 1 by which an image may shrink before it is resized by `scale`."""
    return next(f for f in (8, 4, 2, 1) if scale * f <= 1 + 1e-6 or f == 1)


def upright_size(file: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of an image with the camera's orientation applied, from its header.

    Raises:
        DataError: the file is missing, too large or no image.
    """
    try:
        data = read_file(file)
    except FileNotFoundError as error:
        raise DataError(f"image {file} does not exist", "check the path") from error
    except (OSError, ValueError) as error:  # a name may hold what no name can
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"image {file!s:.200} cannot be read: {reason}", _FIX) from error
    height, width, turned = _header(data, file, max_pixels, upright=True)
    return (width, height) if turned else (height, width)


def _header(data: bytes, file: Path, most: int, upright: bool = False) -> tuple[int, int, bool]:
    """(height, width) as a file says, before anything of that size is made, and, where it is
    asked for, whether the camera was held upright."""
    try:
        with _any_size(), Image.open(io.BytesIO(data)) as image:
            height, width = image.height, image.width
            refuse_large(f"image {file}", height, width, most)
            # Of a PNG, the orientation may stand behind the pixels, which are decoded then.
            turned = upright and image.getexif().get(_ORIENTATION, 1) in _TURNED
    except UnidentifiedImageError as error:
        raise DataError(f"image {file} is of no form that is known", _FIX) from error
    except BROKEN as error:
        raise DataError(f"image {file} cannot be decoded: {error}", _FIX) from error
    return height, width, turned


def refuse_large(what: str, height: int, width: int, most: int) -> None:
    """Before anything of that size is made.

    Raises:
        DataError: the image has more than `most` pixels.
    """
    if height * width > most:
        raise DataError(
            f"{what} has {width}×{height} pixels, more than {most} are not decoded", _TOO_LARGE
        )


@contextmanager
def _any_size() -> Iterator[None]:
    """Without Pillow's own limit of pixels, where ours holds."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def check_image_files(files: list[Path], max_pixels: int = MAX_PIXELS) -> None:
    """Look at the beginning and end of every file before training starts.

    A file without the end marker of its format is decoded strictly, since some writers append
    bytes behind it; all others cost two short reads.

    Raises:
        DataError: names the first missing or truncated file, and how many there are.
    """
    broken: list[DataError] = []
    for file in files:
        try:
            if not file.is_file():
                raise OSError(errno.EINVAL, "there is no such file")
            with file.open("rb") as stream:
                head = stream.read(2)
                stream.seek(0, io.SEEK_END)
                stream.seek(max(0, stream.tell() - 12))
                tail = stream.read()
            if not _ends_well(head, tail):
                data = file.read_bytes()
                _header(data, file, max_pixels)
                _decode_strictly(data, file)
        except OSError as error:
            broken.append(DataError(f"image {file} cannot be read: {error.strerror}", _FIX))
        except DataError as error:
            broken.append(error)
    if len(broken) == 1:
        raise broken[0]
    if broken:
        first = broken[0]
        raise DataError(
            f"{len(broken)} of {len(files)} images are unusable, first: {first.problem}", _FIX
        )


def _decode(data: bytes, flags: int) -> Array | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        return None


def _ends_well(head: bytes, tail: bytes) -> bool:
    """Whether a JPEG or PNG ends with its end marker; true for other formats."""
    ending = _ENDINGS.get(head)
    return (ending is None and len(head) == 2) or (ending is not None and tail.endswith(ending))


def _decode_strictly(data: bytes, file: Path) -> None:
    """OpenCV fills the missing part of a truncated file with grey; Pillow refuses."""
    try:
        with _any_size(), Image.open(io.BytesIO(data)) as image:
            image.load()
    except BROKEN as error:
        raise DataError(f"image {file} is broken or cut short: {error}", _FIX) from error
