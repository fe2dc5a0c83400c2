"""Splits: images, and the sources that know something of them. What they know is not known here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unified.arrays import Array, Ragged
from unified.classes import TARGET, checked_arguments, class_at
from unified.data.config import DataConfig
from unified.data.sampler import repeat_factors
from unified.errors import ConfigError, DataError
from unified.kinds.kind import Categorised, Images, Label, Source, Space


class Reader(Protocol):
    """A class that reads one kind: called with `Sources` and its options, it gives the source."""

    kind: str

    def __call__(self, sources: Sources, **options: Any) -> Source: ...

    def json(self, sources: Sources) -> Path:
        """The json that it reads, there or not."""
        ...


class Sources:
    """The sources of one split in one folder, each opened when it is first asked for.

    Args:
        config: where they are, and who reads them.
        split: name of the split.
        spaces: kind → the space that a source's own must not differ from, when the order of the
            classes is fixed already (validation against training, evaluation of a checkpoint).
        offered: kind → the space of the weights that training starts from, as plain containers:
            for sources that can read their labels into more than one.
        key: of the part of the configuration that says where they are.

    Attributes:
        root: folder of the annotations.
        images: that within which the images are named.
        image_split: folder of the split's images within that.
        share: of an epoch's images that are of this folder; None: as many as there are.

    Raises:
        DataError: a folder is none.
    """

    def __init__(
        self,
        config: DataConfig,
        split: str,
        spaces: Mapping[str, Space] | None = None,
        offered: Mapping[str, Mapping[str, Any]] | None = None,
        key: str = "data",
    ) -> None:
        self.config, self.split, self.offered = config, split, dict(offered or {})
        self.root, self.images = Path(config.root), Path(config.images or config.root)
        self.image_split = split
        self.share: float | None = None
        self.spaces = dict(spaces or {})
        self._opened: dict[str, Source] = {}
        self._check_folder(self.root, f"{key}.root")
        self._check_folder(self.images, f"{key}.images")

    def _check_folder(self, folder: Path, key: str) -> None:
        if not folder.is_dir():
            also = ", or use data=shapes" if key == "data.root" else ""
            raise DataError(
                f"{key}={folder} is not a folder",
                f"point {key} to a folder with annotations/ and one folder per split{also}",
            )

    def of(self, kind: str) -> Sources:
        """Those that read a kind."""
        return self

    @property
    def kinds(self) -> Iterable[str]:
        """What was opened."""
        return self._opened.keys()

    def json(self, name: str) -> Path:
        """`annotations/<name>_<split>.json`, there or not."""
        return self.root / "annotations" / f"{name}_{self.split}.json"

    def open(self, kind: str, space: Space | None = None) -> Source:
        """The source of a kind.

        Args:
            kind: its name.
            space: that its own must not differ from, where that is known by now.

        Raises:
            ConfigError: nobody reads the kind.
            DataError: its annotations are missing, malformed, or of other categories.
        """
        if space is not None:
            self.spaces[kind] = space
        if kind not in self._opened:
            source = self._reader(kind)()
            difference = self.spaces[kind].differs(source.space) if kind in self.spaces else None
            if difference:
                raise DataError(
                    f"{source.file} has other categories than the model was built for: "
                    f"{difference}",
                    "use the same category list, ids included, in every split",
                )
            _check_pixels(source, self.config.max_pixels)
            self._opened[kind] = source
        return self._opened[kind]

    def _reader(self, kind: str) -> Callable[[], Source]:
        """What opens the source of a kind."""
        config = self.config
        if kind not in config.sources:
            raise ConfigError(
                f"nobody reads {kind} labels: data.sources names {', '.join(config.sources)}",
                f"name a class that does: data.sources.{kind}=module.Class",
            )
        able = [(f"data.sources.{kind}", config.sources[kind])]
        if config.derive and kind in config.derived:
            able.append((f"data.derived.{kind}", config.derived[kind]))
        for key, named in able:
            reader, options = _reader_at(key, named, kind)
            file = reader.json(self)
            if file.exists():
                return partial(reader, self, **options)
        raise DataError(
            f"split {self.split!r} has no {kind} labels: {file} does not exist",
            "add the file, check data.train and data.val, or the folder's splits, set "
            "data.derive=true where others tell as much, or leave out the tasks that need it: "
            "task=[…]",
        )


def _check_pixels(source: Source, most: int) -> None:
    """Refuse sizes of which nothing should be made."""
    pixels = source.images.heights.astype(float) * source.images.widths
    if pixels.max() > most:
        row = int(pixels.argmax())
        height, width = source.images.size(row)
        raise DataError(
            f"{source.file}: image {source.images.ids[row]} is said to have {width}×{height} "
            f"pixels, more than {most}",
            "correct its size, or raise data.max_megapixels",
        )


def _reader_at(
    key: str, named: str | Mapping[str, Any], kind: str
) -> tuple[Reader, dict[str, Any]]:
    """The class that the configuration names, and its options.

    Raises:
        ConfigError: it reads another kind, or nothing, or does not take an option.
    """
    part = {TARGET: named} if isinstance(named, str) else dict(named)
    reader: Reader = class_at(key, part.pop(TARGET, None))
    if getattr(reader, "kind", None) != kind or not hasattr(reader, "json"):
        raise ConfigError(
            f"{key}={named} is no reader of {kind}",
            f"name a class that is: its kind is {kind!r}, and json says where its file is",
        )
    return reader, checked_arguments(key, reader, part, ("sources",))


class AllSources(Protocol):
    """The sources of one split, in one folder or in several.

    Attributes:
        split: its name.
        config: where they are.
    """

    split: str
    config: DataConfig

    def open(self, kind: str, space: Space | None = None) -> Source:
        """The source of a kind."""
        ...

    def of(self, kind: str) -> Sources:
        """Those of the folder that has a kind."""
        ...


class Split:
    """The images that some of a split's sources list, and what these know of them.

    Args:
        sources: of the split.
        kinds: which of them.

    Attributes:
        images: all that a source lists, folder by folder, and there by rising id.
        sources: kind → source.
        roots: the folders of images, within which ids are unique.
        folder: (N,) position of each image's folder among them.
        folders_of: kind → position of the folder of its images.

    Raises:
        DataError: two sources do not agree on the size of an image.
        ConfigError: a share is said of images that are of another folder, too.
    """

    def __init__(self, sources: AllSources, kinds: Iterable[str]) -> None:
        self.name, self.max_pixels = sources.split, sources.config.max_pixels
        self.sources = {kind: sources.open(kind) for kind in dict.fromkeys(kinds)}
        readers = {kind: sources.of(kind) for kind in self.sources}
        roots = {reader.images.resolve(): reader.images for reader in readers.values()}
        self.roots: list[Path] = list(roots.values())
        self.folders_of = {k: list(roots).index(r.images.resolve()) for k, r in readers.items()}
        parts = [
            _union([self.sources[k] for k, own in self.folders_of.items() if own == place])
            for place in range(len(self.roots))
        ]
        self.folder = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self.images = _chained(parts)
        self._place = {k: self._places(k) for k in self.sources}
        self._shares = _shares(list(readers.values()), list(self.folders_of.values()))

    def __len__(self) -> int:
        return len(self.images)

    def _places(self, kind: str) -> Array:
        """(N,) row of each image among a source's own, -1 where it is not listed."""
        place = np.full(len(self), -1)
        own = self.folder == self.folders_of[kind]
        place[own] = _places(self.images.ids[own], self.sources[kind].images.ids)
        return place

    def known(self, kind: str) -> Array:
        """(N,) bool: which images have a label of this kind."""
        place = self._place[kind]
        return np.asarray((place >= 0) & self.sources[kind].known[place])

    def factors(self, repeat: Mapping[str, float]) -> Array:
        """(N,) how often each image comes in an epoch.

        Args:
            repeat: kind → share of the images below which a category is rare.

        Raises:
            ConfigError: the split does not know the kind, or which categories images hold.
        """
        factors = np.ones(len(self))
        for kind, threshold in repeat.items():
            source = self.sources.get(kind)
            if not isinstance(source, Categorised):
                able = [k for k, s in self.sources.items() if isinstance(s, Categorised)]
                others = f", or name one of: {', '.join(able)}" if able else ""
                fix = f"leave it out: ~data.repeat.{kind}{others}"
                raise ConfigError(
                    f"data.repeat.{kind}: no task reads it, or its images hold no categories",
                    fix,
                )
            own = np.append(repeat_factors(*source.held(), threshold), 1.0)  # -1: not listed
            factors = np.maximum(factors, own[self._place[kind]])
        return self._shared(factors)

    def _shared(self, factors: Array) -> Array:
        """The same number of images, of which each folder with a share has that."""
        total, shares = factors.sum(), dict(self._shares)
        rest = [place for place in range(len(self.roots)) if place not in shares]
        left = np.isin(self.folder, rest)
        if rest:  # else what is said of one folder beside another counts for both
            shares[-1] = 1 - sum(shares.values())
        shared: Array = factors.copy()
        for place, share in shares.items():
            own = left if place == -1 else self.folder == place
            shared[own] *= share / sum(shares.values()) * total / factors[own].sum()
        return shared

    def label(self, kind: str, index: int) -> Label | None:
        """What a source knows of one image, in original pixels."""
        return self._of(kind, index, self.sources[kind].read)

    def result(self, kind: str, index: int) -> Any | None:
        """The same in the form of a perfect result."""
        source = self.sources[kind]
        return self._of(kind, index, lambda place: source.result(place).of({kind: source.space}))

    def _of(self, kind: str, index: int, read: Callable[[int], Any]) -> Any | None:
        place = int(self._place[kind][index])
        return read(place) if place >= 0 and self.sources[kind].known[place] else None

    def image_file(self, index: int) -> Path:
        """The image at a position of the split."""
        root: Path = self.roots[self.folder[index]]
        return root / self.images.names.text(index)

    def files(self) -> Iterator[Path]:
        """The images."""
        return map(self.image_file, range(len(self)))

    def real_files(self) -> Iterator[Path]:
        """The same, of folders without links: one name for one image."""
        roots = [root.resolve() for root in self.roots]
        for index, place in enumerate(self.folder):
            yield roots[place] / self.images.names.text(index)

    def folders(self) -> dict[Path, set[Path]]:
        """Folder of a root → the images in it."""
        found: dict[Path, set[Path]] = {}
        for place, file in zip(self.folder, self.files(), strict=True):
            root = self.roots[place]
            found.setdefault(root / file.relative_to(root).parts[0], set()).add(file)
        return found


