"""Panoptic quality by panopticapi, from the files that a user could submit."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unified.errors import ConfigError
from unified.kinds.kind import Source
from unified.kinds.segments import PanopticSegments, PanopticTruth, SegmentLabel
from unified.metrics.collect import Collector, Lookup
from unified.view import ImageMeta

GROUPS = {"": None, "_th": True, "_st": False}
"""Suffix of a metric's name → which categories it is the mean of."""


class PanopticQuality(Collector[tuple[bytes, list[dict[str, Any]]]]):
    """PQ, SQ and RQ (Kirillov et al. 2019, section 4), of all categories, things and stuff.

    Fractions of one; publications give them times 100. A record is (PNG file, segments_info).

    Args:
        source: the annotated segments; its truth is a `PanopticTruth`.
    """

    primary = "PQ"

    def __init__(self, source: Source) -> None:
        super().__init__()
        if find_spec("panopticapi") is None:
            raise ConfigError(
                "panoptic quality needs panopticapi, which is not installed",
                "pip install --no-deps panopticapi-lite",
            )
        self.source, self.known = source, Lookup(source)
        self._areas: dict[int, dict[int, int]] = {}

    def update(self, results: Sequence[PanopticSegments], metas: Sequence[ImageMeta]) -> None:
        for meta, found in zip(metas, results, strict=True):
            if self.known[meta.image_id] is not None:
                self.records[meta.image_id] = encode_segments(found, self.source.space.ids)

    def compute(self) -> dict[str, float]:
        names = [f"{m}{suffix}" for suffix in GROUPS for m in ("PQ", "SQ", "RQ")]
        if not self.records:
            return dict.fromkeys(names, 0.0)
        space = self.source.space
        categories = {
            i: {"id": i, "isthing": int(thing)}
            for i, thing in zip(space.ids, space.things, strict=True)
        }
        truth: PanopticTruth = self.source.truth()
        with tempfile.TemporaryDirectory() as folder:
            found = self._write(Path(folder))
            stat = self._count(found, truth, folder, categories)
        scores: dict[str, float] = {}
        for suffix, isthing in GROUPS.items():
            # panopticapi divides by the number of categories that occur.
            occurs = any(
                sum((stat[i].tp, stat[i].fp, stat[i].fn))
                for i, c in categories.items()
                if isthing is None or bool(c["isthing"]) == isthing
            )
            mean = stat.pq_average(categories, isthing)[0] if occurs else {}
            scores |= {f"{m}{suffix}": mean.get(m.lower(), math.nan) for m in ("PQ", "SQ", "RQ")}
        return scores

    def _count(
        self,
        found: list[dict[str, Any]],
        truth: PanopticTruth,
        folder: str,
        categories: dict[int, dict[str, Any]],
    ) -> Any:
        """panopticapi's counts of matched and unmatched segments per category."""
        from panopticapi.evaluation import PQStat, pq_compute_single_core

        def count(rows: list[dict[str, Any]]) -> Any:
            pairs = [(self._measured(truth.annotations[row["image_id"]]), row) for row in rows]
            return pq_compute_single_core(0, pairs, str(truth.folder), folder, categories)

        # Most of the work is decoding PNGs and sorting pixels, which leave the interpreter free.
        workers = min(8, os.cpu_count() or 1, len(found))
        total = PQStat()
        with contextlib.redirect_stdout(io.StringIO()), ThreadPoolExecutor(workers) as pool:
            for stat in pool.map(count, [found[i::workers] for i in range(workers)]):
                total += stat
        return total

    def _measured(self, annotation: dict[str, Any]) -> dict[str, Any]:
        """An annotation with the areas that its PNG has, which panopticapi takes from the json.

        A segment without a pixel, as scaling down leaves some, is none that could be found.

        Raises:
            DataError: the PNG is one that panopticapi fails at, or takes for something else.
        """
        place: int = self.known[annotation["image_id"]]  # type: ignore[assignment]
        if place not in self._areas:  # the truth is the same in every epoch
            label: SegmentLabel = self.source.read(place)  # type: ignore[assignment]
            pixels = np.bincount(label.rows().ravel(), minlength=len(label.ids) + 1)[1:]
            self._areas[place] = dict(zip(label.ids.tolist(), pixels.tolist(), strict=True))
        areas = self._areas[place]
        parts = [
            part if part.get("iscrowd") else part | {"area": areas[part["id"]]}
            for part in annotation["segments_info"]
            if part.get("iscrowd") or areas[part["id"]]
        ]
        return annotation | {"segments_info": parts}

    def write(self, folder: Path) -> None:
        """`panoptic.json` and `panoptic/*.png`, COCO's result format."""
        pictures = folder / "panoptic"
        pictures.mkdir(exist_ok=True)
        (folder / "panoptic.json").write_text(json.dumps({"annotations": self._write(pictures)}))

    def _write(self, folder: Path) -> list[dict[str, Any]]:
        """PNGs into `folder`; returns the annotations that belong to them."""
        rows = []
        truth: PanopticTruth = self.source.truth()
        for key, (png, info) in self.sorted_records().items():
            name = truth.annotations[key]["file_name"]
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png)
            rows.append(
                {"image_id": key, "file_name": name, "segments_info": [dict(row) for row in info]}
            )
        return rows


def encode_segments(
    found: PanopticSegments, categories: Sequence[int]
) -> tuple[bytes, list[dict[str, Any]]]:
    """The PNG, whose colours are segment numbers, and `segments_info` of one image."""
    segments = found.segments.cpu().numpy()
    colours = np.stack([segments & 255, segments >> 8 & 255, segments >> 16], -1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colours).save(stream, "PNG", compress_level=1)
    present = np.bincount(segments.ravel(), minlength=len(found.labels) + 1)[1:]
    info = [
        {"id": number, "category_id": int(categories[label])}
        for number, label in enumerate(found.labels.tolist(), 1)
        if present[number - 1]
    ]
    return stream.getvalue(), info
