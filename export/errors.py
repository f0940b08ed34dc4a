"""Errors of the export stage; `str(error)` is the one line a user sees."""

from runtime.errors import AudioLDM2Error


class CheckpointError(AudioLDM2Error):
    """The checkpoint cannot be had, is incomplete, or is of a kind that is not supported."""


class BuildError(AudioLDM2Error):
    """A graph could not be built, or is not as exact as it has to be."""