def _union(sources: list[Source]) -> Images:
    """The images of all sources; the first that lists one says what it is called."""
    ids = np.concatenate([source.images.ids for source in sources])
    unique, first = np.unique(ids, return_index=True)

    def taken(name: str) -> Array:
        return np.concatenate([getattr(source.images, name) for source in sources])[first]

    every = _joined([source.images.names for source in sources])
    images = Images(unique, taken("heights"), taken("widths"), every.take(first))
    for source in sources:
        _check_sizes(images, source, sources[0])
    return images


def _check_sizes(images: Images, source: Source, first: Source) -> None:
    place = np.searchsorted(images.ids, source.images.ids)
    differs = (images.heights[place] != source.images.heights) | (
        images.widths[place] != source.images.widths
    )
    if differs.any():
        row = int(differs.argmax())
        height, width = source.images.size(row)
        raise DataError(
            f"{source.file}: image {source.images.ids[row]} is {width}×{height} pixels, in "
            f"{first.file} it is {images.widths[place[row]]}×{images.heights[place[row]]}",
            "correct the one that does not fit the image file",
        )


def _places(ids: Array, own: Array) -> Array:
    """(N,) row of each id among the own ones, which rise; -1 where it is none of them."""
    place = np.searchsorted(own, ids).clip(max=len(own) - 1)
    return np.where(own[place] == ids, place, -1)


def _chained(parts: list[Images]) -> Images:
    """Images of several folders, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    ids, heights, widths = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("ids", "heights", "widths")
    )
    return Images(ids, heights, widths, _joined([part.names for part in parts]))


def _joined(names: list[Ragged]) -> Ragged:
    starts = np.cumsum([0, *(len(n.values) for n in names)])
    offsets = [n.offsets[:-1] + start for n, start in zip(names, starts, strict=False)]
    return Ragged(
        np.concatenate([n.values for n in names]), np.concatenate([*offsets, starts[-1:]])
    )


def _shares(readers: list[Sources], folders: list[int]) -> dict[int, float]:
    """Position of a folder of images → its share of an epoch, where one is said."""
    shares: dict[int, float | None] = {}
    for reader, place in zip(readers, folders, strict=True):
        if shares.setdefault(place, reader.share) != reader.share:
            raise ConfigError(
                f"data.folders: a share is said of the images in {reader.images}, which another "
                "folder has, too",
                "say it of all folders with these images, or of none",
            )
    return {place: share for place, share in shares.items() if share is not None}
