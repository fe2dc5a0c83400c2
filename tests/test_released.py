"""The released detectors: their files become checkpoints of ours, with the authors' outputs.

`shared/official` has the names of the released tensors, a rule that fills them with numbers, and
what the authors' networks then give; its README tells the rule.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Command
from omegaconf import OmegaConf
from torchvision.ops import box_convert

from unified.checkpoint import config_of
from unified.errors import ConfigError, DataError
from unified.model import UnifiedModel
from unified.ops.dense import Cells
from unified.released import read_released
from unified.run.importer import converted
from unified.weights import rebuild

OFFICIAL = ROOT.parent / "shared" / "official"
MODELS = {"yolov4_csp": 64, "yolor_csp": 64, "yolor_csp_x": 64, "yolor_p6": 128, "yolor_w6": 128}
"""Name → side in pixels of the input whose outputs are there."""
pytestmark = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official outputs are not beside this checkout"
)


def filled(name: str, shape: list[int], operator: str = "") -> torch.Tensor:
    """What the rule gives for a tensor."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    normal = rng.standard_normal(shape).astype(np.float32)
    uniform = rng.random(shape).astype(np.float32)
    if name.endswith("running_var"):
        value = 0.5 + uniform
    elif name.endswith("implicit"):
        value = 0.2 * normal + (operator == "mul")
    elif len(shape) == 4:
        value = normal * np.float32(np.sqrt(1.7 / np.prod(shape[1:])))
    elif name.endswith("weight"):
        value = 0.75 + 0.5 * uniform
    else:
        value = 0.1 * normal
    return torch.from_numpy(value)


def names(model: str) -> list[list[Any]]:
    return json.loads((OFFICIAL / f"{model}.json").read_text())


