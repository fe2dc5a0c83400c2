"""Reader of a folder in COCO's layout, every annotation kind it knows, whichever are present.

`<root>/<split>/*.jpg` and `<root>/annotations/{kind}_<split>.json` (COCO's API page). A split is
read once into arrays (`tables.py`); one image's labels are cut out of them on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from unified.data.derive import masks_of, stuff_of, things_of
from unified.data.document import Document, read_document
from unified.data.maps import TO_CLASSES, read_labels
from unified.data.tables import AnnotationTable, Ragged
from unified.errors import DataError
from unified.specs import IGNORE, Array, Instances, LabelSpace, LvisLabels, Segments

LABEL_FILES = {"panoptic": "panoptic_{}", "stuff": "stuff_{}_pixelmaps"}
"""Annotation kinds whose labels are pixels, and the folders that hold them."""
KINDS = ("instances", "person_keypoints", "captions", "panoptic", "stuff", "lvis")


class CocoSplit:
    """One split of a data set.

    Args:
        root: the data set's folder.
        split: name of the split and of its image folder, as `train2017`.
        labels: label spaces to use, when the order of the classes is fixed already (validation
            against training, evaluation against a checkpoint); read from the files when None.
        derive: make instance and stuff labels from panoptic ones, where the split lacks them.

    Attributes:
        ids, heights, widths: (N,) int64.
        labels: annotation kind → label space; only the kinds present.
        tables: annotation kind → annotations, for instances, panoptic, stuff and lvis.

    Raises:
        DataError: the folder or every annotation file is missing, or a file is not COCO.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        labels: Mapping[str, LabelSpace] | None = None,
        derive: bool = False,
    ) -> None:
        self.root, self.split = Path(root), split
        if not self.root.is_dir():
            raise DataError(
                f"data.root={self.root} is not a folder",
                "point data.root to a folder with annotations/ and one folder per split, "
                "or use data=shapes",
            )
        present = [kind for kind in KINDS if self.annotation_file(kind).is_file()]
        if not present:
            raise DataError(
                f"{self.root / 'annotations'} has no annotations of split {split!r}",
                f"expected at least one of {', '.join(f'{k}_{split}.json' for k in KINDS)}; "
                "check data.train and data.val",
            )
        self.labels: dict[str, LabelSpace] = {}
        self.tables: dict[str, AnnotationTable] = {}
        self.captions: Ragged | None = None
        self.caption_first: Array = np.zeros(0, np.int64)
        self.segment_files: dict[str, dict[int, str]] = {}
        self.sources = {kind: kind for kind in LABEL_FILES}
        self.derived_segment: Array | None = None
        documents = {k: read_document(self.annotation_file(k), k) for k in present}
        self._index_images(documents)
        for kind, document in documents.items():
            self._add(kind, document, labels)
        if "person_keypoints" in self.tables:
            self._join_keypoints()
        if derive:
            self._derive(labels)

    def __len__(self) -> int:
        return len(self.ids)

    # --- Where things are ---------------------------------------------------------------

    def annotation_file(self, kind: str) -> Path:
        """The json of one annotation kind, present or not."""
        return self.root / "annotations" / f"{kind}_{self.split}.json"

    def label_folder(self, kind: str) -> Path:
        """Where the PNGs of `panoptic` or `stuff` are."""
        return self.root / "annotations" / LABEL_FILES[kind].format(self.split)

    @property
    def instances_file(self) -> Path:
        """The json that boxes come from."""
        if self.derived_segment is not None:
            return self.annotation_file("panoptic")
        file = self.annotation_file("instances")
        return file if file.is_file() else self.annotation_file("person_keypoints")

    def require(self, kind: str) -> None:
        """Refuse a split that cannot be scored.

        Raises:
            DataError: it has no annotations of this kind.
        """
        if kind not in self.labels:
            raise DataError(
                f"split {self.split!r} of {self.root} has no {kind} labels to score against",
                f"add {self.annotation_file(kind)}, set data.derive=true where there are panoptic "
                "labels, or leave out the tasks that need them: task=[…]",
            )

    def image_file(self, index: int) -> Path:
        """The image at a position of the split."""
        return self.root / self.split / self.names.text(index)

    # --- What an image carries ----------------------------------------------------------

    def instances(self, index: int, masks: bool = True) -> Instances | None:
        """Objects of one image in original pixels; None where the split has no such kind.

        Without `masks`, those that lie in a panoptic PNG stay there.
        """
        found = self._instances("instances", index)
        source = self.segments("panoptic", index) if self.derived_segment is not None else None
        if masks and found is not None and source is not None and len(found):
            assert self.derived_segment is not None
            size = (int(self.heights[index]), int(self.widths[index]))
            segment = self.derived_segment[self.tables["instances"].rows(index)]
            found.rles = dict(enumerate(masks_of(read_labels(source.file, size, True), segment)))
        return found

    def lvis(self, index: int) -> LvisLabels | None:
        """LVIS objects and federated lists of one image."""
        instances = self._instances("lvis", index)
        if instances is None:
            return None
        return LvisLabels(instances, self.negatives[index], self.not_exhaustive[index])

    def caption_texts(self, index: int) -> tuple[str, ...] | None:
        """The captions of one image; None where it has none."""
        if self.captions is None:
            return None
        rows = range(int(self.caption_first[index]), int(self.caption_first[index + 1]))
        return tuple(self.captions.text(row) for row in rows) or None

    def segments(self, kind: str, index: int) -> Segments | None:
        """`panoptic` or `stuff`: the label file of one image and the meaning of its ids."""
        file = self.segment_files.get(kind, {}).get(int(self.ids[index]))
        if file is None:
            return None
        table = self.tables[kind]
        rows = table.rows(index)
        return Segments(file, table.ids[rows], table.labels[rows], table.crowd[rows])

    def has_masks(self) -> bool:
        """Whether any object has a polygon or run lengths."""
        table = self.tables.get("instances")
        drawn = table is not None and len(table.rings.values) + len(table.rles.values) > 0
        return drawn or self.derived_segment is not None

    def label_files(self, kinds: Iterable[str]) -> list[Path]:
        """The files that hold the pixels of these kinds, each once."""
        chosen = set(kinds)
        if "instances" in chosen and self.derived_segment is not None:
            chosen.add("panoptic")
        files = {f for kind in chosen for f in self.segment_files.get(kind, {}).values()}
        return [Path(f) for f in sorted(files) if not f.endswith(".json")]

    def class_map(
        self, kind: str, index: int, warp: Callable[[Array], Array] = lambda pixels: pixels
    ) -> Array | None:
        """`panoptic` or `stuff` of one image as uint8 class indices, else None.

        Args:
            kind, index: what of which image.
            warp: moves the stored pixels, and fills with 0 what they do not cover.

        Raises:
            DataError: the label file is missing, broken, or not of the image's size.
        """
        segments = self.segments(kind, index)
        if segments is None:
            return None
        size = (int(self.heights[index]), int(self.widths[index]))
        if Path(segments.file).suffix == ".json":
            pixels = self._paint(kind, index, size)
        else:
            pixels = read_labels(segments.file, size, self.sources[kind] == "panoptic")
        return TO_CLASSES[self.sources[kind]](warp(pixels), segments, self.labels[kind])

    def _paint(self, kind: str, index: int, size: tuple[int, int]) -> Array:
        """Category ids (H, W) uint8 from run lengths, 0 where there is none."""
        table = self.tables[kind]
        rows = table.rows(index)
        canvas = np.zeros(size, np.uint8)
        for row in range(rows.start, rows.stop):
            mask = coco_mask.decode({"size": list(size), "counts": table.rles[row].tobytes()})
            canvas[mask > 0] = self.labels[kind].ids[table.labels[row]]
        return canvas

    def _instances(self, kind: str, index: int) -> Instances | None:
        table = self.tables.get(kind)
        if table is None:
            return None
        return table.instances(index, int(self.heights[index]), int(self.widths[index]))

    # --- Reading ------------------------------------------------------------------------

    def _index_images(self, documents: Mapping[str, Document]) -> None:
        rows: dict[int, dict[str, Any]] = {}
        for document in documents.values():
            for row in document.images:
                rows.setdefault(row["id"], row)
        ordered = [rows[key] for key in sorted(rows)]
        self.ids = np.array([r["id"] for r in ordered], np.int64)
        self.heights = np.array([r["height"] for r in ordered], np.int64)
        self.widths = np.array([r["width"] for r in ordered], np.int64)
        self.names = Ragged.of_texts(r["file_name"] for r in ordered)
        self.position = {int(key): i for i, key in enumerate(self.ids)}
        self.has_instances = np.zeros(len(self), bool)
        for kind in ("instances", "person_keypoints"):
            if kind in documents:
                listed = [self.position[r["id"]] for r in documents[kind].images]
                self.has_instances[listed] = True
                break
        if "lvis" in documents:
            by_id = {r["id"]: r for r in documents["lvis"].images}
            space = _label_space(documents["lvis"].categories, False)
            index = {c: i for i, c in enumerate(space.ids)}
            lists = {
                name: [
                    np.array([index[c] for c in by_id.get(int(i), {}).get(name, [])], np.int64)
                    for i in self.ids
                ]
                for name in ("neg_category_ids", "not_exhaustive_category_ids")
            }
            self.negatives = lists["neg_category_ids"]
            self.not_exhaustive = lists["not_exhaustive_category_ids"]

    def _add(self, kind: str, document: Document, fixed: Mapping[str, LabelSpace] | None) -> None:
        if kind == "captions":
            self._add_captions(document)
            return
        if kind == "panoptic" and not all("isthing" in c for c in document.categories):
            raise DataError(
                f"{self.annotation_file(kind)}: a category does not say whether it is a thing",
                "give every panoptic category isthing, 0 or 1",
            )
        own = _label_space(document.categories, document.builder.named)
        if fixed is not None and kind in fixed:
            _check_same_labels(self.annotation_file(kind), own, fixed[kind])
            own = fixed[kind]
        self.labels[kind] = own
        index = {category: i for i, category in enumerate(own.ids)}
        self.tables[kind] = document.builder.build(self.position, index, len(own.keypoints))
        if kind in LABEL_FILES:
            self.segment_files[kind] = self._label_files(kind, document)

    def _label_files(self, kind: str, document: Document) -> dict[int, str]:
        """Image id → file with its pixels; the json itself where it holds them as run lengths."""
        ids = self.labels[kind].ids
        if len(ids) >= IGNORE or (kind == "stuff" and max(ids) >= IGNORE):
            raise DataError(
                f"{self.annotation_file(kind)} has {len(ids)} categories, ids up to {max(ids)}",
                "pixel maps have one byte: use fewer than 255 categories, for stuff also ids "
                "below 255",
            )
        base = self.label_folder(kind)
        if kind == "stuff" and not base.is_dir():
            if not len(self.tables[kind].rles.values):
                raise DataError(
                    f"stuff labels of split {self.split!r} have no pixels: there is no folder "
                    f"{base} and {self.annotation_file(kind)} has no run lengths",
                    "add the pixel maps, or a json with RLE segmentations",
                )
            return {row["id"]: str(self.annotation_file(kind)) for row in document.images}
        # A panoptic json names its files; a stuff map has the name of its image.
        names = document.files or {
            row["id"]: str(Path(row["file_name"]).with_suffix(".png")) for row in document.images
        }
        return {image: str(base / name) for image, name in names.items()}

    def _derive(self, fixed: Mapping[str, LabelSpace] | None) -> None:
        """Fill in the kinds that the split lacks from its panoptic labels."""
        if "panoptic" not in self.tables:
            raise DataError(
                f"data.derive=true, and {self.annotation_file('panoptic')} does not exist",
                "add panoptic labels, or set data.derive=false",
            )
        table, space = self.tables["panoptic"], self.labels["panoptic"]
        if "instances" not in self.tables:
            things = things_of(table, space)
            self._add_derived("instances", things.table, things.labels, fixed)
            self.derived_segment = things.segment
            self.has_instances = np.isin(self.ids, list(self.segment_files["panoptic"]))
        if "stuff" not in self.tables:
            self._add_derived("stuff", *stuff_of(table, space), fixed)
            self.segment_files["stuff"] = self.segment_files["panoptic"]
            self.sources["stuff"] = "panoptic"

    def _add_derived(
        self,
        kind: str,
        table: AnnotationTable,
        labels: LabelSpace,
        fixed: Mapping[str, LabelSpace] | None,
    ) -> None:
        if fixed is not None and kind in fixed:
            _check_same_labels(self.annotation_file("panoptic"), labels, fixed[kind])
        self.tables[kind], self.labels[kind] = table, labels

    def _add_captions(self, document: Document) -> None:
        per_image = [document.captions.get(int(i), []) for i in self.ids]
        self.captions = Ragged.of_texts(t for texts in per_image for t in texts)
        self.caption_first = np.concatenate([[0], np.cumsum([len(t) for t in per_image])])

    def _join_keypoints(self) -> None:
        """Attach keypoints to the instances with the same annotation ids."""
        people = self.tables.pop("person_keypoints")
        if "instances" not in self.tables:
            self.tables["instances"] = people
            self.labels["instances"] = self.labels["person_keypoints"]
            return
        table = self.tables["instances"]
        order = np.argsort(people.ids)
        place = np.searchsorted(people.ids, table.ids, sorter=order).clip(max=len(order) - 1)
        rows = order[place] if len(order) else place
        same = people.ids[rows] == table.ids if len(order) else np.zeros(len(table), bool)
        table.keypoints = people.keypoints
        table.keypoint_row = np.where(same, people.keypoint_row[rows], -1)


