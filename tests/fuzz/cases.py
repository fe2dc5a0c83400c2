"""Bad and unusual inputs, by table: what is fed to which command."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from fuzz.drawing import drawn_edits
from fuzz.sandbox import Case
from fuzz.truth import scores_of_truth
from PIL import Image

TINY = (
    "data.image_size=64", "data.batch_size=4", "data.workers=0", "data.shapes=null",
    "trainer.accelerator=cpu", "logger=none", "trainer=smoke", "trainer.max_epochs=1",
    "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
)  # fmt: skip
EVERYTHING = (
    "task=[detection,classification,embedding,instance,stuff,panoptic,keypoints,longtail,caption]"
)
LIGHTNING = "lightning.pytorch.loggers"
DELETE = object()
VALUES: tuple[Any, ...] = (
    None, "x", "0", -1, 0, 1.5, 1e30, 2**33, 2**70, True, [], {}, DELETE,
)  # fmt: skip
"""What any field of a json may be replaced by."""
DRAWN = 150
"""Cases that hypothesis draws."""
PAYLOAD = "import pathlib; pathlib.Path('executed').touch()"


class Inputs:
    """What the cases start from.

    Args:
        data: the small generated data set.
        run: a run that was trained on it.
    """

    def __init__(self, data: Path, run: Path) -> None:
        self.data, self.run = data, run

    def all(self) -> list[Case]:
        """Every case of the table."""
        groups = (
            self.annotations, self.labels, self.images, self.prediction, self.sources,
            self.checkpoints, self.resumed, self.configuration, self.api, self.drawn,
        )  # fmt: skip
        return [case for group in groups for case in group()]

    # --- Annotations ----------------------------------------------------------------------

    def annotations(self) -> Iterator[Case]:
        for name in ("instances", "panoptic", "stuff", "person_keypoints", "lvis", "captions"):
            file = f"annotations/{name}_val.json"
            document = json.loads((self.data / file).read_text())
            for path in _paths(document):
                for value in VALUES:
                    said = "deleted" if value is DELETE else json.dumps(value)
                    where = ".".join(map(str, path))
                    change = partial(_replace, file=file, path=path, value=value)
                    yield self._scored("annotations", f"{name} {where} = {said}", change)
            for label, text in TEXTS.items():
                yield self._scored("annotations", f"{name} {label}", partial(_edit, file, text))
            for label, mutate in DOCUMENTS.items():
                if "categories" not in document and re.search("categor|names|things", label):
                    continue
                yield self._scored("annotations", f"{name} {label}", partial(_mutate, file, mutate))

    def _scored(self, group: str, name: str, change: Callable[[Path], None]) -> Case:
        """Evaluation with changed data; if it is accepted, the truth has to score one."""

        def prepare(folder: Path) -> list[str]:
            shutil.copytree(self.data, folder / "data")
            change(folder / "data")
            return ["eval", f"ckpt={self.run}", "data.root=data", "out=out"]

        return Case(group, name, prepare, lambda folder: scores_of_truth(folder / "data"))

    # --- Files ----------------------------------------------------------------------------

    def labels(self) -> Iterator[Case]:
        for place in ("panoptic_val", "stuff_val_pixelmaps"):
            for name, spoil in FILES.items():
                yield self._scored(
                    "label files", f"{place} {name}",
                    partial(_spoil, f"annotations/{place}", ".png", spoil),
                )  # fmt: skip

    def images(self) -> Iterator[Case]:
        for name, spoil in FILES.items():
            for check in ("true", "false"):
                change = partial(_spoil, "train", ".jpg", spoil)
                extra = (f"data.check={check}", "trainer.limit_train_batches=1.0")
                yield self._trained("images in training", f"{name}, check={check}", extra, change)

    def _trained(
        self, group: str, name: str, overrides: tuple[str, ...],
        change: Callable[[Path], None] = lambda data: None,
    ) -> Case:  # fmt: skip
        def prepare(folder: Path) -> list[str]:
            shutil.copytree(self.data, folder / "data")
            change(folder / "data")
            return ["train", *TINY, "data.root=data", "out=out", *overrides]

        return Case(group, name, prepare, _complete)

    def prediction(self) -> Iterator[Case]:
        for name, spoil in FILES.items():
            for among in (False, True):
                yield self._predicted(name, spoil, among)
        for name in NAMES:
            yield self._named(name)

    def _predicted(self, name: str, spoil: Callable[[Path], None], among: bool) -> Case:
        def prepare(folder: Path) -> list[str]:
            (folder / "photos").mkdir()
            photo = sorted((self.data / "val").glob("*.jpg"))
            shutil.copy(photo[0], folder / "photos" / "a.jpg")
            if among:
                shutil.copy(photo[1], folder / "photos" / "b.jpg")
            spoil(folder / "photos" / "a.jpg")
            source = "photos" if among else "photos/a.jpg"
            return ["predict", f"ckpt={self.run}", f"source={source}", "out=out"]

        def right(folder: Path) -> str | None:
            rows = json.loads((folder / "out" / "predictions.json").read_text())
            return None if len(rows) >= among else f"{len(rows)} rows"

        return Case("prediction", f"{name}{' among others' * among}", prepare, right)

    def _named(self, name: str) -> Case:
        def prepare(folder: Path) -> list[str]:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(next((self.data / "val").glob("*.jpg")), file)
            return ["predict", f"ckpt={self.run}", f"source={name}", "out=a folder (1)"]

        def right(folder: Path) -> str | None:
            rows = json.loads((folder / "a folder (1)" / "predictions.json").read_text())
            return None if [row["file"] for row in rows] == [name] else f"{rows}"

        return Case("prediction", f"named {name}", prepare, right)

    def sources(self) -> Iterator[Case]:
        for source in SOURCES:

            def prepare(folder: Path, source: str = source) -> list[str]:
                shutil.copytree(self.data / "val", folder / "val")
                (folder / "empty").mkdir()
                os.mkfifo(folder / "pipe.jpg")
                return ["predict", f"ckpt={self.run}", f"source={source}", "out=out"]

            yield Case("sources", source[:40] or "nothing", prepare)

    # --- Checkpoints ----------------------------------------------------------------------

    def checkpoints(self) -> Iterator[Case]:
        for name, spoil in {**BYTES, **STATES}.items():
            for command in ("predict", "eval", "info", "weights"):
                yield self._loaded(command, name, spoil)

    def _loaded(self, command: str, name: str, spoil: Callable[[Path], None]) -> Case:
        def prepare(folder: Path) -> list[str]:
            file = folder / "net.ckpt"
            shutil.copy(self.run / "best.ckpt", file)
            spoil(file)
            if command == "weights":
                root = f"data.root={self.data}"
                return ["train", *TINY, EVERYTHING, root, "weights=net.ckpt", "out=out"]
            more = {"predict": [f"source={self.data / 'val'}"], "eval": [], "info": []}[command]
            out = [] if command == "info" else ["out=out"]
            return [command, "ckpt=net.ckpt", *more, *out]

        return Case("checkpoints", f"{command}: {name}", prepare)

    def resumed(self) -> Iterator[Case]:
        changes: dict[str, Callable[[Path], None]] = {
            f"last.ckpt {name}": (lambda run, spoil=spoil: spoil(run / "last.ckpt"))
            for name, spoil in {**BYTES, **STATES}.items()
        }
        for name, text in YAML.items():
            changes[f"config.yaml {name}"] = lambda run, t=text: _write(run / "config.yaml", t)
        for name, text in {"empty": "", "garbage": "a,b\n1", "binary": "\0\1"}.items():
            changes[f"metrics.csv {name}"] = lambda run, t=text: _write(run / "metrics.csv", t)
        for name, logger in LOGGERS.items():
            changes[f"config.yaml {name}"] = partial(_said_anew, {"logger": logger})
        changes["config.yaml in another order"] = partial(_said_anew, {})
        changes |= PLACES
        for missing in ("last.ckpt", "best.ckpt", "config.yaml", "metrics.csv"):
            changes[f"without {missing}"] = lambda run, m=missing: (run / m).unlink()
        for name, change in changes.items():
            yield self._resumed(name, change, ())
        for override in RESUMED:
            yield self._resumed(override, lambda run: None, (override,))

    def _resumed(
        self, name: str, change: Callable[[Path], None], overrides: tuple[str, ...]
    ) -> Case:
        def prepare(folder: Path) -> list[str]:
            shutil.copytree(self.run, folder / "run")
            change(folder / "run")
            # What a run writes anew is no harm.
            return ["train", "resume=run", *(overrides or ("trainer.max_epochs=2",))]

        return Case("resume", name, prepare, rewrites=("run",))

    # --- Configuration --------------------------------------------------------------------

    def configuration(self) -> Iterator[Case]:
        config = yaml.safe_load((self.run / "config.yaml").read_text())
        for key, current in _leaves(config):
            of_commands = ("command", "resume", "ckpt", "source", "weights", "out")
            if key.split(".")[0] in of_commands or key == "data.root":
                continue
            for value in ("-1", "nan", "1e9", "x", "null"):
                if value != str(current):
                    # `++` also reaches what a group leaves out.
                    given = (EVERYTHING, f"++{key}={value}", f"data.root={self.data}")
                    yield self._trained_on_all(f"{key}={value}", given)
        for line in LINES:
            yield self._trained_on_all(line, (f"data.root={self.data}", *line.split()))

    def _trained_on_all(self, name: str, overrides: tuple[str, ...]) -> Case:
        def prepare(folder: Path) -> list[str]:
            return ["train", *TINY, "out=out", *overrides]

        return Case("configuration", name, prepare, _complete)

    def api(self) -> Iterator[Case]:
        for name, code in API.items():

            def prepare(folder: Path, code: str = code) -> list[str]:
                text = code.replace("RUN", repr(str(self.run)))
                photo = next((self.data / "val").glob("*.jpg"))
                return ["python", text.replace("PHOTO", repr(str(photo)))]

            yield Case("api", name, prepare)

    def drawn(self) -> Iterator[Case]:
        """What no table thought of: any value anywhere, and any bytes, drawn by hypothesis."""
        for index, (file, change) in enumerate(drawn_edits(DRAWN)):
            yield self._scored("drawn", f"{index}: {file}", partial(_edit, file, change))


# --- How a file is spoilt ---------------------------------------------------------------------


def _png(rgb: np.ndarray, mode: str | None = None) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(rgb, mode).save(file, "PNG")


def _header(width: int, height: int) -> bytes:
    """A PNG that says it is large, and is not."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _again(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(change(data))

    return spoil


