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
    """The sources of one split, each opened when it is first asked for.

    Args:
        config: where they are, and who reads them.
        split: name of the split.
        spaces: kind → the space that a source's own must not differ from, when the order of the
            classes is fixed already (validation against training, evaluation of a checkpoint).
        offered: kind → the space of the weights that training starts from, as plain containers:
            for sources that can read their labels into more than one.

    Raises:
        DataError: `data.root` is no folder.
    """

    def __init__(
        self,
        config: DataConfig,
        split: str,
        spaces: Mapping[str, Space] | None = None,
        offered: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.config, self.split, self.offered = config, split, dict(offered or {})
        self.root = Path(config.root)
        self.spaces = dict(spaces or {})
        self._opened: dict[str, Source] = {}
        if not self.root.is_dir():
            raise DataError(
                f"data.root={self.root} is not a folder",
                "point data.root to a folder with annotations/ and one folder per split, "
                "or use data=shapes",
            )

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
            "add the file, check data.train and data.val, set data.derive=true where others "
            "tell as much, or leave out the tasks that need it: task=[…]",
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


class Split:
    """The images that some of a split's sources list, and what these know of them.

    Args:
        sources: of the split.
        kinds: which of them.

    Attributes:
        images: all that a source lists, by rising id.
        sources: kind → source.

    Raises:
        DataError: two sources do not agree on the size of an image.
    """

    def __init__(self, sources: Sources, kinds: Iterable[str]) -> None:
        self.name, self.root = sources.split, sources.root
        self.max_pixels = sources.config.max_pixels
        self.sources = {kind: sources.open(kind) for kind in dict.fromkeys(kinds)}
        self.images = _union(list(self.sources.values()))
        self._place = {k: _places(self.images, s.images) for k, s in self.sources.items()}

    def __len__(self) -> int:
        return len(self.images)

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
        return factors

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
        return self.root / self.images.names.text(index)

    def names(self) -> Iterator[str]:
        """Of the images, within the root of the data."""
        return map(self.images.names.text, range(len(self)))

    def folders(self) -> dict[Path, set[Path]]:
        """Folder of the root → the images in it."""
        found: dict[Path, set[Path]] = {}
        for name in self.names():
            found.setdefault(self.root / Path(name).parts[0], set()).add(self.root / name)
        return found


def _union(sources: list[Source]) -> Images:
    """The images of all sources; the first that lists one says what it is called."""
    ids = np.concatenate([source.images.ids for source in sources])
    unique, first = np.unique(ids, return_index=True)

    def taken(name: str) -> Array:
        return np.concatenate([getattr(source.images, name) for source in sources])[first]

    names = [source.images.names for source in sources]
    starts = np.cumsum([0, *(len(n.values) for n in names)])
    offsets = [n.offsets[:-1] + start for n, start in zip(names, starts, strict=False)]
    every = Ragged(
        np.concatenate([n.values for n in names]), np.concatenate([*offsets, starts[-1:]])
    )
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


def _places(images: Images, own: Images) -> Array:
    """(N,) row of each image among a source's own, -1 where it is not listed."""
    place = np.searchsorted(own.ids, images.ids).clip(max=len(own) - 1)
    return np.where(own.ids[place] == images.ids, place, -1)
