"""Where the data is and how it is loaded: the typed part `data` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from msgspec import Meta

from unified.bounds import Count, Name
from unified.data.images import MAX_PIXELS
from unified.data.shapes.config import ShapesConfig
from unified.errors import ConfigError

ImageSize = Annotated[int, Meta(ge=32, le=8192)]


@dataclass
class FolderConfig:
    """A further folder, of which some kinds of labels are read.

    Attributes:
        root: folder in COCO's layout.
        kinds: which labels are its; they are read from nowhere else.
        splits: name of a split elsewhere → its name here, where that is another.
        same_images: its labels are of the images of `data`, known by their ids; else of images in
            `root`, whose ids may be alike.
        share: of an epoch's images, and evenly of its batches, those of this folder, where others
            without a share are read as well, else in proportion; null: as many as it has.
    """

    root: Name
    kinds: Annotated[list[Name], Meta(min_length=1)]
    splits: dict[Name, Name] = field(default_factory=dict)
    same_images: bool = False
    share: Annotated[float, Meta(gt=0, lt=1)] | None = None


@dataclass
class DataConfig:
    """Where the data is and how it is loaded.

    Attributes:
        root: folder in COCO's layout.
        train, val: names of the splits.
        images: folder of the images, within which they are named; null: `root`.
        folders: name → a further folder, for labels that are elsewhere, of the same images or of
            others.
        image_size: side of the square network input in pixels, a multiple of 32.
        batch_size: network inputs per step and process, all views counted.
        workers: loading processes; 0 loads in the main process.
        timeout: seconds to wait for a batch of the loading processes.
        check: look at every image file before training starts.
        max_megapixels: images that have more are refused instead of decoded.
        links: let files be links to others outside of their folder.
        derive: where a split lacks a kind, make it from another by `derived`.
        repeat: kind → share of the images below which a category is rare: images of rare categories
            come more often in an epoch, as `repeat_factors` says.
        sources: kind → the class that reads it; or `_target_` and options of one.
        derived: kind → the class that makes it from another kind, the same.
        shapes: generate the embedded data set into `root`; null for real data.
    """

    root: Name
    train: Name
    val: Name
    image_size: ImageSize
    batch_size: Count
    workers: Annotated[int, Meta(ge=0, le=512)]
    timeout: Count = 300
    images: Name | None = None
    folders: dict[str, FolderConfig] = field(default_factory=dict)
    check: bool = True
    max_megapixels: Annotated[float, Meta(gt=0, le=1000)] = MAX_PIXELS / 1e6
    links: bool = False
    derive: bool = False
    repeat: dict[str, Annotated[float, Meta(gt=0, le=1)]] = field(default_factory=dict)
    sources: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    derived: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    shapes: ShapesConfig | None = None

    def __post_init__(self) -> None:
        if self.image_size % 32:
            raise ConfigError(
                f"data.image_size={self.image_size} is not a multiple of 32",
                f"use {max(32, round(self.image_size / 32) * 32)}",
            )
        readers: dict[str, str] = {}
        for name, folder in self.folders.items():
            if folder.same_images and folder.share is not None:
                raise ConfigError(
                    f"data.folders.{name}.share is of images of its own, and same_images=true",
                    "leave one of them out",
                )
            if len(set(folder.kinds)) < len(folder.kinds):
                raise ConfigError(
                    f"data.folders.{name}.kinds={folder.kinds} names one twice", "name each once"
                )
            for kind in folder.kinds:
                if kind not in self.sources:
                    raise ConfigError(
                        f"data.folders.{name}.kinds: nobody reads {kind} labels",
                        f"use {', '.join(self.sources)}",
                    )
                if kind in readers:
                    raise ConfigError(
                        f"data.folders: both {readers[kind]} and {name} have {kind} labels",
                        "name each kind once",
                    )
                readers[kind] = name
        shares = sum(folder.share or 0 for folder in self.folders.values())
        if shares >= 1:
            raise ConfigError(
                f"data.folders: shares add up to {shares:g}, and nothing is left for data.root",
                "let them be less than 1 together",
            )

    def of(self, name: str) -> DataConfig:
        """The same, as a further folder has it."""
        own = self.folders[name]
        images = self.images or self.root if own.same_images else None
        return replace(self, root=own.root, images=images, folders={})

    @property
    def max_pixels(self) -> int:
        """The same in pixels."""
        return int(self.max_megapixels * 1e6)
