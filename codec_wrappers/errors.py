"""The one error hierarchy of both packages.

Every error that a user can cause or meet is a `VcmError`. Its message is one line that names the file
or option and the way out; its `exit_code` is what the command line exits with.
"""


class VcmError(Exception):
    """Base of all errors raised on purpose. `exit_code` is the process exit status of the commands."""

    exit_code = 1


class InputError(VcmError):
    """The input file is missing, empty, truncated, of an unknown kind, or an option value is out of range."""

    exit_code = 2


class OutputError(VcmError):
    """The output cannot be written: it exists, equals the input, its folder is not writable, the disk is full."""

    exit_code = 2


class UnsupportedError(VcmError):
    """An encoder was asked for what it cannot do; raised before it starts, names its path and version."""

    exit_code = 2


class TargetMissedError(VcmError):
    """No level reaches the target and the caller asked for strictness."""

    exit_code = 3


class EncoderError(VcmError):
    """An encoder process failed, timed out, or wrote something that is not the plan. Carries its stderr tail."""

    exit_code = 4


class NoRoomError(EncoderError):
    """A picture takes more bits at its QP than the encoder has room for; at a higher QP it can be coded."""


class MapHadNoEffectError(VcmError):
    """A plan with a QP map coded the same as one without: the encoder ignored the map."""

    exit_code = 5


class VerificationError(VcmError):
    """The written file does not decode, or decodes to another number of frames than were encoded."""

    exit_code = 6


class MissingToolError(VcmError):
    """A program, run-time library, model file or checksum that is needed is missing or wrong."""

    exit_code = 7


class CacheError(VcmError):
    """A shard, cache or checkpoint on disk was made by another schema, machine set or configuration."""

    exit_code = 2
