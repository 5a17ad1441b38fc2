"""The options of `vcm-encode` as keyword arguments, and the one place that makes requests of them.

The command line and the library both come through here, so that they have the same options, defaults and refusals.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Required, TypedDict, cast

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd.levels import DEFAULT_CAUTION, DEFAULT_POOLING
from vcm_ratecontrol.machines.library import LibraryRef
from vcm_ratecontrol.machines.network import DEFAULT_MIN_CONFIDENCE
from vcm_ratecontrol.media.segments import FRAMES_PER_SEGMENT, SEGMENT_SECONDS
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.ratecontrol.planning import Pool, Target
from vcm_ratecontrol.ratecontrol.probe_cache import default_cache_folder
from vcm_ratecontrol.request import EncodeRequest
from vcm_ratecontrol.satisfaction import Thresholds
from vcm_ratecontrol.scoring import Tasks

if TYPE_CHECKING:
    from vcm_ratecontrol.jrd.job import JRDRequest
    from vcm_ratecontrol.jrd.sources import JRDSettings

PathLike = str | os.PathLike[str]

DEFAULT_CACHE = "user cache"
"""Stands for `$VCM_CACHE`, else the user's cache folder."""


class MachineArguments(TypedDict, total=False):
    """Machines that judge, and when they are satisfied.

    machines: folder of a library, None for none; names: only these of it. task: whose verdicts count. t_conf,
    t_iou, t_score, t_label: see `satisfaction.Thresholds`.
    """

    machines: PathLike | None
    names: Sequence[str] | None
    task: Tasks
    t_conf: float
    t_iou: float
    t_score: float
    t_label: float


class CodingArguments(MachineArguments, total=False):
    """What both kinds of target take; see `request.EncodeRequest` for what each means.

    pool: each item meets the target, or all in the mean. cache: a folder of probes; None for none; coding per object
    probes nothing. progress, on_event: to follow a long job.
    """

    pool: Pool | None
    weights: PathLike | None
    codec: str
    encoder_path: PathLike | None
    preset: str | None
    segment_seconds: float
    frames: int
    workers: int
    cache: PathLike | None
    anchor: bool | None
    overwrite: bool
    dry_run: bool
    progress: Progress
    on_event: Callable[..., None] | None


class EncodeArguments(CodingArguments, total=False):
    """The options of `vcm-encode --target-smr` and `--qp`, with its defaults.

    target_smr: 0..1, or `qp`; the others as in `request.EncodeRequest`.
    """

    target_smr: float | None
    floor: float
    qp: int | None
    qp_map: PathLike | None
    probes: int | None
    verify_smr: bool
    strict: bool


class JRDArguments(CodingArguments, total=False):
    """The options of `vcm-encode --target-jrd`, with its defaults.

    target_jrd: share of the machines that shall still recognise each object, above 0, up to 1. objects: a file of boxes
    in COCO's format; detector: the machine whose boxes are the objects, else all detectors of `machines`; none of the
    three: the dense predictor. background_qp: of what is no object, None for the default. jrd_caution: share of the
    objects that may be more fragile than predicted. verify_jrd: list what the machines lost in the result.
    """

    target_jrd: Required[float]
    detector: str | None
    objects: PathLike | None
    background_qp: int | None
    jrd_caution: float
    verify_jrd: bool


# Options that mean nothing with the other kind of target, by their defaults.
_SMR_ALONE: Mapping[str, object] = {
    "target_smr": None, "floor": 0.0, "qp": None, "qp_map": None, "probes": None, "verify_smr": False, "strict": False,
}  # fmt: skip
_JRD_ALONE: Mapping[str, object] = {
    "detector": None, "objects": None, "background_qp": None, "jrd_caution": DEFAULT_CAUTION, "verify_jrd": False,
}  # fmt: skip
# Options that do nothing where the QP is given; the latter not even then when the result is measured.
_CHOOSING = ("pool", "floor", "probes", "weights", "cache", "strict")
_JUDGING = ("machines", "names", "task", "t_conf", "t_iou", "t_score", "t_label", "frames")
_OF_MACHINES = ("t_conf", "t_iou", "t_score", "t_label", "cache")
_KNOWN = EncodeArguments.__annotations__.keys() | JRDArguments.__annotations__.keys()


def request_of(source: PathLike, output: PathLike, options: EncodeArguments) -> EncodeRequest:
    """Raises InputError for a name that is no option, and for one that needs `target_jrd`."""
    _check_names(options)
    if misplaced := _given(options, _JRD_ALONE):
        raise InputError(f"{misplaced} needs --target-jrd, the share of machines to code each object for")
    target_smr, task = options.get("target_smr"), options.get("task", "both")
    cache = options.get("cache", DEFAULT_CACHE)
    return EncodeRequest(
        input=Path(source),
        output=Path(output),
        target=None if target_smr is None else Target(target_smr, task, options.get("pool"), options.get("floor", 0.0)),
        qp=options.get("qp"),
        qp_map=_path(options.get("qp_map")),
        machines=library_of(options),
        thresholds=thresholds_of(options),
        probes=options.get("probes"),
        weights=_path(options.get("weights")),
        codec=options.get("codec", "vvc"),
        executable=_path(options.get("encoder_path")),
        preset=options.get("preset"),
        segment_seconds=options.get("segment_seconds", SEGMENT_SECONDS),
        frames_per_segment=options.get("frames", FRAMES_PER_SEGMENT),
        workers=options.get("workers", 0),
        cache=default_cache_folder() if cache == DEFAULT_CACHE else _path(cache),
        anchor=options.get("anchor"),
        verify_smr=options.get("verify_smr", False),
        strict=options.get("strict", False),
        overwrite=options.get("overwrite", False),
        dry_run=options.get("dry_run", False),
        notes=_idle(options),
    )


