"""The errors a user can meet. Each message names what was given, what was wanted and what to do."""


def cause(error: BaseException) -> str:
    """What went wrong below, in a line: the error's kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class AvpBenchError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigError(AvpBenchError, ValueError):
    """An option, a value or a combination of them that cannot run."""


class NotFound(AvpBenchError, ValueError):
    """A model or a data set that is not where it was looked for."""


class IncompatibleModels(AvpBenchError, ValueError):
    """A strategy cannot carry context from this sender to this receiver."""


class StateError(AvpBenchError, ValueError):
    """A hidden state that cannot be handed over, because it is not a number."""


class WireError(AvpBenchError, ValueError):
    """A parcel that is corrupt, truncated, oversized, or from a model that is not the receiver's."""


class LinkError(AvpBenchError):
    """A peer in another process that is dead, silent, too slow, a stranger, or does not keep to the protocol."""


class RecordsError(AvpBenchError, ValueError):
    """A folder of records that is held by another run, foreign, or in conflict with this run."""


class InUse(RecordsError):
    """A folder of records that another run holds, or has taken over."""


class LaunchFailed(AvpBenchError):
    """A launcher, a scheduler or a child process did not do its part."""


class GateFailed(AvpBenchError):
    """A validity gate did not hold, so the run's numbers would mean nothing."""


class OutOfMemory(AvpBenchError):
    """The device cannot hold a model, or could not hold a batch; of a batch the caller may try a smaller one."""


class ControllerError(AvpBenchError, ValueError):
    """A controller answered with something that is not a plan: wrong length or dtype, an unlisted level, over budget."""