def save(file: Path, tensors: Any, **more: Any) -> Path:
    """As the authors save."""
    about = {
        "epoch": -1,
        "best_fitness": np.float64(0.49),
        "training_results": "",
        "optimizer": None,
    }
    torch.save({"model": tensors, **about, **more}, file)
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Model → its file, which is made once."""
    folder = tmp_path_factory.mktemp("released")

    def made(model: str) -> Path:
        path = folder / f"{model}.pt"
        if not path.is_file():
            save(path, {entry[0]: filled(*entry) for entry in names(model)})
        return path

    return made


@pytest.mark.parametrize("name", MODELS)
def test_it_gives_the_authors_outputs(name: str, file: Callable, tmp_path: Path) -> None:
    """Raw and decoded, to a millionth of the largest; the model is recognised by its tensors."""
    state = converted(file(name))
    assert state["unified"]["config"]["name"] == name
    model, _ = rebuild(state, config_of("", state))
    size = MODELS[name]
    official = np.load(OFFICIAL / f"{name}-{size}px.npz")
    image = np.random.default_rng(2105).random((1, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        outputs = model(torch.from_numpy(image))["detection"]
    for level, ours in outputs.items():
        theirs = torch.from_numpy(official[level])
        assert distance(ours, theirs) < 1e-5, level
    assert distance(decoded(model, outputs), torch.from_numpy(official["decoded"][0])) < 1e-5


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Of the largest output."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def decoded(model: UnifiedModel, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """(N, 5 + classes) as the authors write it: centre and size in pixels, then probabilities."""
    (dense,) = model.named_tasks()["detection"].shares(outputs)
    rows = []
    for level, raw in enumerate(dense.raw.values()):
        _, *shape, _ = raw.shape
        anchor, y, x = (
            i.flatten() for i in torch.meshgrid(*map(torch.arange, shape), indexing="ij")
        )
        at = (torch.zeros_like(x), torch.full_like(x, level), anchor, y, x)
        flat = raw.flatten(0, 3)
        boxes = box_convert(dense.decode(flat, Cells(*at, tuple(dense.raw))), "xyxy", "cxcywh")
        rows.append(torch.cat([boxes, flat[:, 4:].sigmoid()], 1))
    return torch.cat(rows)


def test_from_the_file_to_a_picture_to_scores_and_to_a_joint_run(
    file: Callable, coco_mini: Path, run_command: Command, tmp_path: Path
) -> None:
    photo = sorted((coco_mini / "val2017").glob("*.jpg"))[0]
    data = ("data=coco", f"data.root={coco_mini}", "data.check=false", "data.workers=0")
    small = ("data.image_size=64", "trainer.limit_val_batches=1", "data.batch_size=2")
    said = run_command("import", f"weights={file('yolor_csp')}", "out=csp", cwd=tmp_path)
    assert "yolor_csp" in said.stdout
    run_command(
        "predict", "ckpt=csp", f"source={photo}", "out=found", "min_score=0.01", cwd=tmp_path
    )
    assert (tmp_path / "found" / photo.name).is_file()
    (said_of,) = json.loads((tmp_path / "found" / "predictions.json").read_text())
    truth = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    found = {one["category"] for one in said_of["detection"]}
    assert found
    assert found <= {category["name"] for category in truth["categories"]}
    run_command("eval", "ckpt=csp", *data, *small, "out=scores", cwd=tmp_path)
    joint = run_command(
        "train", "weights=csp", "trunk=yolor_csp", "task=[detection,instance]", *data, *small,
        "trainer=smoke", "logger=none", "out=joint", cwd=tmp_path,
    )  # fmt: skip
    assert "tasks.instance.head" in joint.stdout
    config = OmegaConf.load(tmp_path / "joint" / "config.yaml")
    assert config.task.detection.anchors[0][0] == [12, 16], "what the weights were trained with"


def test_other_classes_have_the_names_of_a_file(file: Callable, tmp_path: Path) -> None:
    """As of a detector that somebody has trained with the authors' programs."""
    tensors = read_released(file("yolor_csp"))
    few = {n: t[:21] if t.shape[:1] == (255,) else t for n, t in tensors.items()}
    few = {n: t[:, :21] if t.shape == (1, 255, 1, 1) else t for n, t in few.items()}
    own = save(tmp_path / "own.pt", few)
    (tmp_path / "own.names").write_text("cat\n\n dog \n")
    space = converted(own, names=tmp_path / "own.names")["unified"]["spaces"]["objects"]
    assert space == {"ids": (1, 2), "names": ("cat", "dog"), "identified": False}
    for names, said in (
        (None, "2 classes, which are not COCO's 80"),
        (own, "cannot be read"),
        (tmp_path / "nowhere", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=said):
            converted(own, names=names)
    with pytest.raises(ConfigError, match="2 names, the file knows 80"):
        converted(file("yolor_csp"), names=tmp_path / "own.names")


def test_a_model_that_is_named_is_the_one_that_is_read(file: Callable) -> None:
    with pytest.raises(DataError, match=r"no released model.* yolor_p6: module_list"):
        converted(file("yolor_csp"), trunk="yolor_p6")
    with pytest.raises(ConfigError, match="trunk=tiny was not released"):
        converted(file("yolor_csp"), trunk="tiny")
    state = converted(file("yolor_csp"), overrides=["task.detection.nms_iou=0.5"])
    assert state["unified"]["config"]["task"]["detection"]["nms_iou"] == 0.5


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numbers_of_either_numpy_are_read(core: str, tmp_path: Path) -> None:
    """Files of 2021 name the module that was renamed since."""
    own = np.float64(0).__reduce__()[0].__module__.removesuffix(".multiarray").encode()
    written = save(tmp_path / "written.pt", {"module_list.0.Conv2d.weight": torch.ones(1, 1, 1, 1)})
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(tmp_path / "old.pt", "w") as new:
        for part in old.infolist():
            new.writestr(part, old.read(part).replace(b"c" + own + b".", f"c{core}.".encode()))
    assert list(read_released(tmp_path / "old.pt")) == ["module_list.0.Conv2d.weight"]


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("module_list.17.Conv2d.weight"), r"yolor_csp: module_list\.17\.BatchN"),
        (lambda t: t.update({"module_list.900.Conv2d.weight": torch.ones(1)}), "besides"),
        (lambda t: t.update({"module_list.2.Conv2d.weight": torch.ones(1, 2)}), r"weight \[1, 2\]"),
        (lambda t: t.update({"head.weight": torch.ones(1)}), "head.weight is of no layer"),
        (lambda t: t.clear(), "no tensors"),
        (lambda t: t["module_list.0.Conv2d.weight"].fill_(torch.nan), "0.Conv2d.weight is not fin"),
        (lambda t: t.update({"module_list.185.Conv2d.bias": torch.tensor(1.0)}), "not those of"),
        (lambda t: t.update({f"module_list.{'9' * 5000}.x": torch.ones(1)}), "is of no layer"),
        (lambda t: t.update(a=Evil()), "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_what_is_missing(
    damage: Callable, message: str, file: Callable, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    tensors = read_released(file("yolor_csp"))
    damage(tensors)
    with pytest.raises(DataError, match=message):
        converted(save(tmp_path / "damaged.pt", tensors))
    assert "executed" not in capfd.readouterr().out
