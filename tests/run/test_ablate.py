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
from unified.run.ablate import ablate
from unified.run.comparison import Compared, differences
from unified.run.jobs import Job
from unified.run.plan import planned
from unified.run.statistics import Difference, holm, paired
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
    assert isnan(paired([0.35, 0.40], [0.34, 0.39]).p), "of equal differences no test knows"
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
    arms, baseline = list(config.ablation.arms), config.ablation.baseline
    if not config.ablation.against:
        assert config.ablation.comparisons() == [(a, baseline) for a in arms if a != baseline]
    seen = []
    for job in planned(config.ablation, (), Path("x"))[: len(config.ablation.arms)]:
        composed = validate(compose_raw("command=train", *job.words))
        check(composed)
        own = plain(composed) | {"name": "", "ablation": None}
        assert own not in seen, f"{job.arm} is an arm twice"
        seen.append(own)
        assert composed.seed == job.seed


def test_arms_are_compared_with_those_that_they_name() -> None:
    config = validate(compose_raw("command=ablate", "ablation=multitask"))
    assert config.ablation.comparisons() == [
        ("jdc", "det"), ("ijdc", "det"), ("ijdc", "jdc"), ("jde", "det"), ("ijde", "det"),
        ("ijde", "jde"),
    ]  # fmt: skip


def test_arms_of_one_task_are_compared_by_it_alone() -> None:
    """Detection of the arm of embedding says nothing of embedding, and costs every p a part."""
    plan = validate(compose_raw("command=ablate", "ablation=all_tasks")).ablation
    every = {
        name: {"detection": {"AP": {0: 0.1, 1: 0.3}}} | ({name: {"AP": {0: 0.1, 1: 0.2}}})
        for name in ("embedding", "mtl")
    }
    every["mtl"]["embedding"] = {"AP": {0: 0.3, 1: 0.5}}
    primary = {"detection": "AP", "embedding": "AP", "mtl": "AP"}
    (only,) = differences(plan, every, primary)
    assert (only.arm, only.other, only.task) == ("mtl", "embedding", "embedding")
    assert only.difference.mean == pytest.approx(0.25)
    assert len(plan.comparisons()) == 19


@pytest.mark.parametrize(
    ("seeds", "mean", "interval", "p", "corrected", "said"),
    [
        (3, 0.1, (0.05, 0.2), 0.01, 0.03, "better"),
        (3, -0.1, (-0.2, -0.05), 0.01, 0.03, "worse"),
        (3, 0.1, (0.05, 0.2), 0.01, 0.06, "better, not after correction"),
        (3, 0.1, (-0.05, 0.2), 0.01, 0.03, "no difference shown"),
        (3, 0.1, (0.05, 0.2), 0.05, 0.05, "no difference shown"),
        (3, 0.1, (0.1, 0.1), float("nan"), float("nan"), "the same in each seed: no test"),
        (1, 0.1, (float("nan"),) * 2, float("nan"), float("nan"), "one seed says nothing"),
    ],
)
def test_verdicts(
    seeds: int, mean: float, interval: tuple[float, float], p: float, corrected: float, said: str
) -> None:
    found = Difference(mean, *interval, p)
    assert Compared("a", "b", "detection", "AP", seeds, found, corrected).verdict == said


