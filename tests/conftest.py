"""Shared fixtures: generated data, real data, and runs made by the real command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from processes.forked import PLAIN, Answer, Forks

from unified.batch import Batch
from unified.bounds import checked
from unified.build import build
from unified.data.config import DataConfig
from unified.data.datamodule import DataModule
from unified.data.shapes.config import ShapesConfig
from unified.data.shapes.write import generate
from unified.data.sources import Folders
from unified.data.split import Split
from unified.model import UnifiedModel
from unified.module import UnifiedModule
from unified.schema import Config, validate
from unified.task import DataSpec, Task

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "real"
Command = Callable[..., Answer]
SMALL = ShapesConfig(train=32, val=12, test=12, size=64, seed=3)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write tests/recorded.json anew")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """There is a process for every core."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    generate(root, SMALL)
    return root


@pytest.fixture(scope="session")
def panoptic_only(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated data with nothing but panoptic labels."""
    root = tmp_path_factory.mktemp("data") / "panoptic"
    shutil.copytree(shapes, root)
    for file in (root / "annotations").glob("*.json"):
        if not file.name.startswith("panoptic"):
            file.unlink()
    return root


def real(name: str) -> Path:
    """A set of real images; present in CI."""
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip("the real samples are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """80 + 40 COCO images with boxes, polygons, keypoints and captions."""
    return real("coco-mini")


@pytest.fixture(scope="session")
def coco_panoptic() -> Path:
    """Two COCO images with panoptic labels."""
    return real("coco-panoptic-sample")


@pytest.fixture(scope="session")
def crowdpose() -> Path:
    """Two images of people with 14 joints, and no other annotations."""
    return real("crowdpose")


@pytest.fixture(scope="session")
def lvis() -> Path:
    """Eight COCO images with labels of LVIS v0.5."""
    return real("lvis-8")


@pytest.fixture(scope="session")
def mmpose() -> Path:
    """Four COCO images of people with 17 joints."""
    return real("mmpose-coco")


@pytest.fixture(scope="session")
def mot17() -> Path:
    """4 + 4 video frames with people who have a `track_id`."""
    return real("mot17-mini")


@pytest.fixture(scope="session")
def open_sources() -> Callable[..., Folders]:
    """(root, split, derive) → the sources of a split, as the shipped configuration reads them."""

    def construct(root: Path, split: str, derive: bool = False) -> Folders:
        data = compose_raw("data=coco", f"data.root={root}", f"data.derive={derive}").data
        return Folders(checked("data", OmegaConf.to_container(data), DataConfig), split)

    return construct


@pytest.fixture(scope="session")
def open_split(open_sources: Callable[..., Folders]) -> Callable[..., Split]:
    """(root, split, kinds, derive) → a split with these kinds."""
    return lambda root, split, *kinds, derive=False: Split(
        open_sources(root, split, derive), kinds or ("objects",)
    )


def compose_raw(*overrides: str) -> DictConfig:
    """The configuration that a command line stands for."""
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture(scope="session")
def small(shapes: Path) -> list[str]:
    """Overrides for a run on the small data set without worker processes."""
    return [
        f"data.root={shapes}",
        "data.shapes=null",
        "data.image_size=64",
        "data.batch_size=8",
        "data.workers=0",
        "trainer.accelerator=cpu",
    ]


@pytest.fixture
def configure(small: list[str]) -> Callable[..., Config]:
    """Overrides → validated configuration on the small data set."""
    return lambda *overrides: validate(compose_raw(*small, *overrides))


@dataclass
class Made:
    """A network, its tasks and its data, without a trainer."""

    config: Config
    model: UnifiedModel
    spec: DataSpec
    sources: Folders

    @property
    def tasks(self) -> dict[str, Task]:
        return self.model.named_tasks()

    @cached_property
    def data(self) -> DataModule:
        c = self.config
        return DataModule(c.data, c.augment, self.tasks, self.spec.spaces, self.sources, c.seed)

    def module(self) -> UnifiedModule:
        return UnifiedModule(self.config, self.model, self.spec, self.data.val_split)

    def batch(self, count: int = 8, training: bool = True) -> Batch:
        """The first images of the training split, or of validation."""
        dataset = self.data.train_dataset() if training else self.data.val_dataset()
        return dataset.collate([dataset[(0, index)] for index in range(count)])


@pytest.fixture
def make(configure: Callable[..., Config]) -> Callable[..., Made]:
    """Overrides → network, tasks and data on the small data set."""

    def construct(*overrides: str) -> Made:
        config = configure(*overrides)
        sources = Folders(config.data, config.data.train)
        spec = DataSpec(config.data.image_size, sources.open)
        return Made(config, build(config, spec), spec, sources)

    return construct


@pytest.fixture(scope="session")
def run_command() -> Iterator[Command]:
    """The real command line as a function: each call is a process of its own."""
    forks = Forks()

    def unified(*arguments: str, cwd: Path, check: bool = True, **environment: str) -> Answer:
        # Lightning starts the processes of other devices with the interpreter's command line.
        alone = not any(a.startswith("trainer.devices") for a in arguments)
        run = forks.run if alone else interpreted
        result = run(arguments, cwd, environment)
        if check and result.returncode:
            raise AssertionError(
                f"{arguments} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
            )
        return result

    yield unified
    forks.close()


def interpreted(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Answer:
    """A command from the start of the interpreter on."""
    return subprocess.run(
        [sys.executable, "-m", "unified.cli", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, **PLAIN, **environment},
    )  # fmt: skip


@pytest.fixture(scope="session")
def trained(
    shapes: Path, small: list[str], run_command: Command, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run folder of two short epochs with all three tasks and codes."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run_command("train", *small, "trainer=smoke", f"out={folder}", cwd=folder.parent)
    return folder
