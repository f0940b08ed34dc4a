"""A file appears whole or not at all, where the user's name leads to, and nothing else on the disk changes."""

import os
import resource
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.sound.whole_file import find_place, quoted, write_whole
from tests.unit.helpers import raises_line


def fresh() -> bytes:
    return secrets.token_bytes(1000)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_any_other_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a.wav", b"new")
    finally:
        assert os.umask(before) == umask  # it was never set: other threads create files too
    assert mode(tmp_path / "a.wav") == 0o666 & ~umask


@pytest.mark.parametrize("earlier", [0o600, 0o640, 0o755, 0o444, 0o666])
def test_an_earlier_files_mode_is_kept(tmp_path: Path, earlier: int) -> None:
    path, data = tmp_path / "a.wav", fresh()
    path.write_bytes(b"earlier")
    path.chmod(earlier)
    if not os.access(path, os.W_OK):
        pytest.skip("not the superuser: such a file is refused")
    write_whole(path, data)
    assert path.read_bytes() == data
    assert mode(path) == earlier


@pytest.mark.skipif(os.geteuid() != 0, reason="the superuser alone may give files away")
def test_an_earlier_files_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"earlier")
    os.chown(path, 12345, 54321)
    path.chmod(0o4750)
    write_whole(path, fresh())
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (12345, 54321, 0o4750)


def test_who_may_not_give_files_away_still_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chown(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path, data = tmp_path / "a.wav", fresh()
    path.write_bytes(b"earlier")
    path.chmod(0o600)
    monkeypatch.setattr(os, "chown", chown)
    write_whole(path, data)
    assert (path.read_bytes(), mode(path)) == (data, 0o600)


@pytest.mark.parametrize("target", ["earlier", "dangling", "chain", "folder"])
def test_links_are_followed_and_stay_links(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").mkdir()
    place, link, data = tmp_path / "there/b.wav", tmp_path / "a.wav", fresh()
    if target != "dangling":
        place.write_bytes(b"earlier")
        place.chmod(0o600)
    if target == "folder":
        (tmp_path / "way").symlink_to("there")
        link = tmp_path / "way/b.wav"
    elif target == "chain":
        (tmp_path / "middle").symlink_to("there/b.wav")
        link.symlink_to(tmp_path / "middle")
    else:
        link.symlink_to("there/b.wav")
    names = sorted(path for path in tmp_path.rglob("*") if path != place)
    links = {path: path.readlink() for path in names if path.is_symlink()}
    assert find_place(link) == place
    write_whole(link, data)
    assert place.read_bytes() == data
    assert not place.is_symlink()
    assert {path: path.readlink() for path in names if path.is_symlink()} == links
    assert sorted(path for path in tmp_path.rglob("*") if path != place) == names
    if target != "dangling":
        assert mode(place) == 0o600


def test_another_hard_link_keeps_the_earlier_content_whole(tmp_path: Path) -> None:
    path, other, data = tmp_path / "a.wav", tmp_path / "b.wav", fresh()
    other.write_bytes(b"earlier")
    path.hardlink_to(other)
    write_whole(path, data)
    assert (path.read_bytes(), other.read_bytes()) == (data, b"earlier")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/null")


def make_link_to_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "fifo")
    path.symlink_to("fifo")


def make_loop(path: Path) -> None:
    path.symlink_to("b.wav")
    (path.parent / "b.wav").symlink_to(path)


def make_link_into_nowhere(path: Path) -> None:
    path.symlink_to("missing/b.wav")


def make_link_to_folder(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (Path.mkdir, "is a folder"),
        (make_link_to_folder, "is a folder"),
        (make_fifo, "pipe"),
        (make_socket, "socket"),
        (make_link_to_device, "device"),
        (make_link_to_fifo, "pipe"),
        (make_loop, "cannot be used: too many levels of symbolic links"),
        (make_link_into_nowhere, "does not exist"),
    ],
)
def test_what_is_no_file_is_refused_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object, fragment: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name may not be long
    make(Path("a.wav") if make is make_socket else tmp_path / "a.wav")  # type: ignore[operator]
    before = {path: path.lstat() for path in tmp_path.iterdir()}
    for act in (find_place, lambda path: write_whole(path, b"new")):
        with raises_line(InputError, f"output '{tmp_path / 'a.wav'}'", fragment):
            act(tmp_path / "a.wav")
    after = {path: path.lstat() for path in tmp_path.iterdir()}
    assert {path: (s.st_mode, s.st_ino) for path, s in after.items()} == {
        path: (s.st_mode, s.st_ino) for path, s in before.items()
    }


