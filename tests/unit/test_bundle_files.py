"""Files of a bundle: which names they may have, what they may be, and links, which are the user's own affair."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from runtime.bundle import Bundle
from runtime.bundle.manifest import MANIFEST, SCHEMA
from runtime.errors import BundleError
from tests.unit.helpers import raises_line
from tests.unit.test_bundle import BUILD, REBUILD, Edit, edit, make_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def rename_unet(name: str) -> Edit:
    def change(raw: dict[str, Any]) -> None:
        raw["engines"]["unet"]["files"][0]["name"] = name

    return change


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret.bin", "sub/../../secret.bin", "sub/../unet.onnx", ".."])
def test_file_name_that_leaves_the_bundle(folder: Path, name: str) -> None:
    (folder / "sub").mkdir()
    (folder.parent / "secret.bin").write_bytes(bytes(1_000))
    edit(folder, rename_unet(name))
    with raises_line(BundleError, MANIFEST, f"'{name}'", "leaves the bundle"):
        Bundle.read(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "./unet.onnx", "sub/", "sub//unet.onnx", "sub", "a" * 300, "nul\0byte", "two\nlines", "\ud83d"),
        *("C:unet.onnx", "C:/unet.onnx", "C:\\unet.onnx", "\\\\host\\unet.onnx", "sub\\unet.onnx", "..\\unet.onnx"),
        *("NUL", "nul.onnx", "sub/COM1", "com9.txt", "unet.onnx.", "unet.onnx ", "unet.onnx:stream"),
    ],
)
def test_file_name_of_no_file(folder: Path, name: str) -> None:
    """Nor is it a file on any system: what is a file's name on Linux only is refused although the file is there."""
    (folder / "sub").mkdir()
    with contextlib.suppress(OSError, ValueError):  # not even here
        (folder / "unet.onnx").rename(folder / name)
    edit(folder, rename_unet(name))
    with raises_line(BundleError, BUILD):
        Bundle.read(folder)


@pytest.mark.parametrize("kind", ["relative", "absolute", "chain", "linked folder"])
def test_files_that_the_user_linked(folder: Path, tmp_path: Path, kind: str) -> None:
    """As in the cache of a hub, whose snapshots hold links into a folder of blobs beside them."""
    snapshot, blobs = tmp_path / "models/snapshots/0123", tmp_path / "models/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"{i}")
        target = Path("../../blobs", f"{i}") if kind == "relative" else blobs / f"{i}"
        if kind == "chain":
            (blobs / f"link{i}").symlink_to(target)
            target = blobs / f"link{i}"
        (snapshot / file.name).symlink_to(target)
    if kind == "linked folder":
        edit(snapshot, rename_unet("weights/unet.onnx"))
        (tmp_path / "elsewhere").mkdir()
        (snapshot / "unet.onnx").rename(tmp_path / "elsewhere/unet.onnx")
        (snapshot / "weights").symlink_to(tmp_path / "elsewhere")
    bundle = Bundle.read(snapshot)
    for file in bundle.manifest.files():
        assert bundle.path(file) == snapshot / file.name


@pytest.mark.parametrize("name", ["unet.weights", "tokenizer.json"])
@pytest.mark.parametrize("target", ["nothing/there", "loop", "/nowhere"])
def test_links_to_nothing(folder: Path, name: str, target: str) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / name).unlink()
    (folder / name).symlink_to(target)
    with raises_line(BundleError, name, "is a link to", target, "missing", REBUILD):
        Bundle.read(folder)


@pytest.mark.parametrize("name", [MANIFEST, "unet.onnx", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
def test_what_is_no_regular_file_is_never_opened(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        made = socket.socket(socket.AF_UNIX)
        made.bind(os.path.relpath(folder / name))  # a socket's path has to be short
        made.close()
    with raises_line(BundleError, name, "no regular file", BUILD):
        Bundle.read(folder)


def test_bundle_behind_a_symlink(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert Bundle.read(tmp_path / "current").manifest.schema == SCHEMA
