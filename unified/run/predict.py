"""`unified predict`: pictures and `predictions.json` for an image, a folder or a glob."""

from __future__ import annotations

import glob
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from unified.checkpoint import read_checkpoint
from unified.data.images import read_image
from unified.errors import DataError
from unified.files import cannot_write
from unified.inference import Predictor, usable
from unified.run.folder import claimed, output_folder, refuse_to_overwrite
from unified.run.pictures import draw_prediction, save_picture
from unified.schema import Config, needed
from unified.weights import rebuild

log = logging.getLogger(__name__)
RESULTS = "predictions.json"
FEW = 10
"""Images for which nobody needs a progress bar."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def predict(config: Config) -> dict[str, Any]:
    """How many images were predicted on, where the results are, and which files are broken."""
    files = find_images(needed(config.source, "source", "predict"))
    names = picture_names(files)
    refuse_to_overwrite(config.out, (RESULTS, *names))
    state = read_checkpoint(needed(config.ckpt, "ckpt", "predict"))
    most = config.data.max_pixels
    predictor = Predictor(*rebuild(state, config), usable(None), max_pixels=most)
    folder = output_folder(config.out, f"{config.name}-predict")
    with claimed(folder):
        refuse_to_overwrite(str(folder), (RESULTS, *names))
        return _predict(predictor, files, names, folder, config.min_score)


def _predict(
    predictor: Predictor, files: list[Path], names: list[str], folder: Path, min_score: float
) -> dict[str, Any]:
    results, found_in_all = Rows(folder / RESULTS), Counter[str]()
    broken: list[str] = []
    hidden = len(files) < FEW or not sys.stderr.isatty()
    shown = track(list(zip(files, names, strict=True)), "predicting", disable=hidden,
                  transient=True, console=Console(stderr=True))  # fmt: skip
    for file, name in shown:
        try:
            found = predictor.predict(file, min_score)
            rgb = read_image(file, upright=True, max_pixels=predictor.max_pixels)
        except DataError as error:
            # One bad file among many must not cost the results of the others.
            log.warning("%s", error)
            broken.append(str(file))
            continue
        by_task = {task: result.plain() for task, result in found.items()}
        height, width = rgb.shape[:2]
        image = {"file": str(file), "picture": name, "height": height, "width": width}
        try:
            results.append(image | by_task)
        except ValueError as error:
            raise DataError(
                f"what the network says of {file} are no finite numbers", "use another checkpoint"
            ) from error
        found_in_all.update({t: len(rows) for t, rows in by_task.items() if isinstance(rows, list)})
        save_picture(draw_prediction(rgb, found), folder / name)
    # Of tasks that say one thing of an image there is nothing to count.
    counts = ", ".join(f"{task} {count}" for task, count in found_in_all.items())
    end = f"; found: {counts}" if counts else ""
    print(f"predicted {results.count} of {len(files)} images → {folder}{end}")
    if counts and not found_in_all.total():
        print(f"nothing scored min_score={min_score} or more; a lower one shows more")
    if not results.count:
        raise DataError(f"none of the {len(files)} images could be read", f"look at {broken[0]}")
    return {"images": results.count, "out": str(folder), "broken": broken}


class Rows:
    """A json list that is complete after every row: what is computed is not lost.

    Raises:
        OutputError: the file cannot be written.
    """

    END = b"\n]\n"

    def __init__(self, file: Path) -> None:
        self.file, self.count = file, 0
        self._write("wb", b"[" + self.END)

    def append(self, row: dict[str, Any]) -> None:
        """Write one row."""
        text = json.dumps(row, allow_nan=False).encode()
        self._write("r+b", (b",\n" if self.count else b"\n") + text + self.END)
        self.count += 1

    def _write(self, mode: str, text: bytes) -> None:
        try:
            with self.file.open(mode, buffering=0) as stream:
                place = max(0, stream.seek(0, os.SEEK_END) - len(self.END))
                stream.seek(place)
                try:
                    while text:
                        text = text[stream.write(text) :]
                except OSError:
                    stream.truncate(place)
                    stream.seek(place)
                    stream.write(self.END)  # of as many bytes as there were
                    raise
        except OSError as error:
            raise cannot_write(self.file, error) from error


def picture_names(files: Iterable[Path]) -> list[str]:
    """`<stem>.jpg` for every file, with a number behind where sources share a stem."""
    names: dict[str, None] = {}
    for file in files:
        candidates = (f"{file.stem}{end}.jpg" for end in chain([""], (f"-{n}" for n in count(2))))
        names[next(name for name in candidates if name not in names)] = None
    return list(names)


def find_images(source: str) -> list[Path]:
    """Files that `source` names: an image, a folder of images or a glob.

    Raises:
        DataError: nothing matches.
    """
    path = Path(source)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        else:
            found = map(Path, sorted(glob.glob(source, recursive=True)))
            files = [file for file in found if file.is_file()]
    except OSError as error:
        raise DataError(
            f"source={source:.200} cannot be looked for: {error.strerror}", "check the path"
        ) from error
    if not files:
        raise DataError(
            f"source={source:.200} matches no image",
            "give an image, a folder of images or a quoted glob",
        )
    return files