def test_the_command_line_counts_more_than_the_file() -> None:
    plan = validate(compose_raw("command=ablate", "ablation=multitask")).ablation
    assert "trainer.max_epochs=6" in plan.common
    plan.arms["det"].append("data.batch_size=4")
    job = planned(plan, ["trainer.max_epochs=9", "data.batch_size=2"], Path("x"))[0]
    config = validate(compose_raw("command=train", *job.words))
    assert (config.trainer["max_epochs"], config.data.batch_size) == (9, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ablation.baseline=x"], r"ablation\.baseline: there is no arm x.*use det"),
        (["+ablation.tasks.x=[detection]"], r"ablation\.tasks: there is no arm x"),
        (["+ablation.against.x=[det]"], r"ablation\.against: there is no arm x"),
        (["ablation.against.ijdc=[x]"], r"ablation\.against\.ijdc: there is no arm x"),
        (["ablation.against.ijdc=[ijdc]"], "names the arm itself"),
        (["ablation.against.ijdc=[det,det]"], "names an arm twice"),
        (["~ablation.arms.jdc"], r"no arm jdc.*or say which, ablation\.against\.ijdc=\[…\]"),
        (["ablation.test=../x"], r"ablation\.test"),
        (['ablation.common=["hydra/launcher=basic"]'], "is not an arm's to say"),
        (["ablation.seeds=[0,0]"], "names a seed twice"),
        (["ablation.seeds=[]"], r"ablation\.seeds"),
        (['ablation.common=["seed=3"]'], "seed=3 is not an arm's to say"),
        (['+ablation.arms.a=["out=x"]'], "out=x is not an arm's to say"),
    ],
)
def test_an_impossible_sweep_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        validate(compose_raw("ablation=multitask", *words))


def learnt(made: Made, epochs: int) -> list[tuple[list[str], torch.Tensor]]:
    """Files and inputs of every step, in their order."""
    made.data.setup("fit")
    loader, steps = made.data.train_dataloader(), []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            steps.append(([meta.file for meta in batch.metas], batch.images))
    return steps


@pytest.mark.parametrize("name", SHIPPED)
def test_arms_of_a_seed_see_the_same_images_and_start_from_the_same_trunk(
    name: str, make: Callable, shapes: Path
) -> None:
    """Order, augmentation, number of steps and initial weights; not of two seeds."""
    config = validate(compose_raw("command=ablate", f"ablation={name}"))
    own = [f"data.root={shapes}", "data.shapes=null", "data.image_size=64", "data.workers=0"]
    own += ["data.batch_size=4", *(w for w in config.ablation.common if w.startswith("augment"))]
    first, seen = next(iter(config.ablation.arms)), {}
    for arm, seed in [*product(config.ablation.arms, (0,)), (first, 1)]:
        made: Made = make(*own, *config.ablation.arms[arm], f"seed={seed}")
        trunk = made.model.trunk.state_dict().items()
        weights = {n: v.clone() for n, v in trunk if not n.startswith("blocks.")}
        seen[arm, seed] = (learnt(made, 2), weights)
    steps, weights = seen[first, 0]
    assert len(steps) == 16
    for arm in config.ablation.arms:
        others, trunk = seen[arm, 0]
        assert trunk.keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in trunk.items()), arm
        assert [files for files, _ in others] == [files for files, _ in steps], arm
        assert all(torch.equal(x[1], y[1]) for x, y in zip(others, steps, strict=True)), arm
    assert seen[first, 1][0][0][0] != steps[0][0]


@pytest.mark.parametrize("name", ["multitask", "operators", "decoders"])
def test_heads_of_arms_start_alike(name: str, make: Callable) -> None:
    """But for what codes add."""
    arms = validate(compose_raw("command=ablate", f"ablation={name}")).ablation.arms
    starts = []
    for words in arms.values():
        head = make(*words).tasks["detection"].head.state_dict()
        starts.append({n: v.clone() for n, v in head.items() if ".code." not in n})
    for start in starts[1:]:
        assert start.keys() == starts[0].keys()
        assert all(torch.equal(value, starts[0][n]) for n, value in start.items())


# --- What is run --------------------------------------------------------------------------


