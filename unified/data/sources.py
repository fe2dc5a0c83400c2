"""Who reads which kind of labels, in one folder or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from unified.classes import TARGET, checked_arguments, class_at
from unified.data.config import DataConfig
from unified.errors import ConfigError, DataError
from unified.kinds.kind import Source, Space


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
        image_split: folder of the split's images; by default it is called as the split.

    Attributes:
        root: folder of the annotations.
        images: that within which the images are named.

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
        image_split: str | None = None,
    ) -> None:
        self.config, self.split, self.offered = config, split, dict(offered or {})
        self.root, self.images = Path(config.root), Path(config.images or config.root)
        self.image_split = image_split or split
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


class Folders:
    """The sources of one split: those of `data.root`, and of each further folder its kinds.

    Args:
        config: where they are, and who reads them.
        split: name of the split; further folders may have another for it.
        spaces, offered: as of `Sources`, of all folders.

    Raises:
        DataError: a folder is none.
    """

    def __init__(
        self,
        config: DataConfig,
        split: str,
        spaces: Mapping[str, Space] | None = None,
        offered: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.config, self.split = config, split
        self._names = {kind: n for n, folder in config.folders.items() for kind in folder.kinds}
        self._sources = {None: Sources(config, split, spaces, offered)} | {
            name: Sources(
                config.of(name),
                folder.splits.get(split, split),
                {kind: space for kind, space in (spaces or {}).items() if kind in folder.kinds},
                offered,
                f"data.folders.{name}",
                split if folder.same_images else None,
            )
            for name, folder in config.folders.items()
        }

    def of(self, kind: str) -> Sources:
        """Those of the folder that has a kind."""
        return self._sources[self._names.get(kind)]

    def share(self, kind: str) -> float | None:
        """Of an epoch's images, those of the folder that has a kind; None: as many as it has."""
        return self.config.folders[self._names[kind]].share if kind in self._names else None

    def open(self, kind: str, space: Space | None = None) -> Source:
        """The source of a kind, as its folder opens it.

        Raises:
            ConfigError: nobody reads the kind; or it goes with a kind of the same folder, as masks
                with their boxes, and the run reads that one elsewhere.
            DataError: its annotations are missing, malformed, or of other categories.
        """
        sources = self.of(kind)
        source = sources.open(kind, space)
        for other in sources.kinds:
            if self.of(other) is not sources:
                name = self._names.get(other)
                place = f"data.folders.{name}" if name else "data.root"
                raise ConfigError(
                    f"{kind} of {source.file} go with the {other} of the same folder, and {other} "
                    f"are those of {place}",
                    f"let one folder have both: kinds: [{other},{kind}]",
                )
        return source
