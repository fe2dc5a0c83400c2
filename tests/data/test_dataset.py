"""Inputs, batches and their randomness."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from unified.arrays import IGNORE
from unified.data.augment import AugmentConfig
from unified.data.datamodule import _raising
from unified.data.dataset import Collate, ViewDataset, carried, images_of
from unified.data.sampler import EpochSampler, repeat_factors
from unified.data.split import Split
from unified.errors import ConfigError, DataError, JobError
from unified.kinds.kind import Ask
from unified.kinds.masks import MaskAsk
from unified.kinds.objects import ObjectAsk
from unified.kinds.pixels import PixelAsk
from unified.kinds.segments import SegmentAsk
from unified.view import PLAIN

STRONG = AugmentConfig(mosaic=0.5, scale=0.5, translate=0.1, flip=0.5, hue=0.1, saturation=0.5)
MOSAIC = AugmentConfig(mosaic=1.0, scale=0.3)
EVERY = (ObjectAsk(), MaskAsk(stride=4), PixelAsk(stride=4), SegmentAsk(stride=4))


def dataset(
    split: Split,
    *asks: Ask,
    views: Mapping[str, AugmentConfig | None] | None = None,
    seed: int = 0,
) -> ViewDataset:
    return ViewDataset(split, 64, asks or (ObjectAsk(),), views or {"strong": STRONG}, seed=seed)


@pytest.fixture
def split(shapes: Path, open_split: Callable) -> Split:
    return open_split(shapes, "train", "objects", "masks", "pixels", "segments")


def test_a_batch_is_flat_and_channels_last(split: Split) -> None:
    data = dataset(split, *EVERY)
    rows = [data[(0, i)] for i in range(6)]
    batch = data.collate(rows)
    assert batch.images.shape == (6, 3, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images[2].permute(1, 2, 0), torch.from_numpy(rows[2][0].image))
    objects = batch.labels["objects"]
    counts = [len(r[0].labels["objects"]) for r in rows]
    assert torch.bincount(objects.image, minlength=6).tolist() == counts
    assert len(objects.boxes) == sum(counts)
    assert batch.labels["masks"].masks.shape[1:] == (16, 16)
    assert batch.labels["pixels"].classes.shape == (6, 16, 16)
    assert all(targets.known.all() for targets in batch.labels.values())


def test_a_batch_carries_what_is_asked_for_and_nothing_else(split: Split) -> None:
    """No label, no sample and no image goes through a worker's pipe a second time."""
    data = dataset(split, PixelAsk(stride=4))
    batch = data.collate([data[(0, i)] for i in range(4)])
    assert set(batch.labels) == {"pixels"}
    tensors: list[torch.Tensor] = []
    batch.map(lambda tensor: tensors.append(tensor) or tensor)
    payload = sum(tensor.nbytes for tensor in tensors)
    assert len(pickle.dumps(batch)) < payload + 6000


def test_inputs_depend_on_seed_epoch_and_position_only(split: Split) -> None:
    """The same batches whatever the number of workers; other ones in another epoch."""

    def images(workers: int, epoch: int, seed: int = 0) -> torch.Tensor:
        data = dataset(split, seed=seed)
        sampler = EpochSampler(np.ones(len(split)), split.folder, 4, True, seed)
        sampler.set_epoch(epoch)
        loader = DataLoader(
            data, 4, sampler=sampler, num_workers=workers, collate_fn=data.collate, drop_last=True
        )
        return torch.cat([batch.images for batch in loader])

    assert torch.equal(images(0, 1), images(2, 1))
    assert not torch.equal(images(0, 0), images(0, 1))
    assert not torch.equal(images(0, 0), images(0, 0, seed=1))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch_without_gaps(world: int) -> None:
    samplers = [
        EpochSampler(np.ones(10), np.zeros(10), 2, True, 5, rank, world) for rank in range(world)
    ]
    keys = [key for sampler in samplers for key in sampler]
    assert {index for _, index in keys} == set(range(10))
    assert len({len(list(s)) for s in samplers}) == 1


def test_images_that_come_more_often_look_different_each_time() -> None:
    """Every epoch has as many; what is left over a whole number is a probability."""
    factors = np.array([1, 2.5, 1, 1.7, 3])
    seen = np.zeros(5)
    for epoch in range(400):
        sampler = EpochSampler(factors, np.zeros(len(factors)), 3, True)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(keys) == len(set(keys)) == len(sampler) == 9
        seen += np.bincount([key[1] for key in keys], minlength=5)
    np.testing.assert_allclose(seen / 400, factors * 9 / factors.sum(), atol=0.06)