def _label_space(categories: list[dict[str, Any]], identified: bool) -> LabelSpace:
    ordered = sorted(categories, key=lambda c: c["id"])
    with_joints = [c for c in ordered if c.get("keypoints")]
    joints = with_joints[0] if with_joints else {}
    frequency = tuple(str(c["frequency"]) for c in ordered if "frequency" in c)
    return LabelSpace(
        ids=tuple(int(c["id"]) for c in ordered),
        names=tuple(str(c["name"]) for c in ordered),
        things=tuple(bool(c.get("isthing", 1)) for c in ordered),
        frequency=frequency if len(frequency) == len(ordered) else (),
        keypoints=tuple(joints.get("keypoints", ())),
        skeleton=tuple((a - 1, b - 1) for a, b in joints.get("skeleton", ())),
        identified=identified,
    )


def _check_same_labels(path: Path, own: LabelSpace, fixed: LabelSpace) -> None:
    if own.ids != fixed.ids or own.names != fixed.names:
        unknown = [n for n in own.names if n not in fixed.names]
        lost = [n for n in fixed.names if n not in own.names]
        raise DataError(
            f"{path} has other categories than the model was built for: "
            f"unknown {unknown[:5]}, missing {lost[:5]} (or other ids)",
            "use the same category list, ids included, in every split",
        )
