"""Files are data: nothing that a file names is executed unless the user says so."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from unified.errors import ConfigError, DataError
from unified.inference import load
from unified.trust import refuse_foreign

Command = Callable[..., subprocess.CompletedProcess[str]]
PLACES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "task": lambda c: c["task"]["detection"].update(_target_="evil.Run"),
    "trunk": lambda c: c["trunk"].update(_target_="evil.Run"),
    "decoder": lambda c: c["implicit"]["decoder"].update(_target_="evil.Run"),
    "source": lambda c: c["data"]["sources"].update(objects="evil.Run"),
    "source with options": lambda c: c["data"]["sources"].update(objects={"_target_": "evil.Run"}),
    "derived": lambda c: c["data"]["derived"].update(objects="evil.Run"),
    "logger": lambda c: c.update(logger={"_target_": "evil.Run"}),
    "nested": lambda c: c.update(logger={"_target_": "unified.x", "a": [{"_target_": "evil.Run"}]}),
}
EVIL = """
from pathlib import Path
Path("executed").touch()
Run = print
"""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["predict", "eval", "info", "train"])
def test_a_file_that_names_a_foreign_class_executes_nothing(
    command: str, place: str, trained: Path, run_command: Command, tmp_path: Path
) -> None:
    """Importing executes, so it is refused before."""
    (tmp_path / "evil.py").write_text(EVIL)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    if command == "train":
        config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        PLACES[place](config)
        OmegaConf.save(OmegaConf.create(config), run / "config.yaml")
        arguments = ["train", "resume=run"]
    else:
        state = torch.load(run / "best.ckpt", weights_only=True)
        PLACES[place](state["unified"]["config"])
        torch.save(state, run / "best.ckpt")
        arguments = [command, "ckpt=run/best.ckpt", *(["source=run"] * (command == "predict"))]
    refused = run_command(*arguments, cwd=tmp_path, check=False, PYTHONPATH=str(tmp_path))
    assert refused.returncode == 2, refused.stderr
    assert "evil.Run" in refused.stderr
    assert "trust=[evil]" in refused.stderr
    assert not (tmp_path / "executed").exists()


def test_what_the_user_trusts_is_built(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_of_trust.py").write_text("from tasks.detection import Detection as Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    state = torch.load(trained / "best.ckpt", weights_only=True)
    state["unified"]["config"]["task"]["detection"]["_target_"] = "mine_of_trust.Mine"
    torch.save(state, tmp_path / "net.ckpt")
    with pytest.raises(ConfigError, match=r"trust=\[mine_of_trust\]"):
        load(tmp_path / "net.ckpt")
    assert "detection" in load(tmp_path / "net.ckpt", trust=["mine_of_trust"]).model.named_tasks()


def test_what_weights_were_told_is_data(
    trained: Path, small: list[str], run_command: Command, tmp_path: Path
) -> None:
    state = torch.load(trained / "best.ckpt", weights_only=True)
    state["unified"]["config"]["task"]["detection"]["anchors"] = [[["${oc.env:HOME}", 1]]]
    torch.save(state, tmp_path / "net.ckpt")
    refused = run_command(
        "train", *small, "weights=net.ckpt", "trainer=smoke", "out=run", cwd=tmp_path, check=False
    )
    assert refused.returncode == 2, refused.stderr
    assert "${oc.env:HOME}, which would be replaced by a value of this machine" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_name_that_only_begins_alike_is_foreign() -> None:
    refuse_foreign("x", {"trunk": {"_target_": "unified.trunks.csp.CSPTrunk"}}, [])
    for name in ("unified_evil.Run", "tasksx.Run", "lightning.pytorch.callbacks.X"):
        with pytest.raises(ConfigError, match="names trunk"):
            refuse_foreign("x", {"trunk": {"_target_": name}}, [])
    with pytest.raises(ConfigError, match="value of this machine"):
        refuse_foreign("x", {"name": "${oc.env:HOME}"}, [])


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_checkpoint_with_one_wrong_byte_is_refused(
    place: float, trained: Path, tmp_path: Path
) -> None:
    data = bytearray((trained / "best.ckpt").read_bytes())
    data[int(place * len(data))] ^= 1
    (tmp_path / "net.ckpt").write_bytes(bytes(data))
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "net.ckpt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("state_dict"), "incomplete: 'state_dict'"),
        (lambda s: s["unified"].pop("spaces"), "incomplete"),
        (lambda s: s["unified"]["spaces"]["objects"].update(names=["a"]), "differ in number"),
        (lambda s: s["unified"]["spaces"]["objects"].update(ids=["a"]), "objects space is damaged"),
        (lambda s: next(iter(s["state_dict"].values())).fill_(float("nan")), "not finite"),
        (lambda s: s["unified"]["config"]["trunk"].update(widths=[10**6] * 5), "cannot be built"),
    ],
)
def test_an_incomplete_checkpoint_says_what_it_lacks(
    change: Callable[[dict[str, Any]], Any], said: str, trained: Path, tmp_path: Path
) -> None:
    state = torch.load(trained / "best.ckpt", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "net.ckpt")
    with pytest.raises((DataError, ConfigError), match=said):
        load(tmp_path / "net.ckpt")


def test_a_module_that_a_trusted_one_imports_is_not_reached(
    trained: Path, run_command: Command, tmp_path: Path
) -> None:
    """What a class gets is data: a dictionary that names another class is not built."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    inner = {"_target_": "unified.cli.os.system", "_args_": ["touch executed"]}
    for logger in (inner, {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": inner}):
        OmegaConf.save(OmegaConf.create(config | {"logger": logger}), run / "config.yaml")
        arguments = ("train", "resume=run", "trainer.max_epochs=3")
        refused = run_command(*arguments, cwd=tmp_path, check=False)
        assert refused.returncode == 2
        assert "error: logger." in refused.stderr
        assert not list(tmp_path.rglob("executed"))


ELSEWHERE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "data": (
        lambda c: c["data"].update(
            root="../outside/data", shapes={"train": 4, "val": 2, "size": 64}
        ),
        "data.root",
    ),
    "profiler": (lambda c: c["trainer"].update(profiler="pytorch"), "trainer.profiler"),
    "root": (
        lambda c: c["trainer"].update(default_root_dir="../outside"), "trainer.default_root_dir",
    ),
    "logger": (
        lambda c: c.update(
            logger={"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "../outside"}
        ),
        "logger.name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_file_does_not_choose_where_is_written(
    place: str, trained: Path, run_command: Command, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained, home / "run")
    file = home / "run" / "config.yaml"
    config = OmegaConf.to_container(OmegaConf.load(file))
    change, key = ELSEWHERE[place]
    change(config)
    OmegaConf.save(OmegaConf.create(config), file)
    arguments = ["train", "resume=run", "trainer.max_epochs=3"]
    refused = run_command(*arguments, cwd=home, check=False)
    assert refused.returncode == 2
    assert key in refused.stderr
    assert f"trust=[{key}]" in refused.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["home"]
    if place == "logger":  # what the user says again is the user's decision
        run_command(*arguments, f"trust=[{key}]", cwd=home)
        assert any(p.name == "outside" for p in home.iterdir())


def test_loggers_that_send_need_trust() -> None:
    target = "lightning.pytorch.loggers.WandbLogger"
    with pytest.raises(ConfigError, match="WandbLogger"):
        refuse_foreign("file", {"logger": {"_target_": target}})
    refuse_foreign("file", {"logger": {"_target_": target}}, trust=target)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: torch.zeros(1).expand(t.shape),
        lambda t: torch.zeros(1).expand(10**10),
        lambda t: t.to("meta"),
        lambda t: t.to_sparse(),
        lambda t: t.to(torch.complex64),
    ],
    ids=["repeated", "huge", "meta", "sparse", "complex"],
)
def test_tensors_are_plain_numbers_that_the_file_holds(
    change: Callable, trained: Path, tmp_path: Path
) -> None:
    state = torch.load(trained / "best.ckpt", weights_only=True)
    name = next(n for n, t in state["state_dict"].items() if t.ndim == 4)
    state["state_dict"][name] = change(state["state_dict"][name])
    torch.save(state, tmp_path / "net.ckpt")
    with pytest.raises(DataError, match=r"net\.ckpt"):
        load(tmp_path / "net.ckpt")


def test_a_compressed_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    """What is small on disk may be anything in memory."""
    with zipfile.ZipFile(trained / "best.ckpt") as whole:
        parts = {info.filename: whole.read(info) for info in whole.infolist()}
    with zipfile.ZipFile(tmp_path / "net.ckpt", "w", zipfile.ZIP_DEFLATED) as small:
        for name, data in parts.items():
            small.writestr(name, data)
    with pytest.raises(DataError, match="is compressed"):
        load(tmp_path / "net.ckpt")
