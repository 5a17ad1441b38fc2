"""The files of a machine: found, fetched where the manifest says from where, and checked."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from codec_wrappers.errors import MissingToolError

from .fetch import fetch
from .manifest import MachineSpec, ModelFile


def resolve_files(spec: MachineSpec) -> tuple[MachineSpec, tuple[str, ...]]:
    """The specification with files that are here, and the SHA-256 of each.

    Raises MissingToolError: a file is missing and cannot be fetched, or is not what the manifest says.
    """
    present = tuple(_present(file) for file in spec.files)
    hashes = tuple(_checked_hash(file, spec.name) for file in present)
    return replace(spec, files=present), hashes


def _present(file: ModelFile) -> ModelFile:
    if file.path.is_file() or not file.url or not file.sha256:
        return file
    return replace(file, path=fetch(file.url, file.sha256))


def _checked_hash(file: ModelFile, machine: str) -> str:
    try:
        actual = hashlib.sha256(file.path.read_bytes()).hexdigest()
    except OSError as error:
        raise MissingToolError(
            f"{file.path}: cannot read this model file of machine '{machine}' ({error.strerror});"
            " complete the library or leave the machine out (--names)"
        ) from error
    if file.sha256 and actual != file.sha256.lower():
        raise MissingToolError(
            f"{file.path}: wrong checksum for machine '{machine}': SHA-256 is {actual[:12]}.., the manifest"
            f" says {file.sha256[:12]}..; fetch the file again or correct the manifest"
        )
    return actual
