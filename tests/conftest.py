"""Shared fixtures: generated data, real data, and runs made by the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from unified.build import Built, build
from unified.data.datamodule import DataModule
from unified.data.shapes import ShapesConfig, generate
from unified.schema import Config, validate

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "real"
SMALL = ShapesConfig(train=32, val=12, size=64, seed=3)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write tests/recorded.json anew")


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    generate(root, SMALL)
    return root


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """80 + 40 real COCO images; present in CI."""
    folder = REAL / "coco-mini"
    if not folder.is_dir():
        pytest.skip("the real samples are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def coco_panoptic() -> Path:
    """Two real COCO images with panoptic labels; present in CI."""
    folder = REAL / "coco-panoptic-sample"
    if not folder.is_dir():
        pytest.skip("the real samples are not beside this checkout")
    return folder


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


@pytest.fixture
def make(configure: Callable[..., Config]) -> Callable[..., tuple[Built, DataModule]]:
    """Overrides → network, tasks and data on the small data set."""

    def construct(*overrides: str) -> tuple[Built, DataModule]:
        config = configure(*overrides)
        data = DataModule(config.data, config.augment, config.seed)
        built = build(config, data.spec())
        data.serve(built.tasks.values())
        return built, data

    return construct


def unified(
    *arguments: str, cwd: Path, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "unified.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if check and result.returncode:
        raise AssertionError(
            f"{arguments} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
        )
    return result


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line as a function."""
    return unified


@pytest.fixture(scope="session")
def trained(shapes: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two short epochs with all three tasks and codes."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    unified("train", *small, "trainer=smoke", f"out={folder}", cwd=folder.parent)
    return folder