def pretend(score: Callable[[str, int], float], fails: Sequence[tuple[str, int]] = ()) -> Any:
    """What trains nothing: it writes what a run would."""

    def launch(jobs: Sequence[Job], every: Sequence[Job]) -> None:
        launch.run += [(job.arm, job.seed) for job in jobs]
        for job in jobs:
            scored = job.folder / "eval-test"
            scored.mkdir(parents=True)
            config = plain(validate(compose_raw("command=train", *job.words)))
            (job.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
            if (job.arm, job.seed) in fails:
                job.log.write_text("error: no images\n  fix: add some\n")
                continue
            value = score(job.arm, job.seed)
            metrics = {"detection": {"APs": None, "AP75": 0.9 - value, "AP": value}}
            facts = {"parameters": 1000, "code_parameters": 5, "flops": 2e6, "minutes": 1.0,
                     "step_seconds": 0.25, "peak_memory": 3 * 2**20}  # fmt: skip
            (job.folder / "results.json").write_text(
                json.dumps({"metrics": {"detection": {"AP": 0.99}}, "primary": {}, **facts})
            )
            (scored / "results.json").write_text(
                json.dumps({"metrics": metrics, "primary": {"detection": "AP"}})
            )

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
    noise = {"none": (0.05, 0, -0.07), "add": (0.06, -0.03, 0.01), "mul": (0.051, 0, -0.071)}
    launch = pretend(lambda arm, seed: better[arm] + noise[arm][seed])
    scores = ablate(sweep, ["data.batch_size=8"], launch)
    assert launch.run == [(arm, seed) for seed in (0, 1, 2) for arm in better]
    expected = {0: pytest.approx(0.451), 1: 0.4, 2: pytest.approx(0.329)}
    assert scores["mul"]["detection"]["AP"] == expected
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert "| none | 0.2933 ± 0.0603 |" in report
    (add,) = [line for line in report.splitlines() if line.startswith("| add | none |")]
    (mul,) = [line for line in report.splitlines() if line.startswith("| mul | none |")]
    assert add.endswith("| no difference shown |")
    assert "+0.1000 | +0.0990 to +0.1010" in mul
    assert mul.endswith("| better |")
    assert "| none | 1,000 | 5 | 2.0 | 250 | 3 | 1.0 |" in report
    assert "data.batch_size=8" in report
    with (tmp_path / "sweep" / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 18
    assert {row["metric"] for row in rows} == {"AP", "AP75"}
    with (tmp_path / "sweep" / "differences.csv").open(newline="") as stream:
        one, two = csv.DictReader(stream)
    assert (one["metric"], one["arm"], two["arm"]) == ("AP", "add", "mul")
    assert (one["verdict"], two["verdict"]) == ("no difference shown", "better")
    assert float(two["corrected"]) == pytest.approx(2 * float(two["p"]))
    assert float(one["corrected"]) == pytest.approx(float(one["p"]))
    assert all(float(row["low"]) < float(row["mean"]) < float(row["high"]) for row in (one, two))
    with Image.open(tmp_path / "sweep" / "report.png") as picture:
        assert picture.width > 400
    again = pretend(lambda *_: 0.0)
    assert ablate(sweep, ["data.batch_size=8"], again) == scores
    assert again.run == []
    with pytest.raises(ConfigError, match=r"was made with data\.batch_size=8, and now it is 4"):
        ablate(sweep, ["data.batch_size=4"], again)


def test_nothing_of_the_user_is_overwritten(sweep: Any, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "report.md").write_text("mine")
    launch = pretend(lambda *_: 0.0)
    with pytest.raises(ConfigError, match="no empty folder"):
        ablate(sweep, (), launch)
    assert [file.name for file in (tmp_path / "sweep").iterdir()] == ["report.md"]
    assert launch.run == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("results.json", "{"),
        ("results.json", "[]"),
        ("eval-test/results.json", '{"metrics": {}}'),
        ("eval-test/results.json", '{"metrics": {"detection": {"AP": "x"}}, "primary": {}}'),
        ("config.yaml", "{"),
        ("config.yaml", None),
    ],
)
def test_a_damaged_run_is_named_before_anything_is_trained(
    sweep: Any, tmp_path: Path, file: str, text: str | None
) -> None:
    ablate(sweep, (), pretend(lambda *_: 0.5))
    damaged = tmp_path / "sweep" / "add" / "seed-1" / file
    damaged.unlink() if text is None else damaged.write_text(text)
    launch = pretend(lambda *_: 0.5)
    sweep.ablation.seeds = [0, 1, 2, 3]
    with pytest.raises(DataError, match=re.escape(str(damaged))):
        ablate(sweep, (), launch)
    assert launch.run == []