def test_partners_of_a_mosaic_come_as_often_as_images(split: Split) -> None:
    views = {"strong": AugmentConfig(mosaic=1.0)}
    data = ViewDataset(split, 64, [ObjectAsk()], views, repeat={"objects": 1.0})
    assert data.factors.max() > 1.5 * data.factors.min()
    rng = np.random.default_rng(0)
    drawn = [p for _ in range(3000) for p in data.partners["strong"].draw(rng, 0)]
    share = np.bincount(drawn, minlength=len(split)) / len(drawn)
    np.testing.assert_allclose(share, data.factors / data.factors.sum(), atol=0.012)


def test_training_repeats_as_the_configuration_says(make: Callable) -> None:
    plain, repeated = make("task=[detection]"), make("task=[detection]", "+data.repeat.objects=1")
    loaders = [m.data.train_dataloader() for m in (plain, repeated)]
    assert len(loaders[1].sampler) > len(loaders[0].sampler) == len(plain.data.train_split)
    assert len(repeated.data.val_dataloader().sampler) == len(repeated.data.val_split)


def test_a_repeated_image_is_drawn_anew(split: Split) -> None:
    data = dataset(split, views={"strong": AugmentConfig(translate=0.2)})
    once, again = (data[key][0].meta.transform for key in ((3, 1), (3, 1, 1)))
    assert not np.array_equal(once, again)


def test_images_of_rare_categories_come_more_often() -> None:
    """Four images: category 0 in all, 1 in one of them, and in that one twice."""
    first, labels = np.array([0, 1, 2, 5, 6]), np.array([0, 0, 0, 1, 1, 0])
    np.testing.assert_allclose(repeat_factors(first, labels, 0.25), 1)
    np.testing.assert_allclose(repeat_factors(first, labels, 1.0), [1, 1, 2, 1])


def test_only_kinds_with_categories_can_be_repeated(split: Split) -> None:
    assert (split.factors({}) == 1).all()
    assert split.factors({"objects": 1.0}).max() > 1
    with pytest.raises(ConfigError) as caught:
        split.factors({"pixels": 0.1})
    assert "data.repeat.pixels" in str(caught.value)
    assert "objects" in caught.value.fix


# --- Views --------------------------------------------------------------------------------


VIEWS = {"strong": AugmentConfig(flip=1.0), "weak": AugmentConfig(), PLAIN: None}


def test_views_come_one_behind_the_other_and_show_the_same_objects(split: Split) -> None:
    asks = [ObjectAsk(view) for view in VIEWS]
    data = dataset(split, *asks, views=VIEWS)
    batch = data.collate([data[(0, i)] for i in range(3)])
    assert [m.view for m in batch.metas] == ["strong"] * 3 + ["weak"] * 3 + [PLAIN] * 3
    assert [m.image_id for m in batch.metas] == [m.image_id for m in batch.metas[:3]] * 3
    assert torch.equal(batch.images[:3].flip(3), batch.images[6:])
    objects = batch.labels["objects"]
    for row in range(3):
        own, other = (set(objects.identities[objects.image == r].tolist()) for r in (row, row + 6))
        assert own
        assert own == other


def test_a_kind_is_known_in_the_views_that_ask_for_it(split: Split) -> None:
    views = {"strong": AugmentConfig(), "weak": AugmentConfig()}
    data = dataset(split, ObjectAsk("strong"), PixelAsk("weak", stride=4), views=views)
    batch = data.collate([data[(0, i)] for i in range(2)])
    assert batch.labels["objects"].known.tolist() == [True, True, False, False]
    assert batch.labels["pixels"].known.tolist() == [False, False, True, True]
    assert (batch.labels["pixels"].classes[:2] == IGNORE).all()
    seen = batch.see(batch.rows(["weak"]))
    assert torch.equal(seen.images, batch.images[2:])
    assert seen.labels["pixels"].known.all()
    assert not seen.labels["objects"].known.any()
    assert len(seen.labels["objects"].boxes) == 0
    assert batch.rows(["strong", "weak"]) is None
    assert batch.see(None) is batch


