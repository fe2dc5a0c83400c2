"""Sweeps over arms and seeds: what is run, what is compared, and how sure it is."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import product
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Made, compose_raw
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from unified.build import check
from unified.errors import ConfigError, DataError, JobError
from unified.run.ablate import ablate, planned
from unified.run.jobs import Job
from unified.run.statistics import holm, paired
from unified.schema import plain, validate

SHIPPED = sorted(p.name.removesuffix(".yaml") for p in (files("conf") / "ablation").iterdir())
SCORES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6)


# --- Statistics ---------------------------------------------------------------------------


def test_a_difference_by_hand() -> None:
    """t = 0.2 / (0.1 / √3) with two degrees of freedom; p = 1 − t / √(t² + 2)."""
    found = paired([0.3, 0.4, 0.5], [0.2, 0.2, 0.2])
    assert found.mean == pytest.approx(0.2)
    t = 0.2 / (0.1 / 3**0.5)
    assert found.p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    # Of 27 draws, one each has the mean of 0.1 and of 0.3: 3.7 %.
    assert (found.low, found.high) == pytest.approx((0.1, 0.3))
    assert found.shown


@given(SCORES, st.floats(-1, 1))
def test_laws_of_differences(scores: list[float], shift: float) -> None:
    other = scores[::-1]
    found, turned = paired(scores, other), paired(other, scores)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert turned.mean == pytest.approx(-found.mean, abs=1e-9)
    assert turned.p == pytest.approx(found.p, abs=1e-6)
    same = paired([s + shift for s in scores], [s + shift for s in other])
    assert same.mean == pytest.approx(found.mean, abs=1e-6)


def test_what_does_not_vary_and_what_is_alone() -> None:
    assert paired([0.5, 0.5], [0.5, 0.5]).p == 1
    assert not paired([0.5, 0.5], [0.5, 0.5]).shown
    assert isnan(paired([0.5], [0.4]).p)
    assert not paired([0.5], [0.4]).shown


def test_correction_by_hand() -> None:
    """Times the number that are left, never below one that came before, 1 at most."""
    assert holm([0.01, 0.04, 0.03, 0.6]) == pytest.approx([0.04, 0.09, 0.09, 0.6])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02, float("nan")])[0] == 0.02
    assert holm([]) == []


def test_intervals_hold_what_they_promise_less_so_for_few_seeds() -> None:
    """Of 200 true differences of 0, the test finds 5 % by chance."""
    rng = np.random.default_rng(0)
    found = [paired(*rng.normal(size=(2, 5))) for _ in range(200)]
    assert 0.01 < np.mean([d.p < 0.05 for d in found]) < 0.09
    assert 0.05 < np.mean([d.shown for d in found]) < 0.25


# --- What is compared ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_ablation_can_be(name: str) -> None:
    """Every arm composes and fits together; nothing is trained."""
    config = validate(compose_raw("command=ablate", f"ablation={name}"))
    assert config.ablation.name == name
    assert config.ablation.test == "test"
    assert len(config.ablation.comparisons()) >= len(config.ablation.arms) - 1
    seen = []
    for job in planned(config.ablation, (), Path("x"))[: len(config.ablation.arms)]:
        composed = validate(compose_raw("command=train", *job.words))
        check(composed)
        own = plain(composed) | {"name": "", "ablation": None}
        assert own not in seen, f"{job.arm} is an arm twice"
        seen.append(own)
        assert composed.seed == job.seed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ablation.baseline=x"], r"ablation\.baseline: there is no arm x; use det"),
        (["+ablation.against.x=[det]"], r"ablation\.against: there is no arm x"),
        (["ablation.against.ijdc=[x]"], r"ablation\.against\.ijdc: there is no arm x"),
        (["ablation.against.ijdc=[ijdc]"], "names the arm itself"),
        (["ablation.seeds=[0,0]"], "names a seed twice"),
        (["ablation.seeds=[]"], r"ablation\.seeds"),
        (['ablation.common=["seed=3"]'], "seed=3 is not an arm's to say"),
        (['+ablation.arms.a=["out=x"]'], "out=x is not an arm's to say"),
    ],
)
def test_an_impossible_sweep_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("; ", "\n.*fix: ")):
        validate(compose_raw("ablation=multitask", *words))


def test_arms_of_a_seed_see_the_same_images_and_start_from_the_same_trunk(make: Callable) -> None:
    """Order, augmentation and initial weights of the trunk, in all five arms; not of two seeds."""
    arms = OmegaConf.to_container(compose_raw("ablation=multitask").ablation.arms)
    seen: dict[tuple[str, int], tuple[Any, ...]] = {}
    for (arm, words), seed in product(arms.items(), (0, 1)):
        made: Made = make(*words, f"seed={seed}")
        made.data.setup("fit")
        batches = [next(iter(made.data.train_dataloader())) for _ in range(2)]
        weights = {name: value.clone() for name, value in made.model.trunk.state_dict().items()}
        detection = made.tasks["detection"].head.state_dict()
        plainly = {n: v for n, v in detection.items() if ".code." not in n}
        seen[arm, seed] = (batches[0], weights, plainly)
    for seed in (0, 1):
        first, weights, head = seen["det", seed]
        for arm in arms:
            batch, own, plainly = seen[arm, seed]
            assert [m.file for m in batch.metas] == [m.file for m in first.metas]
            assert torch.equal(batch.images, first.images), arm
            assert own.keys() == weights.keys()
            assert all(torch.equal(value, weights[name]) for name, value in own.items()), arm
            assert plainly.keys() == head.keys()
            assert all(torch.equal(value, head[name]) for name, value in plainly.items()), arm
    assert not torch.equal(seen["det", 0][0].images, seen["det", 1][0].images)


# --- What is run --------------------------------------------------------------------------


def pretend(score: Callable[[str, int], float], fails: Sequence[tuple[str, int]] = ()) -> Any:
    """What trains nothing: it writes what a run would."""

    def launch(jobs: Sequence[Job], every: Sequence[Job]) -> None:
        launch.run += [(job.arm, job.seed) for job in jobs]
        for job in jobs:
            scored = job.folder / "test"
            scored.mkdir(parents=True)
            config = plain(validate(compose_raw("command=train", *job.words)))
            (job.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
            if (job.arm, job.seed) in fails:
                job.log.write_text("error: no images\n  fix: add some\n")
                continue
            value = score(job.arm, job.seed)
            metrics = {"detection": {"AP": value, "APs": None}}
            facts = {"parameters": 1000, "code_parameters": 5, "flops": 2e6, "minutes": 1.0,
                     "step_seconds": 0.25, "peak_memory": 3 * 2**20}  # fmt: skip
            (job.folder / "results.json").write_text(
                json.dumps({"metrics": {"detection": {"AP": 0.99}}, **facts})
            )
            (scored / "results.json").write_text(json.dumps({"metrics": metrics}))

    launch.run = []
    return launch


@pytest.fixture
def sweep(shapes: Path, tmp_path: Path) -> Any:
    """Three arms and seeds, on data that are there."""
    config = validate(
        compose_raw("command=ablate", "ablation=prediction_refinement", "ablation.seeds=[0,1,2]",
                    f"out={tmp_path / 'sweep'}")
    )  # fmt: skip
    config.ablation.common = [f"data.root={shapes}", "data.shapes=null"]
    return config


def test_a_report_says_what_was_found_and_how_sure_it_is(sweep: Any, tmp_path: Path) -> None:
    """Scored on the split that chose nothing; finished runs are not made again."""
    better = {"none": 0.3, "add": 0.301, "mul": 0.4}
    noise = {"none": (0, 0, 0), "add": (0.02, -0.03, 0.01), "mul": (0.001, 0, -0.001)}
    launch = pretend(lambda arm, seed: better[arm] + noise[arm][seed])
    scores = ablate(sweep, ["data.batch_size=8"], launch)
    assert launch.run == [(arm, seed) for seed in (0, 1, 2) for arm in better]
    assert scores["mul"]["detection"]["AP"] == {0: pytest.approx(0.401), 1: 0.4,
                                                2: pytest.approx(0.399)}  # fmt: skip
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert "| none | 0.3000 ± 0.0000 |" in report
    (add,) = [line for line in report.splitlines() if line.startswith("| add | none |")]
    (mul,) = [line for line in report.splitlines() if line.startswith("| mul | none |")]
    assert add.endswith("| no difference shown |")
    assert "+0.1000 | +0.0990 to +0.1010" in mul
    assert mul.endswith("| better |")
    assert "| none | 1,000 | 5 | 2.0 | 250 | 3 | 1.0 |" in report
    assert "data.batch_size=8" in report
    with (tmp_path / "sweep" / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert {row["metric"] for row in rows} == {"AP"}
    with Image.open(tmp_path / "sweep" / "report.png") as picture:
        assert picture.width > 400
    again = pretend(lambda *_: 0.0)
    assert ablate(sweep, ["data.batch_size=8"], again) == scores
    assert again.run == []
    with pytest.raises(ConfigError, match=r"was made with data\.batch_size=8, and now it is 4"):
        ablate(sweep, ["data.batch_size=4"], again)


def test_a_failed_run_is_told_and_the_others_count(sweep: Any, tmp_path: Path) -> None:
    launch = pretend(lambda arm, seed: 0.1 * seed, fails=[("mul", 1)])
    with pytest.raises(JobError, match=r"1 of 9 runs failed; mul, seed 1: no images"):
        ablate(sweep, (), launch)
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert "8 of 9 runs" in report
    assert "| mul | none | detection AP | 2 |" in report


def test_an_arm_that_cannot_be_is_refused_before_anything_is_trained(
    sweep: Any, tmp_path: Path
) -> None:
    launch = pretend(lambda *_: 0.0)
    for word, said in (("optim.lr=-1", "arm none: optim.lr"), ("x=1", "arm none: .*x")):
        with pytest.raises(ConfigError, match=said):
            ablate(sweep, [word], launch)
    words = [f"data.root={tmp_path / 'none'}", "data.shapes=null"]
    with pytest.raises(DataError, match=r"has no \*_test\.json"):
        ablate(sweep, words, launch)
    with pytest.raises(ConfigError, match="ablate needs ablation"):
        ablate(validate(compose_raw("command=ablate")), (), launch)
    assert launch.run == []


PAGE = Path(__file__).resolve().parents[2] / "docs" / "ablations.md"
FILE = re.compile(r"`(my/[\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_pages_sweep_is_interrupted_and_gone_on_with(small: list[str], tmp_path: Path) -> None:
    """Processes, with a decoder and configurations of one's own; one arm fails as it begins."""
    for name, text in FILE.findall(PAGE.read_text()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [
        sys.executable, "-m", "unified.cli", "ablate", "ablation=mine", "--config-dir", "my/conf",
        *small, "trust=[my]", "data.batch_size=2", "trainer.max_epochs=3", "logger=none",
        "ablation.seeds=[0]",
        "~ablation.arms.everywhere", "~ablation.arms.finest",
        '+ablation.arms.bad=["experiment=jde","+trainer.nonsense=1"]',
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."}
    refused = subprocess.run([word for word in command if not word.startswith("trust")],
                             cwd=tmp_path, env=environment, text=True, check=False,
                             capture_output=True, timeout=120)  # fmt: skip
    assert "arm scalar: its best.ckpt names implicit.decoder._target_" in refused.stderr
    assert "trust=[my" in refused.stderr
    sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    folder = tmp_path / "runs" / "ablations" / "mine"
    run = folder / "none" / "seed-0"
    until = time.monotonic() + 120
    while not (run / "last.ckpt").is_file() and sweep.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    sweep.send_signal(signal.SIGTERM)
    _, said = sweep.communicate(timeout=120)
    assert sweep.returncode == 128 + signal.SIGTERM, said
    assert "is gone on with by the same command" in said
    assert not (run / "results.json").is_file()
    again = subprocess.run(command, cwd=tmp_path, env=environment, text=True, check=False,
                           capture_output=True, timeout=300)  # fmt: skip
    assert again.returncode == 2, again.stderr
    assert "1 of 3 runs failed; bad, seed 0: trainer: " in again.stderr
    assert "nonsense" in again.stderr
    assert "resuming" in (folder / "none" / "seed-0.log").read_text()
    assert "2 of 3 runs are there" in again.stdout
    assert json.loads((run / "test" / "results.json").read_text())["metrics"]["detection"]
    codes = json.loads((folder / "scalar" / "seed-0" / "results.json").read_text())
    assert codes["code_parameters"] == 8, "one number for each slot"
    assert "| scalar | none | detection AP | 1 |" in (folder / "report.md").read_text()
    resumed = json.loads((run / "results.json").read_text())
    assert 0 < resumed["step_seconds"] < 60 * resumed["minutes"]
