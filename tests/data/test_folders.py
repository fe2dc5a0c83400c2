"""Labels of several folders in one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unified.data.sampler import EpochSampler, spread
from unified.data.shapes.config import ShapesConfig
from unified.data.shapes.write import generate
from unified.data.sources import Folders
from unified.data.split import Split
from unified.errors import ConfigError, DataError, UserError

CAPTIONS = ["task.caption.width=32", "task.caption.layers=1", "task.caption.heads=2"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images with the same ids, in splits of other names."""
    root = tmp_path_factory.mktemp("data") / "words"
    generate(root, ShapesConfig(train=12, val=6, size=64, seed=9))
    for old, new in (("train", "learn"), ("val", "score")):
        (root / old).rename(root / new)
        for file in (root / "annotations").glob(f"*_{old}.json"):
            file.rename(file.with_name(file.name.replace(f"_{old}.", f"_{new}.")))
    return root


@pytest.fixture
def further(words: Path) -> str:
    splits = "{train: learn, val: score}"
    return f"+data.folders.words={{root: {words}, kinds: [captions], splits: {splits}}}"


def test_each_kind_is_read_in_its_folder_and_no_other(
    make: Callable, words: Path, further: str, shapes: Path
) -> None:
    made = make("task=[detection,caption]", further, *CAPTIONS)
    for split, name in (
        (made.data.train_split, "learn"), (made.data.val_split, "score"),
    ):  # fmt: skip
        own = Split(Folders(made.config.data.of("words"), name), ["captions"])
        first = len(split) - len(own)
        assert split.roots == [shapes, words]
        np.testing.assert_array_equal(split.folder, np.repeat([0, 1], [first, len(own)]))
        assert set(split.images.ids[:first]) & set(split.images.ids[first:])  # ids say nothing
        assert not split.known("captions")[:first].any()
        assert not split.known("objects")[first:].any()
        for index in range(len(own)):
            assert split.image_file(first + index) == own.image_file(index)
            assert split.image_file(first + index).is_file()
        assert set(split.folders()) == {
            shapes / split.name, words / name,
        }  # fmt: skip


def test_results_are_scored_in_their_folder_though_ids_are_alike(
    make: Callable, further: str
) -> None:
    made = make("task=[detection,caption]", further, "task.caption.beams=1", *CAPTIONS)
    module = made.module().eval()
    split = made.data.val_split
    with torch.no_grad():
        for batch in made.data.val_dataloader():
            module.validation_step(batch, 0)
    for task, folder in (("detection", 0), ("caption", 1)):
        ids = split.images.ids[split.folder == folder]
        assert sorted(module.metrics[task].records) == sorted(ids.tolist())
    images = dict(module.metrics["detection"].records)
    # What a box metric has of an image is what the network says of the box folder's image.
    batch = next(iter(made.data.val_dataloader()))
    with torch.no_grad():
        results = made.model.eval().decode(made.model(batch.images), batch)["detection"]
    meta, found = batch.metas[0], results[0]
    assert meta.folder == 0
    np.testing.assert_allclose(images[meta.image_id][:, 4], found.scores.numpy(), rtol=1e-4)


def test_every_batch_has_images_of_every_folder(make: Callable, further: str) -> None:
    made = make(
        "task=[detection,caption]", further, "+data.folders.words.share=0.5", "augment=none",
        "data.batch_size=16", *CAPTIONS,
    )  # fmt: skip
    split = made.data.train_split
    factors = split.factors({})
    assert factors.sum() == pytest.approx(len(split))
    assert factors[split.folder == 1].sum() == pytest.approx(len(split) / 2)
    batches = list(made.data.train_dataloader())
    assert len(batches) > 1
    for batch in batches:
        for kind, folder in (("objects", 0), ("captions", 1)):
            known = batch.labels[kind].known.tolist()
            view = next(ask.view for ask in made.data.asks if ask.kind == kind)
            assert known == [m.folder == folder and m.view == view for m in batch.metas]
            images = sum(meta.folder == folder for meta in batch.metas)
            assert abs(images - len(batch.metas) / 2) <= 2
    module = made.module()
    loss = module.training_step(batches[0], 0)
    loss.backward()
    for name, task in made.tasks.items():
        gradients = [p.grad for p in task.head.parameters()]
        assert any(g is not None and g.abs().max() > 0 for g in gradients), name