def test_a_share_of_a_batch_is_seen_in_a_view() -> None:
    """The other inputs of the batch are further images."""
    views = {"strong": AugmentConfig(), "weak": AugmentConfig(share=0.3)}
    assert [images_of(views, inputs) for inputs in (1, 2, 8, 13, 16)] == [0, 1, 6, 10, 12]
    assert [len(own) for own in carried(views, 10)] == [2] * 3 + [1] * 7
    assert [len(own) for own in carried(views, 1)] == [2]
    few = {"strong": AugmentConfig(share=0.25), "weak": AugmentConfig(share=0.5)}
    assert [*map(len, carried(few, 4))] == [2, 2, 1, 1]


def test_validation_sees_all_images_in_every_view(make: Callable) -> None:
    views = ["task.embedding.views=[strong,weak]", "augment.weak.share=0.25"]
    made = make("task=[detection,embedding]", *views)
    assert {len(own) for own in carried(made.data.train_dataset().views, 8)} == {1, 2}
    assert [len(own) for own in carried(made.data.val_dataset().views, 8)] == [2] * 8


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_share(workers: int, make: Callable) -> None:
    made = make(
        "task=[detection,classification]", "task.classification.view=weak", "data.batch_size=10",
        "augment.weak.share=0.25", f"data.workers={workers}",
    )  # fmt: skip
    batches = list(made.data.train_dataloader())
    assert len(batches) == 4  # of 32 images
    for batch in batches:
        assert [meta.view for meta in batch.metas] == ["strong"] * 8 + ["weak"] * 2
        assert [m.image_id for m in batch.metas[8:]] == [m.image_id for m in batch.metas[:2]]
    seen = sorted(m.image_id for batch in batches for m in batch.metas if m.view == "strong")
    assert len(set(seen)) == 32


def test_a_view_is_the_same_whatever_others_there_are(split: Split) -> None:
    alone = dataset(split)[(3, 5)]
    both = dataset(
        split, ObjectAsk("strong"), ObjectAsk("weak"),
        views={"strong": STRONG, "weak": AugmentConfig(scale=0.2)},
    )[(3, 5)]  # fmt: skip
    assert np.array_equal(alone[0].image, both[0].image)
    assert not np.array_equal(both[0].image, both[1].image)


def test_taking_rows_keeps_what_belongs_together(split: Split) -> None:
    data = dataset(split, *EVERY)
    batch = data.collate([data[(0, i)] for i in range(5)])
    part = batch.see([3, 1])
    objects, masks = part.labels["objects"], part.labels["masks"]
    for new, old in enumerate((3, 1)):
        for targets, whole in ((objects, "objects"), (masks, "masks")):
            theirs = batch.labels[whole]
            assert torch.equal(targets.keys[targets.image == new], theirs.keys[theirs.image == old])
    assert torch.equal(masks.masks[masks.image == 0], batch.labels["masks"].masks[
        batch.labels["masks"].image == 3
    ])  # fmt: skip
    assert (objects.image.diff() >= 0).all()


def test_one_kind_asked_for_in_two_ways_is_refused() -> None:
    Collate([MaskAsk("strong", 2), MaskAsk("weak", 2)], 64)
    with pytest.raises(ConfigError, match="do not agree") as caught:
        Collate([MaskAsk(stride=2), ObjectAsk(), MaskAsk(stride=4)], 64)
    assert "masks" in str(caught.value)


def test_a_view_that_nobody_describes_is_refused(make: Callable) -> None:
    with pytest.raises(ConfigError, match="gentle") as caught:
        _ = make("task=[stuff]", "task.stuff.view=gentle").data
    assert "strong, weak" in str(caught.value)


# --- Mosaic -------------------------------------------------------------------------------


@pytest.fixture
def partly(shapes: Path, tmp_path: Path, open_split: Callable) -> Split:
    """Of 32 images, 8 have stuff and segments; all have objects."""
    root = tmp_path / "partly"
    shutil.copytree(shapes, root)
    for name in ("stuff", "panoptic"):
        file = root / "annotations" / f"{name}_train.json"
        document = json.loads(file.read_text())
        document["images"] = document["images"][:8]
        kept = {row["id"] for row in document["images"]}
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
        file.write_text(json.dumps(document))
    return open_split(root, "train", "objects", "pixels", "segments")


def test_a_mosaic_keeps_what_its_first_image_knows(partly: Split) -> None:
    """Partners know as much; nothing is lost because one of four lacks a kind."""
    data = dataset(
        partly, ObjectAsk(), PixelAsk(stride=4), SegmentAsk(stride=4), views={"strong": MOSAIC}
    )
    for index in range(len(partly)):
        (row,) = data[(0, index)]
        assert row.labels["objects"] is not None
        for kind in ("pixels", "segments"):
            assert (row.labels[kind] is not None) == bool(partly.known(kind)[index])
    everybody = [data.partners["strong"].draw(np.random.default_rng(i), 20) for i in range(40)]
    assert max(i for draw in everybody for i in draw) > 20  # those who know less mix with all
    few = {i for s in range(40) for i in data.partners["strong"].draw(np.random.default_rng(s), 3)}
    assert few == set(range(8))


