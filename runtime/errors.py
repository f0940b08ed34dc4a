"""Everything that goes wrong on purpose. `str(error)` is the one line a user sees."""


class AudioLDM2Error(Exception):
    """Base of every error this package raises knowingly."""


class InputError(AudioLDM2Error, ValueError):
    """An argument is wrong: says which, what came and what is accepted."""


class BundleError(AudioLDM2Error):
    """A bundle is missing, damaged or of another version: says which command mends it."""


class EngineError(AudioLDM2Error):
    """An engine could not be loaded, was fed wrongly, or failed."""


class IncompatibleEngineError(EngineError):
    """An engine was built for another library version, flavour or GPU than is here."""


class CaptureError(EngineError):
    """Work could not be captured in a CUDA graph: it can still be done without one."""


class NumericsError(AudioLDM2Error):
    """A stage produced NaN or Inf: says which stage."""


class MissingDependencyError(AudioLDM2Error, ImportError):
    """An optional package is absent: says the command that installs it, see `runtime.install`."""
