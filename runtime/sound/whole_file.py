"""Files that appear whole or not at all, at the place that the user named."""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from runtime.errors import InputError
from runtime.wording import escaped

STANDARD_OUTPUT = "-"  # in place of a file's name
SYSTEM_FOLDERS = ("/dev", "/proc", "/sys")  # an administrator may create files there, and would not find them again
SHARED_MEMORY = "/dev/shm"  # the one place below them that is made for files
NEW_MODE, PRIVATE_MODE = 0o666, 0o600  # the kernel takes the umask off the first


def find_place(name: str | Path) -> Path:
    """The file that `name` stands for once all symbolic links are followed; it need not exist yet.

    A link whose target does not exist leads to that target. Raises InputError unless a regular file is there or can be
    created there. Give the name as a string where it comes from a user: a Path has lost the slash of "sound.wav/".
    """
    if os.path.basename(name) in ("", ".", ".."):  # noqa: PTH119  a Path has lost what is looked for
        raise InputError(f"output {quoted(name)} is not the name of a file")
    try:
        found = Path(name).stat()
    except (FileNotFoundError, NotADirectoryError):
        found = None  # a new file; its folder is looked at below
    except (OSError, ValueError) as error:  # a name too long, a loop of links, a folder that may not be entered, ...
        raise InputError(f"output {quoted(name)} cannot be used: {reason(error)}") from error
    place = Path(os.path.realpath(name))
    if found is not None:
        _check_file(name, place, found.st_mode)
    elif not place.parent.is_dir():
        raise InputError(f"output {quoted(name)}: folder {quoted(place.parent)} does not exist")
    _check_folder(name, place.parent)
    return place


def write_whole(name: str | Path, data: bytes) -> None:
    """Write `data` as the file that `find_place` finds. A failure or an interrupt leaves what was there before.

    The bytes go into a new file beside it, which then takes its name. Several may write to one place at once: one of
    them is the last. An earlier file's mode is kept, and its owner where the system allows that; another hard link to
    it keeps the earlier content. Raises InputError if the file cannot be written.
    """
    place = find_place(name)
    partial = place.with_name(f".partial-{secrets.token_hex(8)}")  # short, whatever the length of the name
    try:
        earlier = place.stat() if place.exists() else None
        mode = NEW_MODE if earlier is None else PRIVATE_MODE  # nobody reads the new bytes who could not read the old
        partial.touch(mode, exist_ok=False)
        with partial.open("r+b") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a disk that is full says so before the earlier file is gone
        if earlier is not None:
            _take_over(partial, earlier)
        partial.replace(place)
    except OSError as error:
        raise InputError(f"output {quoted(name)} could not be written: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def quoted(name: str | Path) -> str:
    """A file's name in quotes, in one line: line ends and bytes that are no text are escaped."""
    return f"'{escaped(str(name))}'"


def reason(error: Exception) -> str:
    """Why the system refused, such as "no space left on device"."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]


def _check_file(name: str | Path, place: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise InputError(f"output {quoted(name)} is a folder")
    if not stat.S_ISREG(mode):
        raise InputError(f"output {quoted(name)} is a device, pipe or socket, not a file: use --output - to pipe")
    if not os.access(place, os.W_OK):
        raise InputError(f"output {quoted(name)} is not writable")


def _check_folder(name: str | Path, folder: Path) -> None:
    for system in SYSTEM_FOLDERS:
        if folder.is_relative_to(system) and not folder.is_relative_to(SHARED_MEMORY):
            raise InputError(f"output {quoted(name)}: {system} is the system's own and takes no files")
    try:
        tempfile.TemporaryFile(dir=folder).close()  # permissions alone do not say whether a folder takes files
    except OSError as error:
        raise InputError(f"output {quoted(name)} is not writable: {reason(error)}") from error


def _take_over(partial: Path, earlier: os.stat_result) -> None:
    """Give the new file the owner, where that is allowed, and the mode of the one that it is going to replace."""
    if hasattr(os, "chown"):  # not on Windows
        with contextlib.suppress(PermissionError):
            os.chown(partial, earlier.st_uid, earlier.st_gid)
    partial.chmod(stat.S_IMODE(earlier.st_mode))  # after the owner, whose change takes bits away
