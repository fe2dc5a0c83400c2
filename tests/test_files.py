"""Files are read if they are some, written whole or not at all, and kept apart."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from unified.errors import DataError, OutputError
from unified.files import locked, made, read_file, refuse_links_out, whole


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        read_file(tmp_path / "pipe")


def test_links_that_lead_out_of_their_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").touch()
    inside = tmp_path / "inside"
    (inside / "own").mkdir(parents=True)
    (inside / "own" / "a.jpg").touch()
    (inside / "b.jpg").symlink_to(inside / "own" / "a.jpg")
    linked = tmp_path / "linked"
    linked.symlink_to(inside)  # where a folder is, is the user's decision
    refuse_links_out([linked / "b.jpg", linked / "own" / "a.jpg"], linked, "fix")
    (inside / "c.jpg").symlink_to(tmp_path / "picture.jpg")
    (inside / "away").symlink_to(tmp_path)
    for name in ("c.jpg", "away/picture.jpg"):
        with pytest.raises(DataError, match="leads out"):
            refuse_links_out([inside / name], inside, "fix")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), RuntimeError("else")])
def test_what_is_not_written_whole_leaves_the_previous_file(
    error: Exception, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    expected = OutputError if isinstance(error, OSError) else RuntimeError

    def write() -> None:
        with whole(file) as stream:
            stream.write("half of it")
            raise error

    with pytest.raises(expected):
        write()
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "before"
    with whole(file) as stream:
        stream.write("after")
    assert file.read_text() == "after"


def test_a_disk_that_is_full_leaves_the_previous_file(tmp_path: Path) -> None:
    """In a process that may not write files of more than a block."""
    code = "from pathlib import Path; from unified.files import whole\n"
    code += "with whole(Path('file')) as stream: stream.write('x' * 100_000)"
    (tmp_path / "file").write_text("before")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
    )  # fmt: skip
    assert "OutputError: file cannot be written: File too large" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    code = "from pathlib import Path; from unified.files import locked\n"
    code += "with locked(Path('.lock'), wait=False) as held: print(held)"
    with locked(file, wait=False) as held:
        assert held
        other = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert other.stdout == "False\n"
        assert file.exists()  # it is not the other's to remove
    assert not file.exists()


def test_a_lock_takes_nothing_from_anybody(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine")
    with locked(tmp_path / "own", wait=False) as held:
        assert held
    assert (tmp_path / "own").read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "own")
    with (
        pytest.raises(OutputError, match="link cannot be written"),
        locked(tmp_path / "link", wait=False),
    ):
        pass
    os.mkfifo(tmp_path / "pipe")
    with locked(tmp_path / "pipe", wait=False):  # which nobody reads
        pass
    assert (tmp_path / "own").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/folder cannot be written: Not a directory"):
        made(tmp_path / "file" / "folder")
