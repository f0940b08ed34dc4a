"""Where a build may write: what a user keeps in a folder is never lost."""

import json
import os
from pathlib import Path

import pytest

from export.destination import resolve_destination
from export.errors import BuildError
from export.staging import staged
from runtime.bundle.manifest import MANIFEST, SCHEMA
from tests.unit.helpers import manifest, raises_line


def make_bundle(folder: Path, *files: str, schema: int = SCHEMA) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("engine")
    (folder / MANIFEST).write_text(manifest(*files, schema=schema))
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def refuses(out: Path | str, *words: str) -> None:
    for attempt in (resolve_destination, lambda path: staged(path).__enter__()):
        with raises_line(BuildError, "--out", *words):
            attempt(Path(out))


@pytest.mark.parametrize("schema", [*range(1, SCHEMA + 2)])
def test_a_bundle_of_any_schema_is_replaced(tmp_path: Path, schema: int) -> None:
    out = make_bundle(tmp_path / "bundle", "unet.onnx", "unet.onnx.data", "deep/er/vae.onnx", schema=schema)
    assert resolve_destination(out) == out
    with staged(out) as folder:
        (folder / "new.bin").touch()
    assert list(tree(out)) == ["new.bin"]


OTHERS = {  # manifests of other programs
    "a web project": {"name": "My page", "short_name": "page", "icons": [], "manifest_version": 3},
    "a list": [1, 2],
    "a number": 3,
    "a schema alone": {"schema": SCHEMA},
    "no engines": {**json.loads(manifest("x")), "engines": {}},
    "engines of another kind": {**json.loads(manifest("x")), "engines": {"v8": {"version": "12"}}},
    "engines as a list": {**json.loads(manifest("x")), "engines": ["node"]},
    "a checkpoint of another kind": {**json.loads(manifest("x")), "checkpoint": "epoch-3"},
    "a schema of another kind": {**json.loads(manifest("x")), "schema": "https://json.schemastore.org/web"},
    "a schema that is a bool": {**json.loads(manifest("x")), "schema": True},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_with_another_programs_manifest_is_not_touched(tmp_path: Path, name: str) -> None:
    out = tmp_path / "site"
    (out / "src").mkdir(parents=True)
    (out / ".git").mkdir()
    (out / "src" / "app.js").write_text("years of work")
    (out / MANIFEST).write_text(json.dumps(OTHERS[name]))
    before = tree(tmp_path)
    refuses(out, "is no bundle")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"schema": 3'])
def test_a_manifest_that_cannot_be_read_is_no_bundle(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(text)
    refuses(tmp_path, "is no bundle")
    assert (tmp_path / MANIFEST).read_bytes() == text


def test_a_pipe_as_manifest_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MANIFEST)
    refuses(tmp_path, "is no bundle")


@pytest.mark.parametrize(
    "foreign", ["notes.txt", ".gitignore", "deep/notes.txt", "deep/er/.notes", "src/app.js", "unet.onnx.bak"]
)
def test_a_foreign_file_in_a_bundle_survives(tmp_path: Path, foreign: str) -> None:
    out = make_bundle(tmp_path / "bundle", "unet.onnx", "deep/er/vae.onnx")
    (out / foreign).parent.mkdir(exist_ok=True)
    (out / foreign).write_text("years of work")
    before = tree(tmp_path)
    refuses(out, "'src'" if foreign.startswith("src") else f"'{foreign}'", "no part of the bundle")
    assert tree(tmp_path) == before


def test_foreign_folders_and_links_in_a_bundle_survive(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for kind in ("empty folder", "folder in an engine's place", "link to a folder", "link to nothing"):
        out = make_bundle(tmp_path / kind, "unet.onnx")
        if kind == "folder in an engine's place":
            (out / "unet.onnx").unlink()
            (out / "unet.onnx").mkdir()
        elif kind == "empty folder":
            (out / "mine").mkdir()
        else:
            (out / "mine").symlink_to(elsewhere if kind == "link to a folder" else tmp_path / "gone")
        refuses(out, "'unet.onnx'" if "engine" in kind else "'mine'")


def test_a_bundle_of_links_is_replaced_and_what_they_lead_to_is_left(tmp_path: Path) -> None:
    """As the hub's cache has it."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0").write_text("engine")
    (tmp_path / "blobs" / "1").write_text(manifest("unet.onnx"))
    out = tmp_path / "snapshot"
    out.mkdir()
    (out / "unet.onnx").symlink_to("../blobs/0")
    (out / MANIFEST).symlink_to("../blobs/1")
    with staged(out) as folder:
        (folder / "new.bin").touch()
    assert list(tree(out)) == ["new.bin"]
    assert tree(tmp_path / "blobs") == {"0": b"engine", "1": manifest("unet.onnx").encode()}


@pytest.mark.parametrize("name", [".git", ".DS_Store", "thesis.txt"])
def test_a_folder_that_is_not_empty_is_no_bundle(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).mkdir()
    before = tree(tmp_path)
    refuses(tmp_path / "out", "is no bundle")
    assert tree(tmp_path) == before


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("years of work")
    refuses(tmp_path / "out", "is a file")
    refuses(tmp_path / "out" / "bundle", "cannot be made", "is not a folder")
    refuses(tmp_path / "out" / "a" / "bundle", "cannot be made", "is not a folder")
    assert tree(tmp_path) == {"out": b"years of work"}


@pytest.mark.parametrize("out", ["", ".", "./", "..", "../..", "/", "sub/.."])
def test_the_working_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    (tmp_path / "a" / "b" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    refuses(out, "the folder you work in")
    monkeypatch.chdir(make_bundle(tmp_path / "bundle", "unet.onnx"))
    refuses(".", "the folder you work in")


@pytest.mark.parametrize("inside", ["new", "deep/new", "unet.onnx"])
def test_the_inside_of_a_bundle_is_refused(tmp_path: Path, inside: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", "unet.onnx")
    refuses(bundle / inside, "inside of the bundle", str(bundle))
    assert sorted(tree(bundle)) == [MANIFEST, "unet.onnx"]


def test_links_as_destination(tmp_path: Path) -> None:
    link, real = tmp_path / "link", tmp_path / "there" / "bundle"
    link.symlink_to(real)
    assert resolve_destination(link) == real  # which may be made yet
    (real / "src").mkdir(parents=True)
    refuses(link, "is no bundle")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    refuses(loop, "link")


def test_a_mount_point_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume of a container: the rename at the end of a build cannot work there."""
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "volume")
    (tmp_path / "volume").mkdir()
    refuses(tmp_path / "volume", "mount point")
    assert resolve_destination(tmp_path / "volume" / "bundle") == tmp_path / "volume" / "bundle"


@pytest.mark.parametrize("out", ["parent/bundle", "parent/deep/bundle", "parent/there"])
def test_a_parent_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "parent" / "there").mkdir(parents=True)
    access = os.access  # root may write anywhere, so permissions cannot be tried for real
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "parent" and access(path, mode))
    refuses(tmp_path / out, "is not writable")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250])
def test_a_name_that_is_too_long_is_one_line(tmp_path: Path, name: str) -> None:
    with raises_line(BuildError, "too long"):
        staged(tmp_path / name).__enter__()
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("parent", [".", "deep/er"])
def test_a_new_or_empty_folder_is_taken(tmp_path: Path, parent: str) -> None:
    out = tmp_path / parent / "out"
    assert resolve_destination(out) == out.resolve()
    out.mkdir(parents=True)
    assert resolve_destination(out) == out.resolve()