def test_overrides_of_a_run_are_the_sweeps_own(sweep: Any) -> None:
    for word in ("seed=3", "name=x", "out=y"):
        with pytest.raises(ConfigError, match=f"{word} would be that of every run"):
            ablate(sweep, [word], pretend(lambda *_: 0.0))
    with pytest.raises(ConfigError, match="is one text"):
        ablate(sweep, "data.batch_size=8", pretend(lambda *_: 0.0))


def test_a_failed_run_is_told_and_the_others_count(sweep: Any, tmp_path: Path) -> None:
    launch = pretend(lambda arm, seed: 0.1 * seed, fails=[("mul", 1)])
    with pytest.raises(JobError, match=r"1 of 9 runs failed; mul, seed 1: no images"):
        ablate(sweep, (), launch)
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert "8 of 9 runs" in report
    assert "Not there: mul, seed 1." in report
    assert "| mul | none | detection AP | 2 |" in report


def test_an_arm_that_cannot_be_is_refused_before_anything_is_trained(
    sweep: Any, tmp_path: Path
) -> None:
    launch = pretend(lambda *_: 0.0)
    nowhere = "implicit.sites=[nowhere]"
    sweep.ablation.arms["add"].append(nowhere)
    with pytest.raises(ConfigError, match=r"arm add: implicit\.sites: 'nowhere' matches no slot"):
        ablate(sweep, (), launch)
    sweep.ablation.arms["add"].remove(nowhere)
    for word, said in (
        ("optim.lr=-1", "arm none: optim.lr"), ("x=1", "arm none: .*x"),
        ("optim=null", "arm none: optim=null selects none"),
        ("optim=[]", r"arm none: optim=\[\] selects none"),
        ("task=[detection,null]", "arm none: task=null is unknown"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            ablate(sweep, [word], launch)
    sweep.ablation.tasks = {"add": ["caption"]}
    with pytest.raises(ConfigError, match=r"arm add: ablation\.tasks compares it by caption"):
        ablate(sweep, (), launch)
    sweep.ablation.tasks = {"add": []}
    with pytest.raises(ConfigError, match=r"arm add: ablation\.tasks compares it by none"):
        ablate(sweep, (), launch)
    sweep.ablation.tasks = {}
    sweep.ablation.test = "nowhere"
    with pytest.raises(DataError, match=r"arm none: .*_nowhere\.json"):
        ablate(sweep, (), launch)
    for split in ("train", "val"):
        sweep.ablation.test = split
        with pytest.raises(
            ConfigError, match=rf"arm none: ablation\.test={split} is data\.{split}"
        ):
            ablate(sweep, (), launch)
    with pytest.raises(ConfigError, match="ablate needs ablation"):
        ablate(validate(compose_raw("command=ablate")), (), launch)
    assert launch.run == []


PAGE = Path(__file__).resolve().parents[2] / "docs" / "ablations.md"
FILE = re.compile(r"`(my/[\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_pages_sweep_is_interrupted_and_gone_on_with(
    small: list[str], shapes: Path, tmp_path: Path
) -> None:
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
    made = (folder / "report.md").read_text().splitlines()[2]
    assert made.startswith("Made by `unified ablate ablation=mine ")
    assert "hydra.mode" not in made
    assert "--config-dir=" in made
    assert "nonsense" in again.stderr
    assert "resuming" in (folder / "none" / "seed-0.log").read_text()
    assert "2 of 3 runs are there" in again.stdout
    scored = json.loads((run / "eval-test" / "bbox.json").read_text())
    images = json.loads((shapes / "annotations" / "instances_test.json").read_text())["images"]
    assert {row["image_id"] for row in scored} <= {image["id"] for image in images}
    assert scored
    codes = json.loads((folder / "scalar" / "seed-0" / "results.json").read_text())
    assert codes["code_parameters"] == 8, "one number for each slot"
    assert "| scalar | none | detection AP | 1 |" in (folder / "report.md").read_text()
    resumed = json.loads((run / "results.json").read_text())
    assert 0 < resumed["step_seconds"] < 60 * resumed["minutes"]
