"""Names of files in a manifest: what they may be, on every system."""

import re

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\:*?"<>|]')
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|\Z)", re.IGNORECASE)


def problem_with_name(name: str) -> str | None:
    """Why `name` cannot be a file's name in a bundle, in words for an error message; None if it can.

    A name is relative, goes downwards only, uses `/` between folders, and means the same file on Linux, macOS and
    Windows: a bundle may be copied between them. Where the file behind it lies is the user's affair: it may be a link.
    """
    parts = name.split("/")
    if not name or len(name) > 1024 or any(len(part.encode("utf-8", "replace")) > 255 for part in parts):
        return f"file name {name[:40]!r} has {len(name)} characters"
    if _FORBIDDEN.search(name):
        return f"file name {name!r} holds a character that no file of a bundle has"
    if parts[0] == "" or ".." in parts:
        return f"file name '{name}' leaves the bundle"
    if "" in parts or "." in parts:
        return f"file name '{name}' is a folder's, not a file's"
    if any(_DEVICES.match(part) or part.endswith((".", " ")) for part in parts):
        return f"file name '{name}' is not a file's on Windows"
    return None
