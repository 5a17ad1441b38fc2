"""Parameter strings of ffmpeg's encoder libraries: 'key=value' pairs, values escaped."""

from collections.abc import Mapping


def param_string(params: Mapping[str, str | int | float], separator: str) -> str:
    """`params` in their order as ffmpeg's dictionary syntax, for -kvazaar-params (','), -x265-params (':')...

    In a value the characters that the syntax uses itself, and blanks, which it strips, get a backslash.
    """
    return separator.join(f"{key}={_escaped(str(value), separator)}" for key, value in params.items())


def _escaped(value: str, separator: str) -> str:
    return "".join(f"\\{char}" if char in "\\' \t" + separator else char for char in value)