def test_a_folder_too_small_for_every_batch_is_said(
    make: Callable, further: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts = ("task=[detection,caption]", further, "augment=none", *CAPTIONS)
    make(*parts).data.train_dataloader()
    assert not caplog.messages
    make(*parts, "+data.folders.words.share=0.1").data.train_dataloader()
    assert "average of 0.4 images in a batch" in caplog.text


def test_a_share_is_of_learning_only(make: Callable, further: str) -> None:
    parts = ("task=[detection,caption]", further, "+data.folders.words.share=0.6", *CAPTIONS)
    data = make(*parts).data
    seen = [key[1] for key in data.val_dataloader().sampler]
    assert sorted(seen) == list(range(len(data.val_split)))
    first = data.val_split.folder[seen[: len(seen) // 2]]
    assert 0 < first.mean() < 1  # a part of the validation has images of both


@pytest.mark.parametrize(("share", "world"), [(0.5, 2), (0.25, 4), (0.25, 1), (0.125, 1)])
def test_folders_lie_evenly_in_processes_batches_and_places(share: float, world: int) -> None:
    """Also at shares that divide a batch, and in the places that alone have a further view."""
    folder = np.repeat([0, 1], [round(1600 * (1 - share)), round(1600 * share)])
    for rank in range(world):
        keys = list(EpochSampler(np.ones(1600), folder, 8, True, 3, rank, world))
        batches = folder[[index for _, index in keys]].reshape(-1, 8)
        assert abs(batches.sum(1) - 8 * share).max() <= 1
        assert abs(batches.mean(0) - share).max() < 5 * np.sqrt(share / len(batches))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_folders_lie_evenly(folder: list[int]) -> None:
    array = np.array(folder)
    order = spread(array)
    assert sorted(order.tolist()) == list(range(len(folder)))
    folders = np.unique(array)
    for one in folders:
        own = order[array[order] == one]
        assert (np.diff(own) > 0).all()  # of one folder, as they came
        so_far = np.cumsum(array[order] == one)
        even = (array == one).mean() * np.arange(1, len(folder) + 1)
        assert np.abs(so_far - even).max() <= 0.5 + 0.5 * len(folders)


def test_one_folder_comes_in_the_order_that_it_always_had() -> None:
    keys = list(EpochSampler(np.ones(9), np.zeros(9), 4, True, seed=4))
    rng = np.random.default_rng((4, 0))
    order = np.arange(9)
    rng.shuffle(order)
    assert [index for _, index in keys] == order.tolist()


def test_a_run_that_goes_on_has_the_rest_of_its_epoch() -> None:
    folder = np.repeat([0, 1], [20, 7])
    whole = list(EpochSampler(np.ones(27), folder, 5, True, seed=2))
    rest = list(EpochSampler(np.ones(27), folder, 5, True, seed=2, start=(0, 10)))
    assert rest == whole[10:]


def test_labels_of_the_same_images_may_lie_elsewhere(
    make: Callable, shapes: Path, tmp_path: Path
) -> None:
    """`data=[coco,lvis]`: one image, known by its id, with labels of two folders."""
    for file in (shapes / "annotations").glob("lvis_*.json"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "annotations")
    joined = make(
        "data=[coco,lvis]", "data.train=train", "data.val=val",
        f"data.folders.lvis.root={tmp_path}",
        f"data.root={shapes}", "data.image_size=64", "data.batch_size=8", "data.workers=0",
        "task=[detection,longtail]",
    )  # fmt: skip
    plain = make("task=[detection,longtail]")
    ours, theirs = joined.data.train_split, plain.data.train_split
    assert ours.roots == theirs.roots
    np.testing.assert_array_equal(ours.images.ids, theirs.images.ids)
    np.testing.assert_array_equal(ours.known("federated"), theirs.known("federated"))
    one, other = joined.batch(), plain.batch()
    assert torch.equal(one.images, other.images)
    for kind in ("objects", "federated"):
        for name, value in vars(one.labels[kind]).items():
            assert torch.equal(value, getattr(other.labels[kind], name)), (kind, name)


def test_images_have_the_names_of_their_own_folder(
    make: Callable, shapes: Path, tmp_path: Path
) -> None:
    """Whatever a folder with labels of them calls the split, and whichever task comes first."""
    (tmp_path / "annotations").mkdir()
    for ours, theirs in (("train", "learn"), ("val", "score")):
        name = f"captions_{ours}.json"
        target = tmp_path / "annotations" / name.replace(ours, theirs)
        shutil.copy(shapes / "annotations" / name, target)
    folder = f"+data.folders.a={{root: {tmp_path}, kinds: [captions], same_images: true, "
    folder += "splits: {train: learn, val: score}}"
    plain = make("task=[detection,caption]", *CAPTIONS).data.train_split
    for tasks in ("[detection,caption]", "[caption,detection]"):
        split = make(f"task={tasks}", folder, *CAPTIONS).data.train_split
        assert split.roots == [shapes]
        assert list(split.files()) == list(plain.files())
        np.testing.assert_array_equal(split.known("captions"), plain.known("captions"))


def test_a_split_is_what_it_is_called_in_a_folder(configure: Callable, further: str) -> None:
    """Not by the part that it plays: a sweep scores on a third."""
    data = configure("task=[detection]", further).data
    for ours, theirs in (("train", "learn"), ("val", "score"), ("test", "test")):
        assert Folders(data, ours).of("captions").split == theirs
        assert Folders(replace(data, val=ours), ours).of("captions").split == theirs


@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        ("[detection,instance]", "[objects]"),
        ("[detection,instance]", "[masks]"),
        ("[detection,keypoints]", "[keypoints]"),
    ],
)
def test_kinds_that_go_together_stay_together(
    task: str, kinds: str, make: Callable, shapes: Path
) -> None:
    """Masks and joints are of boxes, by the order or the ids of one folder's annotations."""
    folder = f"+data.folders.a={{root: {shapes}, kinds: {kinds}, same_images: true}}"
    with pytest.raises(ConfigError, match=r"go with the objects of the same folder"):
        make(f"task={task}", folder)
    both = kinds.replace("[", "[objects,") if "objects" not in kinds else "[objects,masks]"
    assert make(f"task={task}", folder.replace(kinds, both)).data.train_split is not None


@pytest.mark.parametrize(
    ("overrides", "words_of_it"),
    [
        (["+data.folders.a={root: ., kinds: [poetry]}"], "nobody reads poetry"),
        (["+data.folders.a={root: ., kinds: []}"], "data.folders.a.kinds"),
        (
            ["+data.folders.a={root: ., kinds: [captions]}",
             "+data.folders.b={root: ., kinds: [pixels,captions]}"],
            "both a and b have captions",
        ),
        (["+data.folders.a={root: ., kinds: [captions], share: 1.5}"], "data.folders.a.share"),
        (
            ["+data.folders.a={root: ., kinds: [captions], share: 0.5}",
             "+data.folders.b={root: ., kinds: [pixels], share: 0.5}"],
            "shares add up to 1",
        ),
        (["+data.folders.a={root: nowhere, kinds: [captions]}"], r"folders.a.root=nowhere is not"),
        (["data.images=nowhere"], "data.images=nowhere is not a folder"),
        (
            ["+data.folders.a={root: ., kinds: [captions], share: 0.5, same_images: true}"],
            "share is of images of its own",
        ),
        (["+data.folders.a={root: ., kinds: [captions,captions]}"], "names one twice"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_are_refused(
    overrides: list[str], words_of_it: str, make: Callable
) -> None:
    with pytest.raises(UserError, match=words_of_it):
        make("task=[detection]", *overrides)


def test_a_share_of_images_that_others_have_too_is_refused(make: Callable, shapes: Path) -> None:
    folder = f"+data.folders.a={{root: {shapes}, kinds: [captions], share: 0.5}}"
    with pytest.raises(ConfigError, match="which another folder has, too"):
        _ = make("task=[detection,caption]", folder, *CAPTIONS).data


def test_a_folder_without_the_labels_says_which(make: Callable, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no captions labels.*captions_train.json"):
        make("task=[caption]", f"+data.folders.a={{root: {tmp_path}, kinds: [captions]}}")


def test_several_choices_of_data_train_from_the_command_line(
    run_command: Callable, small: list[str], shapes: Path, tmp_path: Path
) -> None:
    done = run_command(
        "train", *small[2:], "data=[coco,lvis]", f"data.root={shapes}", "data.train=train",
        "data.val=val", f"data.folders.lvis.root={shapes}", "task=[detection,longtail]",
        "trainer.max_epochs=1", "trainer.limit_train_batches=2", f"out={tmp_path / 'run'}",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "longtail" in done.stdout


def test_folders_train_and_are_evaluated_from_the_command_line(
    run_command: Callable, small: list[str], further: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = run_command(
        "train", *small, "task=[detection,caption]", further, "+data.folders.words.share=0.4",
        *CAPTIONS, "trainer.max_epochs=1", "trainer.limit_train_batches=2", f"out={run}",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run_command("eval", f"ckpt={run}", f"out={tmp_path / 'eval'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "caption" in done.stdout
    assert "detection" in done.stdout
