"""Decoding, and what is said of files that cannot be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from unified.data.images import check_image_files, read_image, upright_size
from unified.errors import DataError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8), (320, 240))
    cv2.imwrite(str(tmp_path / "picture.jpg"), smooth)
    return tmp_path / "picture.jpg"


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1), (0.6, 1), (0.5, 2), (0.2, 4), (0.1, 8)])
def test_decodes_no_larger_than_needed(picture: Path, scale: float, factor: int) -> None:
    assert read_image(picture, scale).shape == (240 // factor, 320 // factor, 3)


def test_orientation_is_raw_for_training_and_upright_for_prediction(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (20, 40, 3)
    assert read_image(tmp_path / "turned.jpg", upright=True).shape == (40, 20, 3)
    assert upright_size(tmp_path / "turned.jpg") == (40, 20)


def test_bytes_behind_the_end_are_no_error(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes() + b"appended by a camera")
    check_image_files([picture])
    assert read_image(picture).shape == (240, 320, 3)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "missing"])
def test_broken_files_are_named(picture: Path, damage: str) -> None:
    data = picture.read_bytes()
    if damage == "missing":
        picture.unlink()
    else:
        picture.write_bytes(
            {"cut": data[: len(data) // 2], "text": b"<html>", "empty": b""}[damage]
        )
    for attempt in (lambda: read_image(picture), lambda: read_image(picture, upright=True)):
        with pytest.raises(DataError, match=r"picture\.jpg"):
            attempt()
    if damage != "text":
        with pytest.raises(DataError, match=r"picture\.jpg"):
            check_image_files([picture])


def test_many_broken_files_give_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 3 images"):
        check_image_files([tmp_path / f"{i}.jpg" for i in range(3)])