def jrd_request_of(source: PathLike, output: PathLike, options: JRDArguments) -> JRDRequest:
    """Raises InputError for a name that is no option, and for options that do not go together."""
    from vcm_ratecontrol.jrd.job import JRDRequest

    _check_names(options)
    if misplaced := _given(options, _SMR_ALONE):
        raise InputError(f"{misplaced} does not go with --target-jrd; leave one out")
    if options.get("task") == "classification":
        raise InputError("--task classification does not go with --target-jrd: only detectors see objects")
    if options.get("verify_jrd") and options.get("machines") is None:
        raise InputError("--verify-jrd needs machines to look with: give --machines DIR")
    settings = settings_of(options)
    # A file of boxes says where the objects are: machines are there to verify.
    finding = settings if settings.objects is None else replace(settings, machines=None)
    return JRDRequest(
        input=Path(source),
        output=Path(output),
        settings=finding,
        codec=options.get("codec", "vvc"),
        executable=_path(options.get("encoder_path")),
        preset=options.get("preset"),
        segment_seconds=options.get("segment_seconds", SEGMENT_SECONDS),
        workers=options.get("workers", 0),
        verify=settings.machines if options.get("verify_jrd") else None,
        thresholds=thresholds_of(options),
        frames_per_segment=options.get("frames", FRAMES_PER_SEGMENT),
        anchor=options.get("anchor") is not False,
        overwrite=options.get("overwrite", False),
        dry_run=options.get("dry_run", False),
    )


def settings_of(options: JRDArguments) -> JRDSettings:
    """What per-object coding is asked for, in an encode or a map. Raises InputError for values that do not fit."""
    from vcm_ratecontrol.jrd.sources import JRDSettings

    library = library_of(options)
    return JRDSettings(
        ratio=options["target_jrd"],
        # Classifiers see no objects: they need not be opened.
        machines=None if library is None else replace(library, task="detection"),
        detector=options.get("detector"),
        objects=_path(options.get("objects")),
        least=options.get("t_conf", 0.3),
        weights=_dense_weights(_path(options.get("weights"))),
        background_qp=options.get("background_qp"),
        caution=options.get("jrd_caution", DEFAULT_CAUTION),
        pooling=None if options.get("pool") == "each" else DEFAULT_POOLING,
    )


def library_of(options: MachineArguments) -> LibraryRef | None:
    """The library to open, None without one."""
    folder, names, task = options.get("machines"), options.get("names"), options.get("task", "both")
    if folder is None:
        return None
    lowest = min(options.get("t_conf", 0.3), DEFAULT_MIN_CONFIDENCE)
    chosen = None if names is None else tuple(names)
    return LibraryRef(Path(folder), chosen, None if task == "both" else task, min_confidence=lowest)


def thresholds_of(options: MachineArguments) -> Thresholds:
    """Raises InputError when one lies outside 0..1."""
    return Thresholds(
        options.get("t_conf", 0.3), options.get("t_iou", 0.5), options.get("t_score", 0.5), options.get("t_label", 0.0)
    )


def _check_names(options: EncodeArguments | JRDArguments) -> None:
    if unknown := options.keys() - _KNOWN:
        raise InputError(f"no such option: {', '.join(sorted(unknown))}; see vcm_ratecontrol.options")


def _given(options: EncodeArguments | JRDArguments, defaults: Mapping[str, object]) -> str | None:
    """The first of these options that differs from its default, as the command line has it."""
    values = cast("Mapping[str, object]", options)
    given = (name for name, default in defaults.items() if values.get(name, default) != default)
    return next((f"--{name.replace('_', '-')}" for name in given), None)


def _idle(options: EncodeArguments) -> tuple[str, ...]:
    """A note on options that were asked for and do nothing, beside a QP or without machines; none without any."""
    values = cast("Mapping[str, object]", options)
    if options.get("qp") is None:
        idle = [name for name in _OF_MACHINES if values.get(name) is not None]
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        return (f"without --machines these have no effect: {listed}",) if idle and not options.get("machines") else ()
    names = _CHOOSING if options.get("verify_smr") else (*_CHOOSING, *_JUDGING)
    idle = [name for name in names if values.get(name) is not None and values[name] is not False]
    if "cache" in options and options["cache"] is None:
        idle.append("no_cache")
    listed = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
    measured = "; with --verify-smr machines measure the result" if set(idle) & set(_JUDGING) else ""
    return (f"with --qp these have no effect: {listed}{measured}",) if idle else ()


def _dense_weights(folder: Path | None) -> str | Path:
    """The user's own where the folder has some, else those of the package."""
    from vcm_ratecontrol.jrd.sources import DENSE_WEIGHTS

    if folder is None:
        return DENSE_WEIGHTS
    if not folder.is_dir():
        raise InputError(f"--weights {folder}: no such folder; give one with NAME.safetensors in it")
    own = folder / f"{DENSE_WEIGHTS}.safetensors"
    return own if own.is_file() else DENSE_WEIGHTS


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)
