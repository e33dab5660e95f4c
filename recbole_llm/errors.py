"""The errors a user of this package can meet.

    RecboleLlmError
    ├── ConfigError      a setting is unknown, missing or out of range
    ├── DataError        input rows or files are not what was promised
    ├── TrainingError    training cannot go on from where it is
    ├── ArtifactError    an artifact is absent, damaged or of another format
    ├── AuditError       a night's table failed its checks and was not published
    ├── NotFoundError    the user, day or table that was asked for does not exist
    └── UnavailableError something is in use or changes just now, or does not answer; a retry may help

A message says what was found, what was expected, where, and what to do.
"""


class RecboleLlmError(Exception):
    """Root of the tree. ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class ConfigError(RecboleLlmError):
    """A setting is unknown, missing or out of range."""

    exit_code = 2


class DataError(RecboleLlmError):
    """Input rows or files are not what was promised."""

    exit_code = 3


class NotFoundError(RecboleLlmError):
    """The user, day or table that was asked for does not exist."""

    exit_code = 4


class ArtifactError(RecboleLlmError):
    """An artifact is absent, damaged or of another format."""

    exit_code = 5


class AuditError(RecboleLlmError):
    """A night's table failed its checks; what was published before stands."""

    exit_code = 6


class UnavailableError(RecboleLlmError):
    """A database does not answer, or files are in use or change just now; a retry may help."""


class TrainingError(RecboleLlmError):
    """Training cannot go on from where it is."""

    exit_code = 7
