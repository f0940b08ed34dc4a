import subprocess
import sys
from pathlib import Path

import pytest

from export.errors import BuildError
from export.staging import staged
from runtime.bundle.manifest import MANIFEST
from tests.unit.helpers import ROOT, raises_line


def fill(folder: Path, text: str) -> None:
    """Make `folder` a bundle as far as staging looks."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(text)
    (folder / "engine.bin").write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def whole(text: str) -> dict[str, str]:
    return {MANIFEST: text, "engine.bin": text}


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
    (earlier / "stale.bin").touch()
    with staged(earlier) as folder:
        fill(folder, "new")
        assert content(earlier) == whole("earlier") | {"stale.bin": ""}
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
        if self.name.endswith(".partial"):
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


def build_elsewhere(out: Path, ending: str) -> subprocess.CompletedProcess[str]:
    """Build in another process; `ending` is the code that ends the block."""
    code = (
        "import os, sys; from pathlib import Path; from export.staging import staged\n"
        f"with staged(Path(sys.argv[1])) as folder: (folder / 'half.bin').touch(); {ending}"
    )
    return subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, capture_output=True, text=True)


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


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_target_that_is_no_bundle(out: Path, kind: str) -> None:
    out.parent.mkdir()
    precious = out
    if kind == "folder":
        out.mkdir()
        precious = out / "thesis.txt"
    precious.write_text("years of work")
    with raises_line(BuildError, str(out), "no bundle", "--out"), staged(out):
        pytest.fail("not refused")
    assert precious.read_text() == "years of work"
    assert names(out.parent) == ["bundle"]


def test_empty_folder_is_taken(out: Path) -> None:
    out.mkdir(parents=True)
    with staged(out) as folder:
        fill(folder, "new")
    assert content(out) == whole("new")
    assert names(out.parent) == ["bundle"]


def test_parent_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with raises_line(BuildError, str(tmp_path / "file"), "cannot be made"), staged(tmp_path / "file" / "bundle"):
        pytest.fail("not refused")
    with raises_line(BuildError, str(tmp_path / "file"), "cannot be made"), staged(tmp_path / "file" / "a" / "bundle"):
        pytest.fail("not refused")
