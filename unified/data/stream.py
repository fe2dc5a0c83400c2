"""Read a large json object piece by piece.

The json of COCO's 118,000 training images holds millions of small objects. Parsing it whole
costs gigabytes that are thrown away a moment later; here only one element exists at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from unified.errors import DataError

CHUNK = 1 << 22
_SPACE = re.compile(r"[ \t\r\n]*")


class _Window:
    """A sliding piece of the text and the position of the next token in it."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.position = 0
        self.passed = 0
        self.ended = False
        self.decode = json.JSONDecoder().raw_decode

    def refill(self) -> None:
        piece = self.file.read(CHUNK)
        self.ended = not piece
        self.passed += self.position
        self.text = self.text[self.position :] + piece
        self.position = 0

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            match = _SPACE.match(self.text, self.position)
            assert match is not None
            self.position = match.end()
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self.refill()

    def take(self, expected: str) -> bool:
        """Consume `expected` if it comes next."""
        found = self.peek() == expected
        self.position += found
        return found

    def value(self) -> Any:
        """Decode the next value."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.position)
            except json.JSONDecodeError:
                if self.ended:
                    raise
            else:
                # A number near the edge of the window may go on behind it: "0" of "0.5".
                following = self.text[end : end + 1]
                if self.ended or (following and following not in ".eE+-0123456789"):
                    self.position = end
                    return value
            self.refill()


def stream_object(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of a json object; a list's elements come one by one under its key.

    Raises:
        DataError: the file is missing, is not json, or is not one object.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist", "check data.root and the split names")
    with path.open(encoding="utf-8") as file:
        window = _Window(file)
        try:
            yield from _stream(window, path)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            at = window.passed + window.position
            raise DataError(
                f"{path} is not valid json near character {at}: {error}",
                "the file may be cut short; copy or download it again",
            ) from error


def _stream(window: _Window, path: Path) -> Iterator[tuple[str, Any]]:
    if not window.take("{"):
        raise DataError(
            f"{path} is not COCO: it must be one json object with images, annotations and "
            f"categories, but begins with {window.peek()!r}",
            "export the annotations in COCO format",
        )
    while not window.take("}"):
        key = window.value()
        if not isinstance(key, str) or not window.take(":"):
            raise json.JSONDecodeError("expected a key and ':'", window.text, window.position)
        if window.take("["):
            while not window.take("]"):
                yield key, window.value()
                if not window.take(",") and window.peek() != "]":
                    raise json.JSONDecodeError("expected ',' or ']'", window.text, window.position)
        else:
            yield key, window.value()
        if not window.take(",") and window.peek() != "}":
            raise json.JSONDecodeError("expected ',' or '}'", window.text, window.position)