def _instead(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        file.unlink()
        make(file)

    return spoil


def _turned(file: Path) -> None:
    with Image.open(file) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(file, "JPEG" if file.suffix == ".jpg" else "PNG", exif=exif)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
FILES: dict[str, Callable[[Path], None]] = {
    "missing": lambda file: file.unlink(),
    "empty": _again(lambda data: b""),
    "one byte": _again(lambda data: data[:1]),
    "half": _again(lambda data: data[: len(data) // 2]),
    "without its end": _again(lambda data: data[:-2]),
    "bytes behind": _again(lambda data: data + b"\0" * 999),
    "text": _again(lambda data: b"not an image at all\n" * 9),
    "html": _again(lambda data: b"<html><body>404</body></html>"),
    "flipped in the middle": _again(
        lambda data: data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :]
    ),
    "flipped header": _again(lambda data: data[:20] + bytes(8) + data[28:]),
    "other size": _instead(lambda f: Image.new("RGB", (32, 96)).save(f, "PNG")),
    "one pixel": _instead(lambda f: Image.new("RGB", (1, 1)).save(f, "PNG")),
    "black": _instead(lambda f: Image.new("L", (64, 64)).save(f, "PNG")),
    "black in colour": _instead(lambda f: Image.new("RGB", (64, 64)).save(f, "PNG")),
    "grey": _instead(lambda f: Image.fromarray(NOISE[..., 0]).save(f, "PNG")),
    "noise": _instead(lambda f: Image.fromarray(NOISE).save(f, "PNG")),
    "alpha": _instead(lambda f: Image.fromarray(NOISE).convert("RGBA").save(f, "PNG")),
    "palette": _instead(lambda f: Image.fromarray(NOISE).convert("P").save(f, "PNG")),
    "one bit": _instead(lambda f: Image.fromarray(NOISE).convert("1").save(f, "PNG")),
    "16 bits": _instead(lambda f: cv2.imwrite(str(f), NOISE.astype(np.uint16)) or _as(f)),
    "cmyk": _instead(lambda f: Image.new("CMYK", (64, 64)).save(f, "JPEG")),
    "gif": _instead(lambda f: Image.new("P", (64, 64)).save(f, "GIF")),
    "bmp": _instead(lambda f: Image.new("RGB", (64, 64)).save(f, "BMP")),
    "tiff": _instead(lambda f: Image.new("RGB", (64, 64)).save(f, "TIFF")),
    "float tiff": _instead(lambda f: Image.new("F", (64, 64)).save(f, "TIFF")),
    "webp": _instead(lambda f: Image.new("RGB", (64, 64)).save(f, "WEBP")),
    "says 100000 x 100000": _instead(lambda f: f.write_bytes(_header(100_000, 100_000))),
    "says 2^31 x 1": _instead(lambda f: f.write_bytes(_header(2**31 - 1, 1))),
    "turned": _turned,
    "a folder": _instead(lambda f: f.mkdir()),
    "a pipe": _instead(lambda f: os.mkfifo(f)),
    "a device": _instead(lambda f: f.symlink_to("/dev/zero")),
    "a link to nothing": _instead(lambda f: f.symlink_to("nowhere")),
    "a link in a circle": _instead(lambda f: f.symlink_to(f.name)),
    "a link out": _instead(lambda f: f.symlink_to("/etc/hostname")),
    "not readable": lambda file: file.chmod(0),
}


def _as(file: Path) -> None:
    """OpenCV goes by the suffix; nothing to do where it wrote."""
    assert file.is_file()


def _spoil(where: str, suffix: str, spoil: Callable[[Path], None], data: Path) -> None:
    spoil(sorted((data / where).glob(f"*{suffix}"))[0])


NAMES = (
    "IMG (1).jpg", "it's.jpg", "a=b.jpg", "a[1].jpg", "Größe 東京.jpg", "a,b.jpg", "a:b.jpg",
    "{a}.jpg", "$HOME.jpg", "a\\b.jpg", "a b/c d.jpg", "-x.jpg", "#1.jpg", "a;b.jpg", "'q'.jpg",
    '"q".jpg', "100%.jpg", "a+b.jpg", "~a.jpg", "a.b.c.jpg", "UPPER.JPG", "null.jpg", "a*b.jpg",
)  # fmt: skip
SOURCES = (
    "", "nowhere", "nowhere/*.jpg", "empty", "val", "val/*.jpg", "val/**", "**/*.jpg", "pipe.jpg",
    "/dev/null", "/dev/zero", ".", "..", "/", "val/", "*.png", "[", "val/*", "0", "rtsp://x/y",
    "http://127.0.0.1:9/x.jpg", "none.mp4", "*" * 300, "a" * 5000,
)  # fmt: skip


# --- How an annotation file is spoilt ---------------------------------------------------------


def _paths(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Every field of the first entry of every list, and inside of it."""
    for name in (n for n in ("images", "annotations", "categories") if n in document):
        yield (name,)
        yield (name, 0)
        for key, value in document[name][0].items():
            yield (name, 0, key)
            if isinstance(value, list) and value:
                yield (name, 0, key, 0)
                inner = value[0]
                if isinstance(inner, dict):
                    yield from ((name, 0, key, 0, part) for part in inner)
                elif isinstance(inner, list):
                    yield (name, 0, key, 0, 0)
            if isinstance(value, dict):
                yield from ((name, 0, key, part) for part in value)


def _replace(data: Path, file: str, path: tuple[Any, ...], value: Any) -> None:
    document = json.loads((data / file).read_text())
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    if value is DELETE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    (data / file).write_text(json.dumps(document))


def _edit(file: str, change: Callable[[bytes], bytes], data: Path) -> None:
    (data / file).write_bytes(change((data / file).read_bytes()))


def _mutate(file: str, change: Callable[[dict[str, Any]], Any], data: Path) -> None:
    document = json.loads((data / file).read_text())
    (data / file).write_text(json.dumps(change(document) or document))


TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "half": lambda text: text[: len(text) // 2],
    "two": lambda text: text + text,
    "NaN": lambda text: text.replace(b'"width": 64', b'"width": NaN', 1),
    "Infinity": lambda text: text.replace(b'"height": 64', b'"height": Infinity', 1),
    "BOM": lambda text: b"\xef\xbb\xbf" + text,
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "latin-1": lambda text: text.replace(b".jpg", b"\xe9.jpg", 1),
    "deep": lambda text: b"[" * 100_000,
    "a list": lambda text: b"[" + text + b"]",
    "null": lambda text: b"null",
    "comments": lambda text: b"// COCO\n" + text,
    "trailing comma": lambda text: text[:-1] + b",}",
    "binary": lambda text: bytes(range(256)) * 9,
}


def _renamed(name: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["images"][0]["file_name"] = name
        row = document["annotations"][0]
        if "file_name" in row:
            row["file_name"] = name

    return change


def _ids(of: Callable[[int], int], name: str = "annotations") -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for index, row in enumerate(document[name]):
            if "id" in row:
                row["id"] = of(index)

    return change


def _renumbered(name: str, of: Callable[[int], int]) -> Callable[[dict[str, Any]], None]:
    """New ids of images or categories, followed by those who name them."""
    field_name = {"images": "image_id", "categories": "category_id"}[name]

    def change(document: dict[str, Any]) -> None:
        new = {row["id"]: of(index) for index, row in enumerate(document[name])}
        for row in document[name]:
            row["id"] = new[row["id"]]
        for row in document["annotations"]:
            for part in [row, *row.get("segments_info", [])]:
                if field_name in part:
                    part[field_name] = new[part[field_name]]

    return change


def _first(changes: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][0] |= changes

    return change


DOCUMENTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ids from 0": _ids(lambda index: index),
    "ids all equal": _ids(lambda index: 7),
    "negative ids": _ids(lambda index: -index - 1),
    "ids beyond 32 bits": _ids(lambda index: 2**40 + index),
    "ids beyond 53 bits": _ids(lambda index: 2**60 + index),
    "image ids from 0": _renumbered("images", lambda index: index),
    "image ids beyond 32 bits": _renumbered("images", lambda index: 2**40 + index),
    "image ids negative": _renumbered("images", lambda index: -1 - index),
    "image ids equal": _renumbered("images", lambda index: 5),
    "category ids from 0": _renumbered("categories", lambda index: index),
    "category ids reversed": _renumbered("categories", lambda index: 100 - index),
    "image twice": lambda d: d["images"].append(d["images"][0]),
    "annotation twice": lambda d: d["annotations"].append(d["annotations"][0]),
    "category twice": lambda d: d["categories"].append(d["categories"][0]),
    "same names": lambda d: [row.update(name="x") for row in d["categories"]],
    "no images": lambda d: d.update(images=[]),
    "no annotations": lambda d: d.update(annotations=[]),
    "no categories": lambda d: d.update(categories=[]),
    "one annotation": lambda d: d.update(annotations=d["annotations"][:1]),
    "all crowds": lambda d: [row.update(iscrowd=1) for row in d["annotations"]],
    "crowd as text": lambda d: [row.update(iscrowd="0") for row in d["annotations"]],
    "no areas": lambda d: [row.pop("area", None) for row in d["annotations"]],
    "no crowds": lambda d: [row.pop("iscrowd", None) for row in d["annotations"]],
    "things as text": lambda d: [row.update(isthing="false") for row in d["categories"]],
    "absolute name": _renamed("/etc/hostname"),
    "name leads out": _renamed("../../secret.jpg"),
    "name with a null": _renamed("a\0b.jpg"),
    "long name": _renamed("a" * 5000 + ".jpg"),
    "name of a folder": _renamed("."),
    "huge image": lambda d: d["images"][0].update(width=10**6, height=10**6),
    "bool ids": lambda d: d["images"][0].update(id=True),
    "unknown image": _first({"image_id": 123456789}),
    "unknown category": _first({"category_id": 987654}),
    "garbage run lengths": _first({"segmentation": {"size": [64, 64], "counts": "garbage!"}}),
    "other run lengths": _first({"segmentation": {"size": [64, 64], "counts": [1, 2, 3]}}),
    "run lengths of another size": _first({"segmentation": {"size": [9, 9], "counts": [81]}}),
    "negative run lengths": _first({"segmentation": {"size": [64, 64], "counts": [-5, 4101]}}),
    "huge run lengths": _first({"segmentation": {"size": [10**9, 10**9], "counts": [10**18]}}),
    "odd polygon": _first({"segmentation": [[1, 2, 3, 4, 5]]}),
    "short polygon": _first({"segmentation": [[1, 2, 3, 4]]}),
    "far polygon": _first({"segmentation": [[0, 0, 1e30, 0, 1e30, 1e30]]}),
    "polygon outside": _first({"segmentation": [[900, 900, 990, 900, 990, 990]]}),
    "long polygon": _first({"segmentation": [[float(i % 60) for i in range(200_000)]]}),
    "far box": _first({"bbox": [0, 0, 1e30, 1e30]}),
    "box outside": _first({"bbox": [5000, 5000, 10, 10]}),
    "empty box": _first({"bbox": [5, 5, 0, 0]}),
    "huge area": _first({"area": 1e300}),
    "extra fields": _first({"attributes": {"a": [1, {"b": None}]}}),
}


# --- How a checkpoint is spoilt ---------------------------------------------------------------


def _flip(place: float) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[int(place * (len(data) - 1))] ^= 0x5A
        file.write_bytes(bytes(data))

    return spoil


class Executes:
    """What a pickled checkpoint can do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (PAYLOAD,)


BYTES: dict[str, Callable[[Path], None]] = {
    "empty": _again(lambda data: b""),
    "half": _again(lambda data: data[: len(data) // 2]),
    "text": _again(lambda data: b"hello\n"),
    "missing": lambda file: file.unlink(),
    "a folder": _instead(lambda f: f.mkdir()),
    "a pickle that executes": lambda file: torch.save({"unified": Executes()}, file),
    "an old pickle": lambda file: torch.save(
        {"state_dict": {}}, file, _use_new_zipfile_serialization=False
    ),
    **{f"flipped at {place}": _flip(place) for place in (0.0, 0.01, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)},
}


def _state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        state = torch.load(file, weights_only=True)
        changed = change(state)
        torch.save(state if changed is None else changed, file)

    return spoil


def _config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return _state(lambda state: change(state["unified"]["config"]) and None)


def _every(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def apply(state: dict[str, Any]) -> None:
        state["state_dict"] = {k: change(v) for k, v in state["state_dict"].items()}

    return _state(apply)


def _targets(name: str) -> dict[str, Callable[[Path], None]]:
    return {
        f"task is {name}": _config(lambda c: c["task"]["detection"].update(_target_=name)),
        f"trunk is {name}": _config(lambda c: c["trunk"].update(_target_=name)),
        f"decoder is {name}": _config(lambda c: c["implicit"]["decoder"].update(_target_=name)),
        f"source is {name}": _config(lambda c: c["data"]["sources"].update(objects=name)),
        f"logger is {name}": _config(lambda c: c.update(logger={"_target_": name, "args": "x"})),
    }


def _tensors(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """One of the weights, that of the first convolution."""

    def apply(state: dict[str, Any]) -> None:
        name = next(n for n, t in state["state_dict"].items() if t.ndim == 4)
        state["state_dict"][name] = change(state["state_dict"][name])

    return _state(apply)


def _squeezed(file: Path) -> None:
    with zipfile.ZipFile(file) as whole:
        parts = {info.filename: whole.read(info) for info in whole.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as small:
        for name, data in parts.items():
            small.writestr(name, data)


def _elsewhere(config: dict[str, Any]) -> None:
    config["data"].update(root="../elsewhere/data", shapes={"train": 8, "val": 4, "size": 64})


STATES: dict[str, Callable[[Path], None]] = {
    "compressed": _squeezed,
    "one number for all": _tensors(lambda t: torch.zeros(1).expand(t.shape)),
    "one number for a billion": _tensors(lambda t: torch.zeros(1).expand(10**9)),
    "a meta tensor": _tensors(lambda t: t.to("meta")),
    "a sparse tensor": _tensors(lambda t: t.to_sparse()),
    "a complex tensor": _tensors(lambda t: t.to(torch.complex64)),
    "huge weights": _every(lambda t: t * 1e30 if t.is_floating_point() else t),
    "a number as name": _state(lambda s: s["state_dict"].update({7: torch.zeros(1)})),
    "data to be made elsewhere": _config(_elsewhere),
    "a task that leads out": _config(
        lambda c: c["task"].update({"../../x": c["task"].pop("detection")})
    ),
    "a profiler": _config(lambda c: c["trainer"].update(profiler="pytorch")),
    "a root of Lightning's": _config(lambda c: c["trainer"].update(default_root_dir="../root")),
    "an epoch below zero": _state(lambda s: s.update(epoch=-5)),
    "an epoch far away": _state(lambda s: s.update(epoch=10**18)),
    "no state of the optimiser": _state(lambda s: s.update(optimizer_states=None)),
    "an empty optimiser": _state(lambda s: s.update(optimizer_states=[])),
    "no schedule": _state(lambda s: s.update(lr_schedulers=None)),
    "no loops": _state(lambda s: s.update(loops=None)),
    "no callbacks": _state(lambda s: s.pop("callbacks", None) and None),
    "a version of text": _state(lambda s: s.update({"pytorch-lightning_version": "x"})),
    "tasks in another order": _config(lambda c: c.update(task=dict(reversed(c["task"].items())))),
    **_targets("subprocess.Popen"),
    **_targets("os.system"),
    **_targets("antigravity"),
    **_targets("unified.run.train.train"),
    "an interpolation": _config(lambda c: c.update(name="${oc.env:HOME}")),
    "name leads out": _config(lambda c: c.update(name="../../x")),
    "huge widths": _config(lambda c: c["trunk"].update(widths=[10**6] * 5)),
    "huge image": _config(lambda c: c["data"].update(image_size=10**6)),
    "huge codes": _config(lambda c: c["task"]["embedding"].update(memory=2**31 - 1, dim=2**30)),
    "unknown key": _config(lambda c: c.update(surprise=1)),
    "config without data": _config(lambda c: c.pop("data")),
    "config of text": _state(lambda s: s["unified"].update(config="x")),
    "trainer with plugins": _config(lambda c: c["trainer"].update(plugins=["x"], callbacks="y")),
    "a list": _state(lambda s: [1, 2]),
    "not finite": _every(lambda t: t * float("nan") if t.is_floating_point() else t),
    "other shapes": _every(lambda t: t.reshape(-1)[:1]),
    "other types": _every(lambda t: t.to(torch.int8) if t.is_floating_point() else t),
    "no tensors": _state(lambda s: s.update(state_dict={})),
    "tensors are numbers": _state(lambda s: s.update(state_dict=dict.fromkeys(s["state_dict"], 1))),
    "spaces empty": _state(lambda s: s["unified"].update(spaces={})),
    "spaces of text": _state(lambda s: s["unified"].update(spaces={"objects": "x"})),
    "ids are texts": _state(lambda s: s["unified"]["spaces"]["objects"].update(ids=["a"])),
    "names too few": _state(lambda s: s["unified"]["spaces"]["objects"].update(names=["a"])),
    "more classes": _state(
        lambda s: s["unified"]["spaces"]["objects"].update(ids=list(range(9)), names=["a"] * 9)
    ),
    **{
        f"without {key}": _state(lambda s, key=key: s.pop(key))
        for key in ("unified", "state_dict", "epoch", "global_step")
    },
}
YAML = {
    "empty": "",
    "a list": "- 1\n- 2\n",
    "text": "hello",
    "broken": "a: [1, 2\nb: }",
    "binary": "\0\1\2",
    "executes": f"name: !!python/object/apply:builtins.exec ['{PAYLOAD}']\n",
    "a target": "task: {detection: {_target_: subprocess.Popen, args: [touch, executed]}}\n",
    "deep": "a: " + "[" * 500,
    "anchors": "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\n",
}
LOGGERS = {
    "a name that leads out": {"_target_": f"{LIGHTNING}.CSVLogger", "name": "../../EVIL"},
    "a version that leads out": {
        "_target_": f"{LIGHTNING}.TensorBoardLogger", "name": "x", "version": "../../EVIL",
    },
    "a folder that leads out": {
        "_target_": f"{LIGHTNING}.TensorBoardLogger", "name": "x", "sub_dir": "../../EVIL",
    },
    "a logger that sends": {"_target_": f"{LIGHTNING}.WandbLogger", "name": "x"},
    "a logger that is abstract": {"_target_": f"{LIGHTNING}.Logger"},
}  # fmt: skip
PLACES: dict[str, Callable[[Path], None]] = {
    **{
        f"{name} is a link out": (lambda run, name=name: _linked(run / name))
        for name in (".lock", ".last.ckpt.partial", "curves.png", "tensorboard", "bbox.json")
    },
    "a lock that is a pipe": lambda run: os.mkfifo(run / ".lock"),
    "a picture that is a folder": lambda run: _instead(lambda f: f.mkdir())(
        run / "predictions.jpg"
    ),
}
"""What a run's folder may hold besides."""


def _linked(file: Path) -> None:
    target = file.parents[1] / "victim"
    target.write_text("somebody's own")
    file.unlink(missing_ok=True)
    file.symlink_to(target)


RESUMED = (
    "trainer.max_epochs=0", "trainer.max_epochs=-1", "trainer.max_epochs=null", "optim.lr=-1",
    "data.batch_size=100", "data.root=nowhere", "task=[detection]", "trunk=yolor_csp", "seed=9",
    "implicit=none", "optim=sgd", "weighting=uncertainty", "data.image_size=96", "out=other",
    "task.detection.anchors=auto", "optim.ema_decay=0", "name=other", "data.val=val2099",
    "data.batch_size=2", "augment=strong", "task.embedding.memory=7", "logger=tensorboard",
)  # fmt: skip


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def _said_anew(changes: dict[str, Any], run: Path) -> None:
    """With keys by the alphabet, as who edits a file by program leaves it."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | changes))


# --- Command lines ----------------------------------------------------------------------------

LINES = (
    "experiment=[jde,ijde]", "experiment=nothing", "task=[]", "task=detection",
    "task=[detection,detection]",
    "task=null", "~task", "~task.embedding.dim", "~optim", "~data.root", "optim.ema_decay=2",
    "task.detection.loss_weights.box=-1", "+task.detection.loss_weights.boxx=1",
    "task.detection.nms_iou=-1", "++augment.strong.rotate=1e9", "trunk.depths=[-1,1,1,1,1]",
    "trunk.widths=[1,1,1,1,1]", "trunk.widths=[7,7,7,7,7]", "trunk.stem=1", "min_score=-1",
    "trainer.devices=99", "trainer.devices=-1", "trainer.devices=0", "trainer.accelerator=gpu",
    "trainer.accelerator=abacus", "trainer.precision=99", "trainer.strategy=magic",
    "+trainer.fast_dev_run=true", "+trainer.overfit_batches=1", "+trainer.min_epochs=5",
    "+trainer.max_time=00:00:00:01", "+trainer.callbacks=[x]", "+trainer.plugins=x",
    "+trainer.logger=true", "+trainer.profiler=simple", "+trainer.val_check_interval=0.5",
    "trainer.precision=64-true", "trainer.precision=bf16-true", "trainer.strategy=ddp_spawn",
    "trainer.strategy=ddp_notebook", "trainer.strategy=fsdp", "+trainer.val_check_interval=1000",
    "data.batch_size=2000000000", "data.timeout=0", "data.root=${x}", "task.stuff.view=../x",
    "+trainer.deterministic=true", "+trainer.detect_anomaly=true", "+trainer.benchmark=true",
    "+trainer.num_nodes=0", "+trainer.enable_checkpointing=false", "+trainer.limit_test_batches=x",
    "+trainer.num_sanity_val_steps=2", "+trainer.barebones=true", "trainer.max_epochs=0",
    "trainer.max_epochs=null", "trainer.limit_train_batches=0", "trainer.limit_val_batches=0",
    "trainer.limit_train_batches=2.5", "trainer.check_val_every_n_epoch=0",
    "name=../x", "name=..", "name=a/b", "seed=-5", "seed=99999999999",
    "trunk=timm trunk.name=resnet18",
    "trunk=timm trunk.name=../x", "trunk._target_=os.system", "trunk._target_=tasks.stuff.Stuff",
    "task.detection._target_=unified.trunks.csp.CSPTrunk", "implicit.decoder._target_=os.system",
    "logger=tensorboard logger._target_=os.system", "data.sources.objects=os.system",
    "data.sources.objects=unified.data.coco.masks.ObjectMasks", "data.derive=true",
    "+implicit.per_task.detection.align=mul", "+implicit.per_task.poetry.align=mul",
    "implicit.sites=[]", "implicit.sites=[nothing.*]",
    "implicit=network +implicit.decoder.latent=0",
    "weighting=uncertainty", "+weighting.tasks.detection=0", "+weighting.tasks.poetry=1",
    "task.embedding.views=[strong,weak]", "task.embedding.views=[strong,strong]",
    "task.embedding.views=[nothing]", "task.detection.view=nothing", "task.detection.view=plain",
    "task.detection.anchors=[[[1,1]]]", "task.detection.anchors=[[[0,0]],[[1,1]],[[2,2]]]",
    "task.detection.anchors=[[[1e9,1e9]],[[1,1]],[[2,2]]]", "task.detection.level_balance=[1]",
    "data.train=nothing", "data.train=val", "data.val=train", "data.root=/etc",
    "data.root=/dev/null",
    "data.batch_size=3", "data.image_size=33", "data.workers=2", "out=/proc/x", "out=/dev/null",
    "optim=sgd optim.momentum=0", "optim.lr=1e9", "optim.warmup_epochs=99", "optim.final_lr=1",
    "a=b", "=b", "a=", "--nonsense", "-m", "--multirun seed=0,1", "--cfg", "--info", "--help",
    "--hydra-help", "--version", "+hydra.run.dir=/tmp/x", "hydra.sweep.dir=x", "command=predict",
)  # fmt: skip
API = {
    "load nothing": "import unified; unified.load('nowhere')",
    "load None": "import unified; unified.load(None)",
    "load a number": "import unified; unified.load(3)",
    "a device that is not there": "import unified; unified.load(RUN, device='cuda:7')",
    "no device": "import unified; unified.load(RUN, device='gpu')",
    "a device of another type": "import unified; unified.load(RUN, device=3.5)",
    **{
        f"predict({value})": f"import unified, numpy as np, torch, PIL.Image; "
        f"unified.load(RUN).predict({value})"
        for value in (
            "None", "3", "''", "'nowhere.jpg'", "b'abc'", "[]", "{}",
            "np.zeros((0, 0, 3), np.uint8)",
            "np.zeros((5, 5), np.uint8)", "np.zeros((5, 5, 4), np.uint8)", "np.zeros((5, 5, 3))",
            "np.zeros((1, 1, 3), np.uint8)", "np.zeros((3, 5, 5), np.uint8)",
            "np.zeros((9000, 1, 3), np.uint8)", "np.zeros((64, 64, 3), np.uint8)[::-1]",
            "'a' + chr(0) + 'b'", "'a' * 5000", "torch.zeros(3, 8, 8, device='meta')",
            "torch.zeros(3, 8, 8, dtype=torch.uint8).to('meta')",
            "torch.zeros(3, 8, 8, dtype=torch.uint8).to_sparse()",
            "PIL.Image.new('I;16', (9, 9))", "PIL.Image.new('F', (9, 9))",
            "PIL.Image.new('P', (9, 9))", "PIL.Image.new('L', (20000, 20000))",
            "torch.zeros(3, 8, 8)", "torch.zeros(3, 8, 8, dtype=torch.uint8)",
            "torch.zeros(1, 3, 8, 8, dtype=torch.uint8)", "torch.zeros(0)",
            "PIL.Image.new('L', (9, 9))",
            "PIL.Image.new('CMYK', (9, 9))", "PIL.Image.new('RGB', (0, 0))", "PHOTO", "object()",
            "np.full((5, 5, 3), np.nan, np.float32)", "np.zeros((5, 5, 3), bool)",
        )
    },
    "trust nothing": "import unified; unified.load(RUN, trust=None).predict(PHOTO)",
    "trust a number": "import unified; unified.load(RUN, trust=5)",
    "least score of text": "import unified; unified.load(RUN).predict(PHOTO, min_score='x')",
    "least score above one": "import unified; unified.load(RUN).predict(PHOTO, 2.0)",
    "least score": "import unified; unified.load(RUN).predict(PHOTO, 0.5)",
    "a long name": "import unified; unified.load('a' * 5000)",
    "an empty batch": "import unified; assert unified.load(RUN).predict_batch([]) == []",
    "a batch of one that is none": "import unified; unified.load(RUN).predict_batch([None])",
    "a batch that is none": "import unified; unified.load(RUN).predict_batch(None)",
    "a folder": "import unified; unified.load(RUN).predict('.')",
}  # fmt: skip


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{key}.")
        elif not name.startswith("_"):
            yield key, value


def _complete(folder: Path) -> str | None:
    """A run that was accepted has left what a run leaves."""
    run = folder / "out"
    if not run.is_dir():
        return None  # it only told something
    missing = [n for n in ("config.yaml", "results.json", "last.ckpt") if not (run / n).is_file()]
    if missing:
        return f"no {missing[0]}"
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    bad = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    return f"{bad[0]} is not finite" if bad else None


def sampled(cases: list[Case], count: int, seed: int) -> list[Case]:
    """Some of every group."""
    chosen = random.Random(seed)
    groups: dict[str, list[Case]] = {}
    for case in copy.copy(cases):
        groups.setdefault(case.group, []).append(case)
    share = -(-count // len(groups))
    return [case for own in groups.values() for case in chosen.sample(own, min(share, len(own)))]
