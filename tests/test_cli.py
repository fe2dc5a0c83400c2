"""The command line as a user meets it: real processes, real files."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

import unified
from unified.errors import ConfigError
from unified.implicit.bank import codes_of
from unified.kinds.kind import Categories
from unified.kinds.pixels import PixelClasses
from unified.kinds.tags import Tags
from unified.overrides import check_choices
from unified.run.pictures import draw_prediction

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_folder_holds_what_is_promised(trained: Path) -> None:
    for name in (
        "config.yaml", "metrics.csv", "results.json", "best.ckpt", "last.ckpt", "bbox.json",
        "classification.json", "embedding.npz", "train_batch.jpg", "predictions.jpg", "curves.png",
        "detection_curves.png", "tensorboard",
    ):  # fmt: skip
        assert (trained / name).exists(), name
    results = json.loads((trained / "results.json").read_text())
    assert set(results["metrics"]) == {"detection", "classification", "embedding"}
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"} <= set(
        results["metrics"]["detection"]
    )
    assert {"mAP", "CF1", "OF1"} == set(results["metrics"]["classification"])
    assert {"Recall@1", "mAP@R"} == set(results["metrics"]["embedding"])
    assert results["code_parameters"] > 0
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(row["train/loss"] and row["val/detection/AP"] for row in rows)
    for part in ("trunk", "tasks", "codes"):
        assert float(rows[0][f"rate/{part}"]) > float(rows[1][f"rate/{part}"]) > 0
    assert list((trained / "tensorboard").glob("events*"))


def test_a_checkpoint_is_tensors_and_plain_containers(trained: Path) -> None:
    state = torch.load(trained / "best.ckpt", weights_only=True)
    assert state["unified"]["config"]["trunk"]["_target_"]
    assert "model.tasks.detection.head.anchors" in state["state_dict"]
    assert state["state_dict"]["model.tasks.detection.head.anchors"].max() > 1


def test_eval_repeats_the_score_of_training(
    trained: Path, run_command: Command, tmp_path: Path
) -> None:
    said = run_command("eval", f"ckpt={trained / 'best.ckpt'}", "out=scored", cwd=tmp_path)
    assert "detection" in said.stdout
    ours = json.loads((tmp_path / "scored" / "results.json").read_text())["metrics"]
    theirs = json.loads((trained / "results.json").read_text())["metrics"]
    for task, values in theirs.items():
        assert ours[task] == pytest.approx(values, abs=1e-9)


def test_eval_takes_overrides_of_data_and_decoding(
    trained: Path, run_command: Command, tmp_path: Path
) -> None:
    run_command(
        "eval", f"ckpt={trained}", "data.val=train", "task.detection.max_detections=3",
        "task.detection.evaluator=pycocotools", "out=scored", cwd=tmp_path,
    )  # fmt: skip
    rows = json.loads((tmp_path / "scored" / "bbox.json").read_text())
    counts: dict[int, int] = {}
    for row in rows:
        counts[row["image_id"]] = counts.get(row["image_id"], 0) + 1
    assert max(counts.values()) <= 3
    assert max(counts) <= 32  # ids of the training split


def test_predict_writes_pictures_and_json(
    trained: Path, shapes: Path, run_command: Command, tmp_path: Path
) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for file in sorted((shapes / "val").glob("*.jpg"))[:3]:
        shutil.copy(file, source)
    (source / "broken.jpg").write_bytes(b"no image")
    (source / "notes.txt").write_text("not an image either")
    said = run_command(
        "predict", f"ckpt={trained / 'best.ckpt'}", f"source={source}", "out=found",
        "min_score=0.0001", cwd=tmp_path,
    )  # fmt: skip
    assert "broken.jpg" in said.stdout + said.stderr
    rows = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert len(rows) == 3
    for row in rows:
        assert len(row["detection"]) == len(row["embedding"]) > 0
        assert len(row["classification"]) == 10
        picture = Image.open(tmp_path / "found" / f"{Path(row['file']).stem}.jpg")
        assert picture.size[0] >= row["width"]
    # One image and a glob are sources too.
    one = next(source.glob("val*.jpg"))
    run_command("predict", f"ckpt={trained}", f"source={one}", "out=one", cwd=tmp_path)
    run_command("predict", f"ckpt={trained}", f"source={source}/val*.jpg", "out=glob", cwd=tmp_path)
    assert len(json.loads((tmp_path / "glob" / "predictions.json").read_text())) == 3


@pytest.fixture(scope="module")
def segmented(
    shapes: Path, small: list[str], run_command: Command, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A short run of detection and the three segmentation tasks, with codes."""
    folder = tmp_path_factory.mktemp("segmented") / "run"
    run_command(
        "train", *small, "experiment=iseg", "trainer=smoke", "logger=none", f"out={folder}",
        cwd=folder.parent,
    )  # fmt: skip
    return folder


