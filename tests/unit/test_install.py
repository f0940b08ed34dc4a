"""The command that hints give: from where the package came, never from an index that does not have it."""

import importlib.metadata
import json
import shlex
from pathlib import Path

import pytest

from export.demo import TRAINED, trained
from export.errors import CheckpointError
from runtime.install import install_command, source_folder
from tests.unit.helpers import ROOT, raises_line

README_FORM = 'pip install ".[plot]" in the project\'s folder'


class Noted:
    """A distribution whose installer noted `text`."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.text


@pytest.fixture
def note(monkeypatch: pytest.MonkeyPatch):
    def set_note(content: object) -> None:
        text = content if content is None or isinstance(content, str) else json.dumps(content)
        monkeypatch.setattr("runtime.install.distribution", lambda name: Noted(text))

    return set_note


@pytest.mark.parametrize("editable", [True, False])
@pytest.mark.parametrize("name", ["project", "a folder with 'quotes' and spaces", "caf\xe9"])
def test_a_folder(note, tmp_path: Path, name: str, editable: bool) -> None:
    folder = tmp_path / name
    folder.mkdir()
    note({"url": folder.as_uri(), "dir_info": {"editable": True} if editable else {}})
    words = shlex.split(install_command("cpu", "plot"))
    assert words == ["pip", "install", *(["--editable"] if editable else []), f"{folder}[cpu,plot]"]
    assert source_folder() == folder
    folder.rmdir()
    assert install_command("plot") == README_FORM
    assert source_folder() is None


def test_a_wheel(note, tmp_path: Path) -> None:
    wheel = tmp_path / "trt_audioldm2-0.1.0-py3-none-any.whl"
    wheel.touch()
    note({"url": wheel.as_uri(), "archive_info": {"hashes": {}}})
    assert shlex.split(install_command("plot")) == ["pip", "install", f"{wheel}[plot]"]
    assert source_folder() is None


@pytest.mark.parametrize(
    ("noted", "address"),
    [
        ({"url": "https://example.org/x.whl", "archive_info": {}}, "https://example.org/x.whl"),
        (
            {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
            f"git+https://example.org/x.git@{'0' * 40}",
        ),
        (
            {
                "url": "ssh://git@example.org/x.git",
                "vcs_info": {"vcs": "git", "commit_id": "0" * 40, "requested_revision": "main"},
                "subdirectory": "audio",
            },
            "git+ssh://git@example.org/x.git@main#subdirectory=audio",
        ),
    ],
)
def test_an_address(note, noted: dict[str, object], address: str) -> None:
    note(noted)
    assert shlex.split(install_command("plot")) == ["pip", "install", f"trt-audioldm2[plot] @ {address}"]
    assert source_folder() is None


@pytest.mark.parametrize("noted", [None, "", "{", "[]", "{}", {"url": 3}, {"url": ""}, {"url": "file:///nowhere/x"}])
def test_nothing_known(note, noted: object) -> None:
    note(noted)
    assert install_command("plot") == README_FORM


def test_not_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("runtime.install.distribution", missing)
    assert install_command("plot") == README_FORM


def test_no_hint_asks_an_index() -> None:
    for path in [*ROOT.glob("runtime/**/*.py"), *ROOT.glob("export/**/*.py"), ROOT / "README.md"]:
        assert "trt-audioldm2[" not in path.read_text(), path


def test_the_demo_is_found_where_it_was_installed_from(note, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained() == TRAINED
    monkeypatch.setattr("export.demo.TRAINED", tmp_path / "site-packages" / "export" / "demo" / "trained")
    note({"url": ROOT.as_uri(), "dir_info": {}})
    assert trained() == ROOT / "export" / "demo" / "trained"
    note({"url": tmp_path.as_uri(), "dir_info": {}})
    with raises_line(CheckpointError, "the demo's weights", "project's folder"):
        trained()
