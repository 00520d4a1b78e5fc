"""Files are whole or absent, names are given once, and what the system refuses becomes a sentence."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stillmotion import files
from stillmotion.errors import StillmotionError, UsageError

NOBODY = 65534
FORK = multiprocessing.get_context("fork")


def _write(path: Path, data: bytes = b"new", overwrite: bool = True) -> None:
    with files.atomic_path(path, overwrite) as temporary:
        temporary.write_bytes(data)


def _write_folder(path: Path, data: bytes, overwrite: bool = True) -> None:
    with files.atomic_path(path, overwrite) as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "a").write_bytes(data)


def test_a_file_appears_whole_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "a.mp4"
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".mp4"
    assert path.read_bytes() == b"half"
    assert os.listdir(path.parent) == ["a.mp4"]


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_overwrite_off_keeps_what_appeared_in_the_meantime(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(UsageError, match="already exists"), files.atomic_path(path, overwrite=False) as temporary:
        temporary.write_text("mine")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["a.txt"]
    _write(path, b"mine")
    assert path.read_text() == "mine"


def test_folders_are_whole_or_absent_too(tmp_path):
    path = tmp_path / "folder"
    _write_folder(path, b"first")
    with pytest.raises(UsageError, match="already exists"):
        _write_folder(path, b"second", overwrite=False)
    assert (path / "deep" / "a").read_bytes() == b"first"
    (path / "stale").touch()
    _write_folder(path, b"second")
    assert (path / "deep" / "a").read_bytes() == b"second"
    assert os.listdir(path) == ["deep"]
    assert os.listdir(tmp_path) == ["folder"]


def test_a_block_that_writes_nothing_gives_a_sentence(tmp_path):
    with pytest.raises(StillmotionError), files.atomic_path(tmp_path / "a"):
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_gives_a_sentence_and_keeps_the_old_file(tmp_path, old):
    path = tmp_path / "a.bin"
    if old:
        path.write_bytes(old)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StillmotionError, match=r"disk is full.*nothing was left behind\.$"):
            _write(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([old] if old else [])


def _as_nobody(action: Callable[[], object]) -> str:
    """What `action` raises in a child process that is not root: the name of its class, and the message."""
    receiver, sender = FORK.Pipe(duplex=False)

    def child() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            action()
            sender.send("nothing")
        except BaseException as error:
            sender.send(f"{type(error).__name__}: {error}")

    process = FORK.Process(target=child)
    process.start()
    said = receiver.recv() if receiver.poll(20) else "the child said nothing"
    process.join(20)
    return said


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_folder_that_may_be_written_but_not_read_takes_a_file():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name) / "blind"
        folder.mkdir(mode=0o300)
        os.chown(folder, NOBODY, NOBODY)
        assert _as_nobody(lambda: _write(folder / "a.txt", b"new")) == "nothing"
        assert (folder / "a.txt").read_bytes() == b"new" and os.listdir(folder) == ["a.txt"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("mode", [0o755, 0o700, 0o644])
def test_a_folder_that_this_user_may_not_write_gives_a_sentence(mode):
    # Not tmp_path: pytest makes its parents unreadable for other users.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name) / "theirs"
        folder.mkdir(mode=mode)
        (folder / "a.txt").write_text("old")
        os.chmod(folder, mode)
        actions = [
            lambda: _write(folder / "a.txt"),
            lambda: _write(folder / "b" / "c.txt"),
            lambda: files.check_writable(folder),
            lambda: files.check_writable(folder / "b"),
        ]
        for action in actions:
            said = _as_nobody(action)
            assert said.startswith("StillmotionError: "), said
            assert "this user may not write there" in said
        assert os.listdir(folder) == ["a.txt"]


def test_a_parent_that_is_a_file_gives_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file; expected the name of a folder"):
        files.check_writable(tmp_path / "file" / "a")
    for action in (_write, files.check_writable):
        with pytest.raises(StillmotionError, match="cannot be written"):
            action(tmp_path / "file" / "a")


def test_checking_a_folder_makes_nothing(tmp_path):
    files.check_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path) == []


WRITER = """
import sys
from pathlib import Path
from stillmotion import files
from stillmotion.errors import UsageError
folder, mark, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    try:
        with files.atomic_path(folder / f"cat-{number}.mp4", overwrite=False) as temporary:
            temporary.write_text(f"{mark} {number}")
        print(f"cat-{number}.mp4")
    except UsageError:
        pass
"""


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    # A fresh interpreter: a fork of one with torch's threads may hang.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_processes_that_want_one_name_exactly_one_gets_it(tmp_path):
    count, rounds = 3, 40
    processes = [_start(WRITER, str(tmp_path), str(mark), str(rounds)) for mark in range(count)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    given = [process.communicate(timeout=30)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    assert sorted(name for names in given for name in names) == sorted(os.listdir(tmp_path))
    assert len(os.listdir(tmp_path)) == rounds
    for mark, names in enumerate(given):
        for name in names:
            assert (tmp_path / name).read_text() == f"{mark} {name.removeprefix('cat-').removesuffix('.mp4')}"


def test_a_process_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from stillmotion import files\n"
        "with files.atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = _start(code, str(path))
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").touch()
    _write(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_without_hard_links_takes_files_too(tmp_path, monkeypatch, code):
    def no_link(source, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_link)
    target = tmp_path / "video.mp4"
    with files.atomic_path(target, overwrite=False) as path:
        path.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    with pytest.raises(UsageError, match="already exists"), files.atomic_path(target, overwrite=False) as path:
        path.write_bytes(b"other")
    assert target.read_bytes() == b"whole" and [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_a_name_as_long_as_the_disk_takes_is_taken(tmp_path):
    target = tmp_path / ("猫" * 83 + ".mp4")
    with files.atomic_path(target, overwrite=False) as path:
        path.write_bytes(b"x")
    assert target.exists()


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".0123abcd.part.tar", ".0123abcd.part", ".hidden", ".my.part.tar", "film.part.mp4"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".89abcdef.part").mkdir()
    files.remove_parts([tmp_path, tmp_path / "nowhere"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".my.part.tar", "film.part.mp4"]
