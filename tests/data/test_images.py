"""Decoding, and what is said of files that cannot be."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from unified.data.images import (
    check_image_files,
    read_image,
    upright_size,
)
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


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for attempt in (read_image, upright_size, lambda file: check_image_files([file])):
        with pytest.raises(DataError, match=r"pipe\.jpg"):
            attempt(tmp_path / "pipe.jpg")


def test_a_file_that_says_it_is_huge_is_not_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    file = tmp_path / "huge.png"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    for attempt in (read_image, upright_size):
        with pytest.raises(DataError, match=r"13000×13000 pixels") as caught:
            attempt(file)
        assert "data.max_megapixels" in caught.value.fix
        with pytest.raises(DataError, match="decoded"):
            attempt(file, max_pixels=10**9)  # it is, indeed