@pytest.mark.parametrize("name", ["/dev/full.wav", "/proc/a.wav", "/sys/a.wav", "/proc/self/fd/../../a.wav"])
def test_the_systems_own_folders_take_no_files(name: str) -> None:
    with raises_line(InputError, name, "the system's own"):
        write_whole(name, b"new")
    assert not Path(name).exists()


def test_a_link_does_not_lead_into_the_systems_folders(tmp_path: Path) -> None:
    name = f"/dev/{secrets.token_hex(8)}.wav"
    (tmp_path / "a.wav").symlink_to(name)
    with raises_line(InputError, "the system's own"):
        write_whole(tmp_path / "a.wav", b"new")
    assert not Path(name).exists()


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("n" * 300 + ".wav", "cannot be used: file name too long"),
        ("nul\0byte.wav", "cannot be used"),
        ("file/a.wav", "does not exist"),
        ("missing/a.wav", "does not exist"),
    ],
)
def test_names_that_lead_nowhere(tmp_path: Path, name: str, fragment: str) -> None:
    (tmp_path / "file").write_text("text")
    with raises_line(InputError, "output", fragment):
        find_place(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["n" * 251 + ".wav", "\u00fc" * 125 + ".wav", "\udcff\n\t.wav", ".partial-.wav", " .wav", "\U0001f3b5.wav"]
)
def test_every_name_that_the_system_takes(tmp_path: Path, name: str) -> None:
    data = fresh()
    write_whole(tmp_path / name, data)
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [os.fsencode(name)]
    assert (tmp_path / name).read_bytes() == data


@pytest.mark.parametrize("denied", ["folder", "file"])
def test_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"earlier")

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    if denied == "folder":  # the superuser is never denied: stand in for the system
        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    else:
        monkeypatch.setattr(os, "access", lambda asked, _: asked != path)
    with raises_line(InputError, str(path), "not writable"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize("at", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"]
)
@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_a_failure_midway_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, failure: BaseException, earlier: bytes | None
) -> None:
    path = tmp_path / "a.wav"
    if earlier is not None:
        path.write_bytes(earlier)

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os if at == "fsync" else Path, at, fail)
    if at == "chmod" and earlier is None:
        write_whole(path, b"new")  # a new file's mode is the kernel's
        assert path.read_bytes() == b"new"
        return
    if isinstance(failure, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"new")
    else:
        with raises_line(InputError, str(path), "could not be written: no space left on device"):
            write_whole(path, b"new")
    left = {found.name: found.read_bytes() for found in tmp_path.iterdir()}
    assert left == ({} if earlier is None else {"a.wav": earlier})


def test_a_limit_of_the_system_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"earlier")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with raises_line(InputError, str(path), "could not be written: file too large"):
            write_whole(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == {"a.wav": b"earlier"}


def test_nobody_reads_the_new_bytes_of_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a.wav", []
    path.write_bytes(b"earlier")
    path.chmod(0o600)
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode)))
    write_whole(path, b"secret")
    assert seen == [0o600]


def test_many_writers_of_one_place_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=write_whole, args=(tmp_path / "a.wav", data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() in contents


def test_what_a_kill_leaves_behind_harms_no_later_run(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from runtime.sound.whole_file import write_whole\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(sys.argv[1], b'new')"
    )
    path = tmp_path / "a.wav"
    path.write_bytes(b"earlier")
    killed = subprocess.run([sys.executable, "-c", program, path], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"earlier"
    (partial,) = (found for found in tmp_path.iterdir() if found != path)
    assert partial.name.startswith(".partial-")
    data = fresh()
    write_whole(path, data)
    assert path.read_bytes() == data


def test_a_quoted_name_is_one_printable_line() -> None:
    assert quoted(Path("f\u00fcnf \u5b57.wav")) == "'f\u00fcnf \u5b57.wav'"
    assert quoted("a\nb\x1b\udcff.wav") == "'a\\nb\\x1b\\udcff.wav'"
