"""The contract that every source keeps, whatever it reads."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import compose_raw
from omegaconf import OmegaConf

import conf
from unified.bounds import Count, checked
from unified.data.coco.objects import Objects
from unified.data.config import DataConfig
from unified.data.images import check_image_files
from unified.data.sources import Folders, Sources
from unified.errors import ConfigError, DataError
from unified.kinds.captions import CaptionAsk
from unified.kinds.federated import FederatedAsk
from unified.kinds.keypoints import KeypointAsk
from unified.kinds.kind import Categories
from unified.kinds.masks import MaskAsk
from unified.kinds.objects import ObjectAsk
from unified.kinds.pixels import PixelAsk
from unified.kinds.segments import SegmentAsk
from unified.view import View

CONFIG = OmegaConf.load(Path(conf.__file__).parent / "data" / "coco.yaml")
ASKS = {
    "objects": ObjectAsk(), "masks": MaskAsk(stride=2), "pixels": PixelAsk(stride=4),
    "segments": SegmentAsk(stride=4), "keypoints": KeypointAsk(joints=13),
    "federated": FederatedAsk(), "captions": CaptionAsk(),
}  # fmt: skip
CASES = [(kind, False) for kind in CONFIG.sources] + [(kind, True) for kind in CONFIG.derived]
IDENTITY = View(np.array([[1.0, 0, 0], [0, 1.0, 0]]), 64)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}{'-derived' if case[1] else ''}")
def case(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param


@pytest.fixture
def root(case: tuple[str, bool], shapes: Path, panoptic_only: Path, tmp_path: Path) -> Path:
    """A data set of one's own, to be changed."""
    shutil.copytree(panoptic_only if case[1] else shapes, tmp_path / "root")
    return tmp_path / "root"


def test_a_source_says_what_it_covers_and_reads_it(
    case: tuple[str, bool], root: Path, open_sources: Callable
) -> None:
    kind, derive = case
    source = open_sources(root, "val", derive).open(kind)
    assert source.kind == kind
    assert source.file.is_file()
    assert isinstance(source.space, ASKS[kind].space)
    assert (
        ASKS[kind].space.from_dict(json.loads(json.dumps(source.space.to_dict()))) == source.space
    )
    assert source.known.shape == (12,)
    assert source.known.dtype == bool
    assert source.known.all()
    assert (np.diff(source.images.ids) > 0).all()
    check_image_files(list(source.files()))
    source.check(learn=True)
    source.truth()
    for index in range(3):
        seen = source.read(index).seen(IDENTITY, ASKS[kind])
        assert isinstance(seen, ASKS[kind].seen)
        result = source.result(index)
        assert result.kind == kind
        json.dumps(result.of({kind: source.space}).plain())


def test_a_source_travels_to_workers(
    case: tuple[str, bool], root: Path, open_sources: Callable
) -> None:
    source = open_sources(root, "val", case[1]).open(case[0])
    copy = pickle.loads(pickle.dumps(source))
    a, b = (s.result(2).of({s.kind: s.space}).plain() for s in (source, copy))
    assert a == b


def test_an_image_that_is_not_annotated_is_unknown(
    case: tuple[str, bool], root: Path, open_split: Callable
) -> None:
    """It gets no label: neither an empty one nor somebody else's."""
    kind, derive = case
    file = open_split(root, "val", kind, derive=derive).sources[kind].file
    document = json.loads(file.read_text())
    gone = document["images"][4]["id"]
    if kind == "segments" or derive:  # a panoptic json has an annotation per image
        other = kind
    else:  # the others list the images that they cover; another kind lists it still
        del document["images"][4]
        other = "segments"
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != gone]
    file.write_text(json.dumps(document))
    split = open_split(root, "val", kind, other, derive=derive)
    assert split.images.ids[4] == gone
    assert split.known(kind).tolist() == [True] * 4 + [False] + [True] * 7
    assert split.label(kind, 4) is None
    assert split.result(kind, 4) is None


