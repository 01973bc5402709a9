"""What a reader of records can meet."""

from __future__ import annotations

from avpbench.errors import AvpBenchError


class AnalysisError(AvpBenchError, ValueError):
    """Root of every error that this package raises on purpose."""


class Unfinished(AnalysisError):
    """A study with runs that are not finished, or none at all."""


class Damaged(AnalysisError):
    """Records that cannot be read, or do not agree with each other."""


class NoRecords(AnalysisError, FileNotFoundError):
    """A study or a run that is not there."""


class Undeclared(AnalysisError):
    """A declaration that cannot be read; the message names the file and what is wrong."""


class Refused(AnalysisError):
    """A number or a comparison that the records do not carry; the message says why."""


class NotMeasured(Refused):
    """A number that the run was not asked for: its phase was off, or nothing of the kind exists there."""


class MismatchedSamples(Refused):
    """Two runs that are to be compared by problem do not hold the same problems."""


class Missing(Refused):
    """Cells that no published study holds."""
