"""Which objects, and at which share of machines: the settings of per-object coding, and what they open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError, MissingToolError
from vcm_ratecontrol.jrd.frame_levels import DEFAULT_MARGIN, DenseLevels, LevelSource, Margin, ObjectLevels
from vcm_ratecontrol.jrd.levels import DEFAULT_CAUTION, level_rule

if TYPE_CHECKING:
    from vcm_ratecontrol.machines.library import LibraryRef
    from vcm_ratecontrol.media import Clip
    from vcm_ratecontrol.predictors.inference import JRDMapPredictor

DENSE_WEIGHTS = "jrd_map_small"
LOOKS_PER_SECOND = 5.0


@dataclass(frozen=True)
class JRDSettings:
    """What per-object coding is asked for.

    ratio: share of the machines that shall still recognise an object, above 0, up to 1.
    machines: a library whose detectors find the objects; detector: the one whose boxes count, None for all of them.
    objects: a file of boxes instead. Neither: the dense predictor. least: confidence from which a box is an object.
    weights: of the dense predictor: a name or a checkpoint.
    background_qp: QP of what is no object, None for the default of the encoder.
    caution: share of the objects that may be more fragile than predicted. margin: context around boxes.
    pooled: the target is met in the mean over objects, at fewer bits; else by each for itself.
    looks_per_second: frames of a clip that are looked at.
    """

    ratio: float = 0.75
    machines: LibraryRef | None = None
    detector: str | None = None
    objects: Path | None = None
    least: float = 0.3
    weights: str | Path = DENSE_WEIGHTS
    background_qp: int | None = None
    caution: float = DEFAULT_CAUTION
    margin: Margin = DEFAULT_MARGIN
    pooled: bool = True
    looks_per_second: float = LOOKS_PER_SECOND

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0:
            raise InputError(f"--target-jrd {self.ratio}: must be above 0 and at most 1")
        if self.detector is not None and self.machines is None:
            raise InputError(f"--detector {self.detector}: give the library it is in with --machines DIR")
        if self.objects is not None and self.detector is not None:
            raise InputError(f"--objects {self.objects}: leave out --detector {self.detector}, or this")


@contextlib.contextmanager
def opened_levels(settings: JRDSettings, clip: Clip, codec: str) -> Iterator[LevelSource]:
    """What gives the levels of a clip's frames, for as long as the block lasts.

    codec: 'vvc', 'hevc', ...: whose labels. Raises InputError, MissingToolError.
    """
    rule = level_rule(codec, settings.ratio, settings.caution, pooled=settings.pooled)
    if settings.objects is not None:
        from vcm_ratecontrol.jrd.object_file import FileObjects

        width, height = clip.upright_size
        boxes = FileObjects(settings.objects, clip.path, clip.n_frames, width, height)
        yield ObjectLevels(boxes, rule, settings.margin, _dense_if_there(settings))
    elif settings.machines is not None:
        from vcm_ratecontrol.jrd.objects import DetectedObjects
        from vcm_ratecontrol.scoring import MachineRoom

        with MachineRoom(settings.machines.open()) as room:
            source = DetectedObjects(room, settings.detector, settings.least)
            yield ObjectLevels(source, rule, settings.margin, _dense_if_there(settings))
    else:
        try:
            predictor = _dense(settings)
        except MissingToolError as error:
            raise MissingToolError(f"{error}; or give --machines DIR, or --objects FILE") from error
        yield DenseLevels(predictor, settings.ratio)


def _dense(settings: JRDSettings) -> JRDMapPredictor:
    from vcm_ratecontrol.predictors.inference import JRDMapPredictor, load_predictor

    predictor = load_predictor(settings.weights)
    if not isinstance(predictor, JRDMapPredictor):
        raise InputError(f"{settings.weights}: predicts no JRD maps; give weights of {DENSE_WEIGHTS}")
    return predictor


def _dense_if_there(settings: JRDSettings) -> JRDMapPredictor | None:
    from vcm_ratecontrol import predictors

    path = Path(settings.weights)
    shipped = Path(predictors.__path__[0], "weights", f"{settings.weights}.safetensors")
    if path.suffix != ".safetensors" and not shipped.is_file():
        return None  # told without importing torch
    return _dense(settings)