def test_images_of_two_sources_are_joined(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    """Each knows its own; what one does not list, it does not know."""
    root = tmp_path / "mixed"
    shutil.copytree(shapes, root)
    for name, chosen in (("instances", slice(0, 8)), ("stuff", slice(5, 12))):
        file = root / "annotations" / f"{name}_val.json"
        document = json.loads(file.read_text())
        document["images"] = document["images"][chosen]
        kept = {row["id"] for row in document["images"]}
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
        file.write_text(json.dumps(document))
    (root / "annotations" / "person_keypoints_val.json").unlink()
    split, whole = open_split(root, "val", "objects", "pixels"), open_split(shapes, "val", "pixels")
    assert len(split) == 12
    assert split.known("objects").tolist() == [True] * 8 + [False] * 4
    assert split.known("pixels").tolist() == [False] * 5 + [True] * 7
    assert split.label("objects", 9) is None
    assert split.label("pixels", 2) is None
    assert split.result("pixels", 2) is None
    for index in range(5, 12):
        ours, theirs = (s.label("pixels", index).classes() for s in (split, whole))
        assert np.array_equal(ours, theirs)
        assert split.image_file(index).name == whole.image_file(index).name


def test_sources_that_disagree_on_a_size_are_refused(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    root = tmp_path / "mixed"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "stuff_val.json"
    document = json.loads(file.read_text())
    document["images"][2]["width"] = 99
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match="99×64") as caught:
        open_split(root, "val", "objects", "pixels")
    assert "instances_val.json" in str(caught.value)
    assert "stuff_val.json" in str(caught.value)


def test_only_what_is_asked_for_is_opened(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    root = tmp_path / "broken"
    shutil.copytree(shapes, root)
    for name in ("captions", "lvis", "panoptic", "stuff", "person_keypoints"):
        (root / "annotations" / f"{name}_val.json").write_text('{"images": [')
    assert len(open_split(root, "val", "objects", "masks")) == 12


def test_splits_with_other_categories_are_refused(
    case: tuple[str, bool], root: Path, open_sources: Callable
) -> None:
    kind, derive = case
    train = open_sources(root, "train", derive)
    if not isinstance(train.open(kind).space, Categories):
        pytest.skip("it has no categories")
    spaces = {kind: train.open(kind).space}
    file = train.open(kind).file.with_name(train.open(kind).file.name.replace("train", "val"))
    document = json.loads(file.read_text())
    for category in document["categories"]:
        category["name"] += "!"
    file.write_text(json.dumps(document))
    val = Folders(train.config, "val", spaces)
    with pytest.raises(DataError, match="other categories") as caught:
        val.open(kind)
    assert file.name in str(caught.value)


def test_missing_folders_splits_and_readers_are_named(
    shapes: Path, tmp_path: Path, open_sources: Callable
) -> None:
    with pytest.raises(DataError, match="nowhere"):
        open_sources(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"instances_train2099\.json"):
        open_sources(shapes, "train2099").open("objects")
    with pytest.raises(ConfigError, match=r"data\.sources\.poems"):
        open_sources(shapes, "train").open("poems")


class Loud(Objects):
    """Objects, with an option of its own."""

    def __init__(self, sources: Sources, volume: Count = 1) -> None:
        super().__init__(sources)
        self.volume = volume


def named_sources(root: Path, **options: Any) -> Folders:
    config = OmegaConf.to_container(compose_raw("data=coco", f"data.root={root}").data)
    target = f"{Loud.__module__}.Loud"
    config["sources"]["objects"] = {"_target_": target, **options} if options else target
    return Folders(checked("data", config, DataConfig), "val")


def test_a_source_has_options_of_its_own(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, Loud.__module__, sys.modules[__name__])
    assert named_sources(shapes).open("objects").volume == 1
    assert named_sources(shapes, volume=11).open("objects").volume == 11
    with pytest.raises(ConfigError, match=r"data\.sources\.objects\.pitch is not an argument"):
        named_sources(shapes, pitch=2).open("objects")
    with pytest.raises(ConfigError, match=r"data\.sources\.objects\.volume"):
        named_sources(shapes, volume=0).open("objects")
