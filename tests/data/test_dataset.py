"""Samples, batches and their randomness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from unified.data.augment import AugmentConfig
from unified.data.coco import CocoSplit
from unified.data.dataset import CocoDataset, EpochSampler, collate
from unified.errors import ConfigError, DataError

STRONG = AugmentConfig(mosaic=0.5, scale=0.5, translate=0.1, flip=0.5, hue=0.1, saturation=0.5)


def test_validation_samples_carry_every_kind(shapes: Path) -> None:
    dataset = CocoDataset(CocoSplit(shapes, "val"), 64, None, map_strides={"instances": 4})
    (sample,) = dataset[(0, 0)]
    assert sample.image.shape == (64, 64, 3)
    assert sample.instances.masks.shape == (len(sample.instances), 16, 16)
    assert sample.lvis is not None
    assert len(sample.captions) == 5


def test_a_batch_is_flat_and_channels_last(shapes: Path) -> None:
    dataset = CocoDataset(CocoSplit(shapes, "train"), 64, STRONG)
    samples = [dataset[(0, i)] for i in range(6)]
    batch = collate(samples)
    assert batch.images.shape == (6, 3, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images[2].permute(1, 2, 0), torch.from_numpy(samples[2][0].image))
    counts = [len(s[0].instances) for s in samples]
    assert torch.bincount(batch.targets.image, minlength=6).tolist() == counts
    assert len(batch.targets.boxes) == sum(counts)


def test_samples_depend_on_seed_epoch_and_position_only(shapes: Path) -> None:
    """The same batches whatever the number of workers; other ones in another epoch."""
    split = CocoSplit(shapes, "train")

    def images(workers: int, epoch: int, seed: int = 0) -> torch.Tensor:
        dataset = CocoDataset(split, 64, STRONG, seed=seed)
        sampler = EpochSampler(len(split), True, seed)
        sampler.set_epoch(epoch)
        loader = DataLoader(
            dataset, 4, sampler=sampler, num_workers=workers, collate_fn=collate, drop_last=True
        )
        return torch.cat([batch.images for batch in loader])

    assert torch.equal(images(0, 1), images(2, 1))
    assert not torch.equal(images(0, 0), images(0, 1))
    assert not torch.equal(images(0, 0), images(0, 0, seed=1))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch_without_gaps(world: int) -> None:
    samplers = [EpochSampler(10, True, 5, rank, world) for rank in range(world)]
    keys = [key for sampler in samplers for key in sampler]
    assert {index for _, index in keys} == set(range(10))
    assert len({len(list(s)) for s in samplers}) == 1


def test_views_show_the_same_individuals(shapes: Path) -> None:
    dataset = CocoDataset(
        CocoSplit(shapes, "train"), 64, AugmentConfig(flip=0.5, scale=0.2), views=2
    )
    first, second = dataset[(0, 1)]
    assert (first.meta.view, second.meta.view) == (0, 1)
    assert set(first.instances.ids) & set(second.instances.ids)
    assert not np.array_equal(first.image, second.image)


def test_a_cut_image_is_named_before_training(make: Callable, shapes: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(shapes, tmp_path / "cut")
    victim = sorted((tmp_path / "cut" / "train").glob("*.jpg"))[3]
    victim.write_bytes(victim.read_bytes()[:-300])
    with pytest.raises(DataError, match=victim.name) as caught:
        make(f"data.root={tmp_path / 'cut'}")
    assert "fix:" in str(caught.value)


def test_a_wrong_size_in_the_json_is_named(shapes: Path) -> None:
    split = CocoSplit(shapes, "val")
    split.widths[0] *= 2
    with pytest.raises(DataError, match="not the 128×64 pixels"):
        CocoDataset(split, 64, None)[(0, 0)]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.image_size=100", "use 96"),
        ("data.views=3", "multiple of views"),
        ("augment.flip=2", r"augment\.flip"),
    ],
)
def test_impossible_settings_are_refused(configure: Callable, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configure(override)


def test_a_split_smaller_than_a_batch_is_refused(make: Callable) -> None:
    _, data = make("data.batch_size=64")
    with pytest.raises(DataError, match="batch_size=32"):
        data.train_dataloader()
