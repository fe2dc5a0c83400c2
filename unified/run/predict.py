"""`unified predict`: pictures and `predictions.json` for an image, a folder or a glob."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from unified.data.images import read_image
from unified.errors import DataError
from unified.inference import Predictor
from unified.run.folder import output_folder, refuse_to_overwrite
from unified.run.pictures import draw_prediction, save_picture
from unified.schema import Config, needed
from unified.weights import read_checkpoint, rebuild

log = logging.getLogger(__name__)
RESULTS = "predictions.json"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def predict(config: Config) -> dict[str, Any]:
    """How many images were predicted on, where the results are, and which files are broken."""
    files = find_images(needed(config.source, "source", "predict"))
    names = picture_names(files)
    refuse_to_overwrite(config.out, (RESULTS, *names))
    state = read_checkpoint(needed(config.ckpt, "ckpt", "predict"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = Predictor(*rebuild(state, config), device)
    folder = output_folder(config.out, f"{config.name}-predict")
    results: list[dict[str, Any]] = []
    broken: list[str] = []
    for file, name in zip(files, names, strict=True):
        try:
            found = predictor.predict(file)
            rgb = read_image(file, upright=True)
        except DataError as error:
            # One bad file among many must not cost the results of the others.
            log.warning("%s", error)
            broken.append(str(file))
            continue
        height, width = rgb.shape[:2]
        image = {"file": str(file), "picture": name, "height": height, "width": width}
        by_task = {
            task: result.plain(predictor.spaces[result.kind], config.min_score)
            for task, result in found.items()
        }
        results.append(image | by_task)
        picture = draw_prediction(rgb, found, predictor.spaces, config.min_score)
        save_picture(picture, folder / name)
    (folder / RESULTS).write_text(json.dumps(results))
    print(f"predicted {len(results)} of {len(files)} images → {folder}")
    if not results:
        raise DataError(f"none of the {len(files)} images could be read", f"look at {broken[0]}")
    return {"images": len(results), "out": str(folder), "broken": broken}


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
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    else:
        files = [Path(p) for p in sorted(glob.glob(source, recursive=True)) if Path(p).is_file()]
    if not files:
        raise DataError(
            f"source={source} matches no image",
            "give an image, a folder of images or a quoted glob",
        )
    return files