def test_labels_follow_the_pixels_through_a_mosaic(split: Split) -> None:
    """What the maps call a thing is what the masks cover, in every transform."""
    other = split.sources["pixels"].space.names.index("other")
    augment = AugmentConfig(
        mosaic=0.5, scale=0.4, translate=0.1, flip=0.5, min_side=0, min_visible=0
    )
    asks = (ObjectAsk(), MaskAsk(stride=1), PixelAsk(stride=1), SegmentAsk(stride=1))
    data = dataset(split, *asks, views={"strong": augment})
    things = np.array(split.sources["segments"].space.things)
    missed, extra = [], []
    for index in range(24):
        (row,) = data[(0, index)]
        stuff, panoptic = row.labels["pixels"].classes, row.labels["segments"].classes
        covered = (data.collate([[row]]).labels["masks"].masks.numpy() >= 128).any(0)
        missed.append(((stuff == other) & ~covered).mean())
        extra.append((covered & (stuff != other)).mean())
        both = (stuff != IGNORE) & (panoptic != IGNORE)
        assert both.any()
        assert (things[panoptic[both]] == (stuff[both] == other)).all()
    assert np.mean(missed) < 0.02
    assert np.mean(extra) < 0.02


# --- What is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_cut_image_is_named_before_training(
    make: Callable, shapes: Path, tmp_path: Path, split: str
) -> None:
    shutil.copytree(shapes, tmp_path / "cut")
    victim = sorted((tmp_path / "cut" / split).glob("*.jpg"))[3]
    victim.write_bytes(victim.read_bytes()[:-300])
    with pytest.raises(DataError, match=victim.name) as caught:
        _ = make(f"data.root={tmp_path / 'cut'}").data
    assert "fix:" in str(caught.value)


@pytest.mark.parametrize("cut", [None, 60])
def test_a_bad_label_file_is_named_before_training_if_somebody_reads_it(
    shapes: Path, tmp_path: Path, make: Callable, cut: int | None
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    victim = sorted((root / "annotations" / "panoptic_val").glob("*.png"))[3]
    data = victim.read_bytes()
    victim.unlink()
    if cut is not None:
        victim.write_bytes(data[:cut])
    assert make("task=[detection]", f"data.root={root}").data
    with pytest.raises(DataError, match=victim.name):
        _ = make("experiment=seg", f"data.root={root}").data


def test_a_wrong_size_in_the_json_is_named(split: Split) -> None:
    split.images.widths[0] *= 2
    with pytest.raises(DataError, match="not the 128×64 pixels"):
        dataset(split, views={PLAIN: None})[(0, 0)]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.image_size=100", "use 96"),
        ("data.batch_size=0", "batch_size=0"),
        ("augment.strong.flip=2", "flip=2"),
    ],
)
def test_impossible_settings_are_refused(configure: Callable, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configure(override)


def test_batches_that_are_too_large_or_too_small_are_refused(make: Callable) -> None:
    with pytest.raises(DataError, match="batch_size=32"):
        make("data.batch_size=64").data.train_dataloader()
    views = ("task=[detection,embedding]", "task.embedding.views=[strong,weak]")
    with pytest.raises(ConfigError, match="2 views"):
        make(*views, "data.batch_size=1").data.train_dataloader()
    batch = next(iter(make(*views, "data.batch_size=8").data.train_dataloader()))
    assert len(batch.metas) == 8


def test_workers_leave_the_users_threads_alone(make: Callable) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        loader: Any = make("data.workers=1").data.train_dataloader()
        assert len(next(iter(loader)).metas) == 8
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_an_error_of_a_readers_own_keeps_its_name() -> None:
    """Only loading processes that are gone or stuck are said to be so."""

    def batches(error: Exception) -> Iterator[Any]:
        yield 1
        raise error

    own = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nmy reader's bug")
    with pytest.raises(RuntimeError, match="my reader's bug"):
        list(_raising(batches(own)))
    for said in ("DataLoader timed out after 3 seconds", "DataLoader worker (pid 7) is killed"):
        with pytest.raises(JobError, match="no batch comes"):
            list(_raising(batches(RuntimeError(said))))
