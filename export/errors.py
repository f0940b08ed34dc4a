"""Errors of the export stage; `str(error)` is the one line a user sees."""

from runtime.errors import AudioLDM2Error


class CheckpointError(AudioLDM2Error):
    """The checkpoint cannot be had, is incomplete, or is of a kind that is not supported."""


class BuildError(AudioLDM2Error):
    """A graph could not be built, or is not as exact as it has to be."""


def one_line(error: Exception, longest: int = 300) -> str:
    """What an exception of a library says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else text[: longest - 3] + "..."
