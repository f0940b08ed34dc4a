"""Where this package was installed from, and the command that installs more of it from there.

The name is in no package index, so `pip install trt-audioldm2` would fail, or fetch what a stranger put there.
"""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "trt-audioldm2"


def install_command(*extras: str) -> str:
    """The `pip install` command that adds the named extras, for an error message.

    It names the folder, wheel or address that the package came from, which installers note as PEP 610 says. Where that
    is not known, or no longer there, it is the README's command, which is for the project's folder.
    """
    wanted = f"[{','.join(extras)}]"
    origin = _origin()
    url = origin.get("url", "")
    path = _local_path(url)
    if path is not None and path.exists():
        editable = "--editable " * _is_editable(origin)
        return f"pip install {editable}{shlex.quote(f'{path}{wanted}')}"
    if url and path is None:
        return f"pip install {shlex.quote(f'{DISTRIBUTION}{wanted} @ {_address(origin)}')}"
    return f'pip install ".{wanted}" in the project\'s folder'


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def source_folder() -> Path | None:
    """The project's folder that the package was installed from, if it is still there."""
    path = _local_path(_origin().get("url", ""))
    return path if path is not None and path.is_dir() else None


def _origin() -> Mapping[str, Any]:
    """What the installer noted; empty where it noted nothing, or nothing that can be read."""
    try:
        noted = json.loads(distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) and isinstance(noted.get("url"), str) else {}


def _is_editable(origin: Mapping[str, Any]) -> bool:
    folder = origin.get("dir_info")
    return isinstance(folder, dict) and folder.get("editable") is True


def _local_path(url: str) -> Path | None:
    """The path of a `file:` URL; None for every other one."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _address(origin: Mapping[str, Any]) -> str:
    """The URL in the form that pip takes: with the version control system, the revision and the folder in it."""
    address = str(origin["url"])
    control = origin.get("vcs_info")
    if isinstance(control, dict):
        address = f"{control.get('vcs', 'git')}+{address}@{control.get('requested_revision') or control['commit_id']}"
    folder = origin.get("subdirectory")
    return f"{address}#subdirectory={folder}" if folder else address
