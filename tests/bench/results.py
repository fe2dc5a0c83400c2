"""Where measurements go: `docs/results/<name>.md`, a table with the command that made it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from unified.bounds import checked
from unified.data.config import DataConfig
from unified.data.sources import Folders
from unified.data.split import Split
from unified.schema import plain, validate

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("UNIFIED_REAL", ROOT.parent / "shared" / "real"))

OWN = (".out", ".command", ".resume", ".weights", ".trainer.enable_progress_bar")
"""Keys that say where a run was made, of which files, and what was shown meanwhile."""
COLOUR = [f"augment.strong.{key}" for key in ("hue=0.5", "saturation=0.6", "value=0.4")]
"""For generated data, whose colours say nothing: a network that sees them all learns the rest."""


def machine() -> str:
    """One line about what the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            s.split(":")[1].strip() for s in info.read_text().splitlines() if "model name" in s
        ]
        cpu = names[0] if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores of {cpu}{gpu}, torch {torch.__version__}, {date.today()}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def spread(runs: Sequence[dict[str, Any]], task: str, *names: str) -> list[str]:
    """Mean ± standard deviation over the seeds, of every metric."""
    values = np.array([[run["metrics"][task][name] for name in names] for run in runs], float)
    return [
        f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)
    ]


def write(name: str, title: str, command: str, parts: Sequence[str]) -> None:
    """Write one results page and print it."""
    page = "\n\n".join([f"# {title}", f"Made by `{command}` on {machine()}.", *parts]) + "\n"
    file = ROOT / "docs" / "results" / f"{name}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page)
    print(page)


def split_of(root: Path, split: str, *kinds: str, derive: bool = False) -> Split:
    """A split of real data, read as the shipped configuration does."""
    with initialize_config_module("conf", version_base="1.3"):
        overrides = ["data=coco", f"data.root={root}", f"data.derive={derive}"]
        config = compose("config", overrides=overrides).data
    data = checked("data", OmegaConf.to_container(config), DataConfig)
    return Split(Folders(data, split), kinds)


def train(out: Path, *overrides: str) -> dict[str, Any]:
    """Run `unified train` in a process of its own, or take a finished run; returns its results."""
    results = out / "results.json"
    if (out / "config.yaml").is_file():
        _refuse_other(out, overrides)
    if not results.is_file():
        resume = [f"resume={out}"] if (out / "last.ckpt").is_file() else [*overrides, f"out={out}"]
        subprocess.run(
            [sys.executable, "-m", "unified.cli", "train", *resume], cwd=ROOT, check=True
        )
    return json.loads(results.read_text())


def _refuse_other(out: Path, overrides: Sequence[str]) -> None:
    """A run that was made by other settings is not what the page says; keys may be new since."""
    with initialize_config_module("conf", version_base="1.3"):
        wanted = dict(_leaves(plain(validate(compose("config", overrides=list(overrides))))))
    made = dict(_leaves(OmegaConf.to_container(OmegaConf.load(out / "config.yaml"))))
    said = {override.lstrip("+").split("=")[0] for override in overrides}
    other = [key for key in made if key not in OWN and made[key] != wanted.get(key)]
    other += [key for key in wanted if key not in made and key[1:] in said]
    if other:
        raise SystemExit(f"{out} was made with other settings, as of {other[0][1:]}: delete it")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}")
    else:
        yield key, value


def evaluate(run: Path, out: Path, *overrides: str) -> dict[str, Any]:
    """Run `unified eval` on a run in a process of its own; returns its results."""
    results = out / "results.json"
    if not results.is_file():
        command = ["eval", f"ckpt={run}", *overrides, f"out={out}"]
        subprocess.run([sys.executable, "-m", "unified.cli", *command], cwd=ROOT, check=True)
    return json.loads(results.read_text())
