"""Labels of several folders in one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified.data.config import DataConfig
from unified.data.split import Sources
from unified.errors import ConfigError
from unified.kinds.kind import Source, Space


class Folders:
    """The sources of one split: those of `data.root`, and of each further folder its kinds.

    Args:
        config: where they are, and who reads them.
        split: name of the split; further folders may have another for it.
        spaces: kind → the space that a source's own must not differ from, when the order of the
            classes is fixed already (validation against training, evaluation of a checkpoint).
        offered: kind → the space of the weights that training starts from, as plain containers:
            for sources that can read their labels into more than one.

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
        self.main = Sources(config, split, spaces, offered)
        self._further: dict[str, tuple[str, Sources]] = {}
        for name, folder in config.folders.items():
            own = {kind: space for kind, space in (spaces or {}).items() if kind in folder.kinds}
            named = folder.splits.get(split, split)
            sources = Sources(config.of(name), named, own, offered, f"data.folders.{name}")
            sources.share = folder.share
            if folder.same_images:
                sources.images, sources.image_split = Path(config.images or config.root), split
            self._further |= dict.fromkeys(folder.kinds, (name, sources))

    def of(self, kind: str) -> Sources:
        """Those of the folder that has a kind."""
        return self._further[kind][1] if kind in self._further else self.main

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
                theirs = self._further[other][0] if other in self._further else None
                place = f"data.folders.{theirs}" if theirs else "data.root"
                raise ConfigError(
                    f"{kind} of {source.file} go with the {other} of the same folder, and {other} "
                    f"are those of {place}",
                    f"let one folder have both: kinds: [{other},{kind}]",
                )
        return source