def test_segmentation_leaves_the_official_files(
    segmented: Path, shapes: Path, open_split: Callable
) -> None:
    ids = set(open_split(shapes, "val").images.ids.tolist())
    metrics = json.loads((segmented / "results.json").read_text())["metrics"]
    assert {"AP", "AP50", "AR100"} <= set(metrics["instance"])
    assert set(metrics["stuff"]) == {"mIoU", "fwIoU", "mAcc", "pAcc"}
    assert {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"} <= set(metrics["panoptic"])
    boxes = json.loads((segmented / "bbox.json").read_text())
    masks = json.loads((segmented / "segm.json").read_text())
    scored = [[(r["image_id"], r["category_id"], r["score"]) for r in f] for f in (boxes, masks)]
    assert scored[0] == scored[1]
    assert masks[0]["segmentation"]["size"] == [64, 64]
    stuff = json.loads((segmented / "stuff.json").read_text())
    assert {r["image_id"] for r in stuff} == ids
    panoptic = json.loads((segmented / "panoptic.json").read_text())["annotations"]
    assert {r["image_id"] for r in panoptic} == ids
    for row in panoptic:
        pixels = np.asarray(Image.open(segmented / "panoptic" / row["file_name"])).astype(int)
        found = set(np.unique(pixels @ [1, 256, 65536])) - {0}
        assert found == {s["id"] for s in row["segments_info"]}
    assert (segmented / "predictions.jpg").is_file()


def test_eval_repeats_the_segmentation_scores(
    segmented: Path, run_command: Command, tmp_path: Path
) -> None:
    run_command("eval", f"ckpt={segmented}", "out=scored", cwd=tmp_path)
    ours = json.loads((tmp_path / "scored" / "results.json").read_text())["metrics"]
    theirs = json.loads((segmented / "results.json").read_text())["metrics"]
    for task, values in theirs.items():
        assert ours[task] == pytest.approx(values, abs=1e-9)


def test_segmentation_reaches_files_and_pictures(
    segmented: Path, shapes: Path, run_command: Command, tmp_path: Path
) -> None:
    with Image.open(next((shapes / "val").glob("*.jpg"))) as image:
        image.resize((100, 70)).save(tmp_path / "wide.jpg")
    run_command(
        "predict", f"ckpt={segmented}", "source=wide.jpg", "min_score=0.0001", "out=seen",
        cwd=tmp_path,
    )  # fmt: skip
    (found,) = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    classes = [coco_mask.decode(row["segmentation"]) for row in found["stuff"]]
    assert classes[0].shape == (70, 100)
    assert (sum(classes) == 1).all(), "every pixel has one class"
    segments = [coco_mask.decode(row["segmentation"]) for row in found["panoptic"]]
    assert (sum(segments) <= 1).all(), "no pixel has two segments"
    assert len(found["instance"]) == len(found["detection"]) > 0
    assert found["instance"][0]["size"] == [70, 100]
    drawn = np.asarray(Image.open(tmp_path / "seen" / "wide.jpg"))
    assert drawn.shape[0] >= 140
    assert drawn.shape[1] == 3 * 200, "objects, stuff and panoptic side by side"


def test_the_three_tasks_learn_from_panoptic_labels_alone(
    coco_panoptic: Path, run_command: Command, tmp_path: Path
) -> None:
    run_command(
        "train", "experiment=iseg", "data=coco", f"data.root={coco_panoptic}",
        "data.train=val2017", "data.val=val2017", "data.derive=true", "data.image_size=128",
        "data.batch_size=2", "data.workers=0", "trainer=smoke", "trainer.accelerator=cpu",
        "logger=none", "out=run", cwd=tmp_path,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert set(metrics) == {"detection", "instance", "stuff", "panoptic"}
    run_command("eval", "ckpt=run", "out=scored", cwd=tmp_path)
    again = json.loads((tmp_path / "scored" / "results.json").read_text())["metrics"]
    assert again["panoptic"] == pytest.approx(metrics["panoptic"], abs=1e-9)
    run_command("predict", "ckpt=run", f"source={coco_panoptic / 'val2017'}", "out=p", cwd=tmp_path)
    assert len(list((tmp_path / "p").glob("*.jpg"))) == 2
    refused = run_command(
        "eval", "ckpt=run", "data.derive=false", "out=no", cwd=tmp_path, check=False
    )
    assert refused.returncode == 2
    assert "data.derive=true" in refused.stderr


def test_python_api_takes_every_kind_of_image(trained: Path, shapes: Path) -> None:
    model = unified.load(trained / "best.ckpt")
    file = next((shapes / "val").glob("*.jpg"))
    array = np.array(Image.open(file).convert("RGB"))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    first = model.predict(file)
    for image in (str(file), Image.open(file), array, tensor):
        again = model.predict(image)
        torch.testing.assert_close(again["detection"].scores, first["detection"].scores)
    assert first["classification"].scores.shape == (10,)
    torch.testing.assert_close(
        first["embedding"].vectors.norm(dim=1), torch.ones(len(first["detection"].boxes))
    )
    unfused = unified.load(trained, fuse=False).predict(file)
    torch.testing.assert_close(
        unfused["classification"].scores, first["classification"].scores, atol=1e-4, rtol=1e-3
    )
    with pytest.raises(unified.errors.DataError, match="uint8 RGB"):
        model.predict(array.astype(np.float32))


def test_inputs_that_the_coarsest_level_does_not_divide_are_refused(make) -> None:
    deeper = ["trunk.widths=[8,8,8,8,8,8]", "trunk.depths=[0,0,0,0,0,0]"]
    assert make("task=[detection]", "data.image_size=128", *deeper).model.trunk.features["p6"]
    with pytest.raises(unified.errors.ConfigError, match="multiple of 64") as caught:
        make("task=[detection]", "data.image_size=96", *deeper)
    assert "use 128" in str(caught.value) or "use 64" in str(caught.value)


def test_info_shows_the_official_totals(
    coco_mini: Path, run_command: Command, tmp_path: Path
) -> None:
    said = run_command(
        "info", "task=[detection]", "trunk=yolor_csp", "implicit=vector", "data=coco",
        f"data.root={coco_mini}", "data.image_size=64", "data.check=false", cwd=tmp_path,
    )  # fmt: skip
    assert "52,923,994" in said.stdout
    assert "2,557" in said.stdout


def test_the_version_is_said(run_command: Command, tmp_path: Path) -> None:
    assert run_command("--version", cwd=tmp_path).stdout.startswith("unified 0.")


def test_help_shows_commands_groups_and_explains_every_key(
    run_command: Command, tmp_path: Path
) -> None:
    top = run_command("--help", cwd=tmp_path).stdout
    for command in ("train", "eval", "predict", "info"):
        assert f"unified {command}" in top
    assert "examples" in top
    own = run_command("train", "--help", "experiment=iseg", "trainer=smoke", cwd=tmp_path).stdout
    for group in ("augment", "data", "experiment", "implicit", "task", "trunk", "weighting"):
        assert re.search(rf"^  {group} ", own, re.M), group
    assert "ijde" in own
    assert "task.instance." in own
    unexplained = re.findall(r"^  ((?:optim|augment|weighting|trunk|seed)[\w.]*)=\S*$", own, re.M)
    assert not [key for key in unexplained if "_target_" not in key]
    predict = run_command("predict", "--help", cwd=tmp_path).stdout
    assert "source=null" in predict
    assert "optim" not in predict
    assert "resume" not in predict
    unknown = run_command("info", "--help", "optim=null", cwd=tmp_path, check=False)
    assert "optim=null selects none" in unknown.stderr
    refused = run_command("train", "--help", "nothing=1", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "error: Could not override 'nothing'" in refused.stderr


@pytest.mark.parametrize(
    ("experiment", "tasks", "codes"),
    [
        ("det", {"detection"}, False),
        ("jdc", {"detection", "classification"}, False),
        ("ijdc", {"detection", "classification"}, True),
        ("jde", {"detection", "embedding"}, False),
        ("ijde", {"detection", "embedding"}, True),
    ],
)
def test_experiments_are_the_papers_arms(make, experiment: str, tasks: set, codes: bool) -> None:
    made = make(f"experiment={experiment}")
    assert set(made.tasks) == tasks
    assert bool(list(codes_of(made.model))) == codes


def test_resume_goes_on_with_more_epochs_and_refuses_another_model(
    trained: Path, run_command: Command, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    run_command("train", "resume=run", "trainer.max_epochs=3", cwd=tmp_path)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    refused = run_command("train", "resume=run", "trunk=yolor_csp", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "trunk" in refused.stderr


@pytest.mark.parametrize("tasks", ["[detection,classification,embedding,instance,stuff,panoptic]"])
def test_plain_ddp_on_two_processes(
    small: list[str], run_command: Command, tmp_path: Path, tasks: str
) -> None:
    """Plain `ddp` raises when a step leaves a parameter out; both share one run folder."""
    run_command(
        "train", *small, f"task={tasks}", "trainer=smoke", "trainer.devices=2",
        "trainer.strategy=ddp", "trainer.limit_val_batches=1.0", "out=run", cwd=tmp_path,
    )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    rows = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert len({row["image_id"] for row in rows}) == 12  # all images of the split, gathered
    segments = json.loads((tmp_path / "run" / "panoptic.json").read_text())["annotations"]
    assert len({row["image_id"] for row in segments}) == 12


@pytest.mark.parametrize(
    ("arguments", "culprit", "fix"),
    [
        (["data.root=nowhere"], "nowhere", "data.root"),
        (["data.val=val2099"], "val2099", "data.val"),
        (["task=[detection,poetry]"], "poetry", "classification"),
        (["implicit.refine=concat"], "implicit.refine=concat", "mul"),
        (["task=[embedding]"], "task embedding requires", "task=[detection,embedding]"),
        (["optim.lr=fast"], "optim.lr=fast", "float"),
        (["optim.speed=3"], "optim.speed", "+optim.speed=3"),
        (["trainer.max_epoch=3"], "max_epoch", "+trainer.max_epoch=3"),
        (["+trainer.no_such_argument=3"], "no_such_argument", "Trainer"),
        (["trunk=timm", "trunk.name=resnet9000"], "resnet9000", "for example"),
        (["resume=nowhere"], "nowhere", "folder"),
        (["+task.detection.anchor=auto"], "task.detection.anchor", "anchors"),
        (["data.image_size=100"], "100", "96"),
        (["task.caption.beams=1"], "task.caption.beams", "task=[…,caption]"),
        (["task.detection.widht=3"], "task.detection.widht", "widht is none of them"),
        (["task.detection=3"], "task.detection=3", "task=[…]"),
        (["optim.lr=[1,"], "optim.lr", "look at the override"),
        (["+optim.lr=1"], "optim.lr", "leave out the +"),
        (["experiment=mtl", "task=[stuff]"], "weighting.tasks.caption", "~weighting.tasks.caption"),
        (["optim.lr=1,2"], "1,2", "-m"),
        (["optim.lr=${nope}"], "nope", "look at the override"),
        (
            ["task=[caption]", "task.caption.scst=true", "data.root=nowhere"],
            "task.caption.scst",
            "weights=RUN",
        ),
    ],
)
def test_bad_requests_name_culprit_and_fix(
    arguments: list[str],
    culprit: str,
    fix: str,
    small: list[str],
    run_command: Command,
    tmp_path: Path,
) -> None:
    result = run_command("train", *small, "out=run", *arguments, cwd=tmp_path, check=False)
    said = result.stdout + result.stderr
    assert result.returncode in (1, 2)
    assert culprit in said
    assert fix in said
    assert "Traceback" not in said, said
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize("kind", ["not json", "not coco", "cut image", "no folder"])
def test_bad_data_names_culprit_and_fix(
    kind: str, shapes: Path, small: list[str], run_command: Command, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    victim = root / "annotations" / "instances_train.json"
    if kind == "not json":
        victim.write_text(victim.read_text()[:-100])
    elif kind == "not coco":
        victim.write_text(json.dumps({"frames": []}))
    elif kind == "cut image":
        victim = sorted((root / "train").glob("*.jpg"))[5]
        victim.write_bytes(victim.read_bytes()[:-200])
    else:
        victim = root / "annotations"
        shutil.rmtree(victim)
    result = run_command("train", *small, f"data.root={root}", "out=run", cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert victim.name in result.stderr
    assert "fix:" in result.stderr
    assert "Traceback" not in result.stderr


def test_categories_without_images_are_one_warning(
    shapes: Path, small: list[str], run_command: Command, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        document = json.loads(file.read_text())
        document["categories"].append({"id": 99, "name": "unicorn"})
        file.write_text(json.dumps(document))
    result = run_command(
        "train", *small, "trainer=smoke", f"data.root={root}", "out=run", cwd=tmp_path
    )
    assert (result.stdout + result.stderr).count("unicorn") == 1
    assert json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]["detection"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict"], "source"),
        (["predict", "source=nothing/*.jpg", "ckpt=x"], "x does not exist"),
        (["eval"], "ckpt"),
        (["eval", "ckpt=absent.ckpt"], "absent.ckpt"),
        (["dance"], "dance"),
    ],
)
def test_missing_arguments_are_named(
    arguments: list[str], said: str, run_command: Command, tmp_path: Path
) -> None:
    result = run_command(*arguments, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_damaged_checkpoint_is_named(trained: Path, run_command: Command, tmp_path: Path) -> None:
    (tmp_path / "cut.ckpt").write_bytes((trained / "best.ckpt").read_bytes()[:5000])
    result = run_command("eval", "ckpt=cut.ckpt", cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "cut.ckpt" in result.stderr


def test_a_run_is_not_written_over_another(
    trained: Path, small: list[str], run_command: Command, tmp_path: Path
) -> None:
    result = run_command("train", *small, f"out={trained}", cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert f"resume={trained}" in result.stderr


def test_tags_and_maps_are_drawn_side_by_side() -> None:
    """Panels of different heights: the tags' strip is only below the objects."""
    space = Categories((1, 2), ("dog", "cat"))
    prediction = {
        "classification": Tags(torch.tensor([0.9, 0.2]), space=space),
        "stuff": PixelClasses(torch.zeros(40, 60, dtype=torch.uint8), space=space),
    }
    drawn = draw_prediction(np.zeros((40, 60, 3), np.uint8), prediction)
    assert drawn.shape[1] == 2 * 120
    assert drawn.shape[0] > 80


@pytest.mark.parametrize(
    ("place", "option"), [(0, "--config-dir"), (1, "-cd"), (3, "--config-dir")]
)
def test_options_may_stand_anywhere_among_overrides(
    place: int, option: str, small: list[str], run_command: Callable, tmp_path: Path
) -> None:
    """Hydra's own parser stops at an override behind an option."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    own = "# @package _global_\ndefaults:\n  - override /task: [stuff]\n"
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(own)
    arguments = ["experiment=mine", *small]
    arguments[place:place] = [option, "own"]
    done = run_command("info", *arguments, cwd=tmp_path)
    assert "head.stuff" in done.stdout


NAMES = (
    "IMG (1).jpg",
    "it's.jpg",
    "a=b.jpg",
    "a[1].jpg",
    "Größe 東京.jpg",
    "a,b c.jpg",
    "a\\b.jpg",
)


@pytest.mark.parametrize(
    ("word", "culprit", "fix"),
    [
        ("optim=nosuch", "optim=nosuch is unknown", "adamw, adamw_joint, sgd"),
        ("optim=null", "optim=null selects none", "adamw, adamw_joint, sgd"),
        ("optim=[adamw,sgd]", "names several", "unified train -m optim=adamw,sgd"),
        ("optim=adamw,null", "optim=null selects none", "adamw, adamw_joint, sgd"),
        ("optim=adamw,nosuch", "optim=nosuch is unknown", "adamw, adamw_joint, sgd"),
        ("optim='adamw','nosuch'", "optim=nosuch is unknown", "adamw, adamw_joint, sgd"),
        ("optim=[]", "optim=[] selects none", "adamw, adamw_joint, sgd"),
        ("hydra/launcher=null", "hydra/launcher=null selects none", "leave hydra/launcher out"),
        ("task=[detection,null]", "task=null is unknown", "detection"),
        ("task=null", "task=null selects none", "detection"),
        ("experiment=null", "experiment=null selects none", "leave experiment out"),
        ("ablation=[multitask,all_tasks]", "names several", "multitask"),
        ("ablation=null", "ablation=null selects none", "use one of: all_tasks"),
        ("hydra/launcher=[basic,basic]", "names several", "leave hydra/launcher out"),
    ],
)
def test_a_choice_that_there_is_not_is_refused_with_those_that_there_are(
    word: str, culprit: str, fix: str
) -> None:
    check_choices(["optim=adamw", "task=[detection,embedding]", "~optim", "optim=adamw,sgd"])
    check_choices(["optim='adamw','sgd'", "task=[detection],['detection',embedding]"])
    check_choices(["hydra/launcher=joblib"])
    check_choices(["optim=own"], more=True)
    with pytest.raises(ConfigError) as refused:
        check_choices([word])
    assert culprit in refused.value.problem
    assert fix in refused.value.fix


def test_paths_may_hold_any_characters(
    trained: Path, shapes: Path, run_command: Callable, tmp_path: Path
) -> None:
    """Hydra's grammar is not the user's business; the home folder is where `~` says."""
    photo = next((shapes / "val").glob("*.jpg"))
    for index, name in enumerate(NAMES):
        shutil.copy(photo, tmp_path / name)
        source = name if index else f"~/{name}"
        run_command(
            "predict", f"ckpt={trained}", f"source={source}", f"out=out {index} (x)", cwd=tmp_path,
            HOME=str(tmp_path),
        )  # fmt: skip
        (row,) = json.loads((tmp_path / f"out {index} (x)" / "predictions.json").read_text())
        assert Path(row["file"]).name == name


def test_a_sweep_goes_on_when_a_job_fails_and_ends_with_a_table(
    small: list[str], run_command: Callable, tmp_path: Path
) -> None:
    swept = run_command(
        "train", "-m", "task.detection.per_level=3,0", "experiment=det", *small, "trainer=smoke",
        "logger=none", "trainer.max_epochs=1", cwd=tmp_path, check=False,
    )  # fmt: skip
    assert swept.returncode == 1
    assert "task.detection.per_level=0" in swept.stderr.split("error:")[1]
    rows = swept.stdout.rsplit("detection AP", 1)[1].splitlines()
    assert any("task.detection.per_level=3" in row and "0." in row for row in rows)
    assert any("task.detection.per_level=0" in row and "failed" in row for row in rows)


def test_an_error_that_a_worker_finds_is_one_message(
    small: list[str], shapes: Path, run_command: Callable, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    victim = sorted((root / "train").glob("*.jpg"))[3]
    victim.write_bytes(victim.read_bytes()[:-300])
    refused = run_command(
        "train", *small, f"data.root={root}", "data.check=false", "data.workers=2",
        "task=[detection]", "out=run", cwd=tmp_path, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert victim.name in refused.stderr
    assert "Traceback" not in refused.stderr


def test_data_with_one_category_is_scored(
    small: list[str], shapes: Path, run_command: Callable, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        document = json.loads(file.read_text())
        document["categories"] = document["categories"][:1]
        for row in document["annotations"]:
            row["category_id"] = document["categories"][0]["id"]
        file.write_text(json.dumps(document))
    run_command("train", *small, f"data.root={root}", "trainer=smoke", "out=run", cwd=tmp_path)
    scores = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert 0 <= scores["classification"]["mAP"] <= 1
    assert scores["detection"]["APl"] is None  # there are no large objects


def test_two_runs_do_not_share_a_folder(
    small: list[str], run_command: Callable, tmp_path: Path
) -> None:
    from unified.run.folder import claimed

    with claimed(tmp_path):
        refused = run_command("train", *small, f"out={tmp_path}", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert f"another process is writing into {tmp_path}" in refused.stderr


def test_a_refused_start_leaves_no_folder(
    small: list[str], run_command: Callable, tmp_path: Path
) -> None:
    """Lightning refuses an argument when the folder is there already."""
    for out in ([], ["out=run"]):
        refused = run_command(
            "train", *small, "+trainer.no_such_argument=3", *out, cwd=tmp_path, check=False
        )
        assert refused.returncode == 2
        assert not [p for p in tmp_path.rglob("*") if p.is_file() or p.name == "run"]
    assert not list(tmp_path.glob("runs/*/*"))
