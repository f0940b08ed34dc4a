import subprocess
import sys
from pathlib import Path

import pytest

from export.errors import BuildError
from export.staging import staged
from runtime.bundle.manifest import MANIFEST
from tests.unit.helpers import ROOT, manifest, raises_line


def fill(folder: Path, text: str) -> None:
    """Make `folder` a bundle as far as staging looks."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(manifest("engine.bin"))
    (folder / "engine.bin").write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def whole(text: str) -> dict[str, str]:
    return {MANIFEST: manifest("engine.bin"), "engine.bin": text}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing_build(out: Path, failure: BaseException) -> None:
    with staged(out) as folder:
        fill(folder, "half")
        raise failure


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "engines" / "bundle"


@pytest.fixture
def earlier(out: Path) -> Path:
    """`out` with an earlier bundle in it."""
    out.mkdir(parents=True)
    fill(out, "earlier")
    return out


def test_success(out: Path) -> None:
    with staged(out) as folder:
        assert names(folder) == []
        assert folder.parent == out.parent  # one file system: the rename is atomic
        fill(folder, "new")
        assert not out.exists()
    assert content(out) == whole("new")
    assert names(out.parent) == ["bundle"]


def test_earlier_bundle_is_replaced_at_the_end(earlier: Path) -> None:
    with staged(earlier) as folder:
        fill(folder, "new")
        assert content(earlier) == whole("earlier")
    assert content(earlier) == whole("new")
    assert names(earlier.parent) == ["bundle"]


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_failure_leaves_nothing(out: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        failing_build(out, failure)
    assert names(out.parent) == []


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_failure_keeps_the_earlier_bundle(earlier: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        failing_build(earlier, failure)
    assert content(earlier) == whole("earlier")
    assert names(earlier.parent) == ["bundle"]


def test_failure_of_the_last_rename_keeps_the_earlier_bundle(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail_on_partial(self: Path, target: Path) -> Path:
        if "partial" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_partial)
    with pytest.raises(OSError, match="Input/output"), staged(earlier) as folder:
        fill(folder, "new")
    assert content(earlier) == whole("earlier")
    assert names(earlier.parent) == ["bundle"]


def test_second_build_is_refused(earlier: Path) -> None:
    with staged(earlier) as folder:
        fill(folder, "new")
        with raises_line(BuildError, str(earlier), "running"), staged(earlier):
            pytest.fail("two builds at once")
        assert content(folder) == whole("new")  # the refused one has touched nothing
        with staged(earlier.parent / "other") as other:
            fill(other, "other")
    assert content(earlier) == whole("new")
    assert content(earlier.parent / "other") == whole("other")


WITHOUT_FCNTL = "import sys, warnings; sys.modules['fcntl'] = None; warnings.simplefilter('ignore')\n"


def command(out: Path, ending: str, before: str = "") -> list[str]:
    """A process that builds at `out`; `before` is code that comes first, `ending` the code that ends the block."""
    code = (
        f"{before}import os, sys; from pathlib import Path; from export.staging import staged\n"
        f"with staged(Path(sys.argv[1])) as folder: (folder / 'half.bin').touch(); {ending}"
    )
    return [sys.executable, "-c", code, str(out)]


def build_elsewhere(out: Path, ending: str, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, ending, before), cwd=ROOT, capture_output=True, text=True)


def test_build_of_another_process_is_refused(out: Path) -> None:
    with staged(out) as folder:
        fill(folder, "new")
        done = build_elsewhere(out, "pass")
    assert done.returncode == 1
    assert "BuildError: another build of" in done.stderr
    assert content(out) == whole("new")


def test_killed_build_is_cleaned_up(earlier: Path) -> None:
    assert build_elsewhere(earlier, "os.kill(os.getpid(), 9)").returncode == -9
    assert len(names(earlier.parent)) > 1
    assert content(earlier) == whole("earlier")
    with staged(earlier) as folder:
        assert names(folder) == []
        fill(folder, "new")
    assert content(earlier) == whole("new")
    assert names(earlier.parent) == ["bundle"]


def test_build_killed_between_its_two_renames_loses_no_bundle(earlier: Path) -> None:
    ending = (
        "(folder / 'manifest.json').touch(); rename = Path.rename; "
        "Path.rename = lambda path, to: (rename(path, to), os.kill(os.getpid(), 9))"
    )
    assert build_elsewhere(earlier, ending).returncode == -9
    assert not earlier.exists()
    with pytest.raises(RuntimeError):
        failing_build(earlier, RuntimeError("no"))
    assert content(earlier) == whole("earlier")
    assert names(earlier.parent) == ["bundle"]


def test_a_later_build_cleans_up_after_a_killed_one_of_another_name(earlier: Path, tmp_path: Path) -> None:
    killed = earlier.parent / "killed"
    assert build_elsewhere(killed, "os.kill(os.getpid(), 9)").returncode == -9
    assert len(names(earlier.parent)) > 1
    with staged(earlier) as folder:
        fill(folder, "new")
        running = names(earlier.parent)
        assert build_elsewhere(earlier.parent / "third", "pass").returncode == 0  # it leaves what a living build has
        assert [name for name in names(earlier.parent) if name != "third"] == running
    assert names(earlier.parent) == ["bundle", "third"]


@pytest.mark.parametrize("suffix", [".partial", ".old", ".lock", ".partial/deep"])
def test_what_only_looks_like_a_leftover_is_left(earlier: Path, suffix: str) -> None:
    mine = earlier.parent / f".bundle{suffix}"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work")
    with staged(earlier) as folder:
        fill(folder, "new")
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_file_that_comes_during_the_build_stays(earlier: Path) -> None:
    with raises_line(BuildError, "'notes.txt'"), staged(earlier) as folder:
        fill(folder, "new")
        (earlier / "notes.txt").write_text("written while it was built")
    assert content(earlier) == whole("earlier") | {"notes.txt": "written while it was built"}
    assert names(earlier.parent) == ["bundle"]


def test_a_link_is_followed_and_stays(earlier: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(earlier)
    with staged(link) as folder:
        fill(folder, "new")
    assert link.is_symlink()
    assert content(earlier) == whole("new")
    assert names(earlier.parent) == ["bundle"]


def test_builds_are_locked_without_fcntl(earlier: Path) -> None:
    """As on systems that have none: filelock then has a lock of its own, which a killed process leaves behind."""
    ending = "(print('ready', flush=True), sys.stdin.read())"
    first = subprocess.Popen(
        command(earlier, ending, WITHOUT_FCNTL), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        second = build_elsewhere(earlier, "pass", WITHOUT_FCNTL)
        assert second.returncode == 1
        assert "BuildError: another build of" in second.stderr
        first.kill()
    assert content(earlier) == whole("earlier")
    assert len(names(earlier.parent)) > 1
    third = build_elsewhere(earlier, "(folder / 'new.bin').touch()", WITHOUT_FCNTL)
    assert third.returncode == 0, third.stderr
    assert names(earlier) == ["half.bin", "new.bin"]
    assert names(earlier.parent) == ["bundle"]


def test_empty_folder_is_taken(out: Path) -> None:
    out.mkdir(parents=True)
    with staged(out) as folder:
        fill(folder, "new")
    assert content(out) == whole("new")
    assert names(out.parent) == ["bundle"]
