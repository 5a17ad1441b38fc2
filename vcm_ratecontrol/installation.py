"""What this installation holds: each part that a command may need, found or missing, with the way out.

`vcm-doctor` prints it. Every part is really tried (a library is imported, a program is asked for its
version), since a package whose shared library does not load is as good as missing.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from codec_wrappers.errors import VcmError
from codec_wrappers.ffmpeg import ffmpeg_path, ffmpeg_query, ffmpeg_version
from codec_wrappers.process import run_process

DISTRIBUTION = "vcm-ratecontrol"

# What the commands' --codec choices are coded with, and what reads it again.
FFMPEG_ENCODERS = {"libvvenc": "vvc", "libx265": "hevc", "libkvazaar": "hevc-kvazaar", "libsvtav1": "av1"}
FFMPEG_DECODERS = ("vvc", "hevc", "libdav1d")
# Without these no command does its main job: the default codec is VVC.
NEEDED_IN_FFMPEG = {"libvvenc", "vvc"}

# Programs that an encoder may use instead of a library of ffmpeg, and the option that asks for the version.
PROGRAMS = {"vvencapp": "--version", "uvg266": "--version", "kvazaar": "--version", "x265": "--version"}
PROGRAM_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Finding:
    """One part of the installation.

    group: 'computer', 'packages', 'machines', 'ffmpeg' or 'programs'.
    name: what it is called; version: what it says of itself, '' when it is missing.
    needed: the main job fails without it; found: it is there and works.
    note: where it is, or what is wrong and the way out.
    """

    group: str
    name: str
    version: str
    needed: bool
    found: bool
    note: str


def inspect_installation() -> tuple[Finding, ...]:
    """All parts, in the order of the groups. Takes some seconds: torch and the runtimes are imported."""
    return (*_computer(), *_packages(), *_ffmpeg(), *_programs())


def _computer() -> Iterator[Finding]:
    yield Finding("computer", "system", platform.platform(), True, True, f"{os.cpu_count()} cores")
    enough = sys.version_info >= (3, 11)
    yield Finding("computer", "python", platform.python_version(), True, enough, sys.executable)


def _packages() -> Iterator[Finding]:
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        note = "not installed, so that no encoder is registered: pip install -e . in its folder"
        yield Finding("packages", DISTRIBUTION, "", True, False, note)
        return
    package_folder = Path(__file__).parent
    yield Finding("packages", DISTRIBUTION, version, True, True, str(package_folder))
    for text in metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield _library("packages", requirement, needed=True, advice=f"pip install {requirement.name}")
        elif marker.evaluate({"extra": "machines"}):
            advice = f"machines of this runtime cannot run: pip install {requirement.name}"
            yield _library("machines", requirement, needed=False, advice=advice)


def _library(group: str, requirement: Requirement, *, needed: bool, advice: str) -> Finding:
    name = requirement.name
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(group, name, "", needed, False, f"not installed; {advice}")
    if version not in requirement.specifier:
        return Finding(group, name, version, needed, False, f"{requirement.specifier} is needed; {advice}")
    try:
        module = import_module(_module_of(name))
    except Exception as error:  # a broken library may raise anything: OSError, ImportError, SystemError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding(group, name, version, needed, False, f"does not load: {reason}; {advice}")
    return Finding(group, name, version, needed, True, _cuda() if module.__name__ == "torch" else "")


def _module_of(distribution: str) -> str:
    """The module to import for a distribution: its own name if it has such a module, else its first one."""
    canonical = canonicalize_name(distribution)
    modules = sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if canonical in map(canonicalize_name, owners)
    )
    own = canonical.replace("-", "_")
    return own if own in modules or not modules else modules[0]


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device: networks run on the CPU"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}: {', '.join(names)}"


def _ffmpeg() -> Iterator[Finding]:
    try:
        path = ffmpeg_path()
        yield Finding("ffmpeg", "ffmpeg", ffmpeg_version(path), True, True, str(path))
        coders = {kind: _listed(ffmpeg_query(str(path), f"-{kind}s")) for kind in ("encoder", "decoder")}
    except VcmError as error:
        yield Finding("ffmpeg", "ffmpeg", "", True, False, str(error))
        return
    advice = "this ffmpeg has none; unset VCM_FFMPEG to use the bundled one"
    for name, codec in FFMPEG_ENCODERS.items():
        found = name in coders["encoder"]
        note = f"--codec {codec}" if found else f"--codec {codec}: {advice}"
        yield Finding("ffmpeg", f"encoder {name}", "", name in NEEDED_IN_FFMPEG, found, note)
    for name in FFMPEG_DECODERS:
        found = name in coders["decoder"]
        needed = name in NEEDED_IN_FFMPEG
        yield Finding("ffmpeg", f"decoder {name}", "", needed, found, "" if found else advice)


def _listed(table: str) -> set[str]:
    """Names in the answer to `ffmpeg -encoders`: the second column below the line of dashes."""
    rows = table.partition(" ------")[2].splitlines()
    return {row.split()[1] for row in rows if len(row.split()) > 1}


def _programs() -> Iterator[Finding]:
    for name, option in PROGRAMS.items():
        path = shutil.which(name)
        if path is None:
            yield Finding("programs", name, "", False, False, "not on PATH; only --encoder-path needs it")
            continue
        try:
            result = run_process([path, option], timeout_s=PROGRAM_TIMEOUT_S)
        except VcmError as error:
            yield Finding("programs", name, "", False, False, str(error))
            continue
        lines = [line.strip() for line in result.log.splitlines() if line.strip()]
        yield Finding("programs", name, lines[0] if lines else "", False, True, path)
