"""Splits: images, and what sources know of them. What that is is not known here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified.arrays import Array, Ragged
from unified.data.sampler import repeat_factors
from unified.data.sources import Folders
from unified.errors import ConfigError, DataError
from unified.kinds.kind import Categorised, Images, Label, Source


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

    def __init__(self, sources: Folders, kinds: Iterable[str]) -> None:
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
        self._shares = self._shares_of(sources)

    def __len__(self) -> int:
        return len(self.images)

    def _places(self, kind: str) -> Array:
        """(N,) row of each image among a source's own, -1 where it is not listed."""
        place = np.full(len(self), -1)
        own = self.folder == self.folders_of[kind]
        place[own] = _places(self.images.ids[own], self.sources[kind].images.ids)
        return place

    def _shares_of(self, sources: Folders) -> dict[int, float]:
        """Position of a folder of images → its share of an epoch, where one is said."""
        shares: dict[int, float | None] = {}
        for kind, place in self.folders_of.items():
            if shares.setdefault(place, sources.share(kind)) != sources.share(kind):
                raise ConfigError(
                    f"data.folders: a share is said of the images in {self.roots[place]}, which "
                    "another folder has, too",
                    "say it of all folders with these images, or of none",
                )
        return {place: share for place, share in shares.items() if share is not None}

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
