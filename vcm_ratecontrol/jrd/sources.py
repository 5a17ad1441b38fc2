"""Which objects, and at which share of machines: the settings of per-object coding, and what they open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError, MissingToolError
from vcm_ratecontrol.jrd.frame_levels import DEFAULT_MARGIN, DenseLevels, LevelSource, Margin, ObjectLevels
from vcm_ratecontrol.jrd.levels import DEFAULT_CAUTION, DEFAULT_POOLING, Pooling, level_rule

if TYPE_CHECKING:
    from vcm_ratecontrol.jrd.object_file import BoxesFile
    from vcm_ratecontrol.machines.library import LibraryRef
    from vcm_ratecontrol.media import Clip
    from vcm_ratecontrol.predictors.inference import JRDMapPredictor
    from vcm_ratecontrol.scoring import MachineRoom

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
    pooling: how the target is met in the mean over objects, at fewer bits; None: by each for itself.
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
    pooling: Pooling | None = DEFAULT_POOLING
    looks_per_second: float = LOOKS_PER_SECOND

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0:
            raise InputError(f"--target-jrd {self.ratio}: must be above 0 and at most 1")
        if self.detector is not None and self.machines is None:
            raise InputError(f"--detector {self.detector}: give the library it is in with --machines DIR")
        if self.objects is not None and self.detector is not None:
            raise InputError(f"--objects {self.objects}: leave out --detector {self.detector}, or this")

    def guessed_in(self, clip: Clip) -> bool | None:
        """Whether the dense predictor alone says where objects are in a video, which it was not trained on; None for a
        still."""
        return self.machines is None and self.objects is None if clip.kind == "video" else None


@dataclass(frozen=True)
class Finders:
    """What finds the objects of the files of one job; opened once for all of them, by `open_finders`.

    room: machines. boxes: a file of boxes. dense: the dense predictor, None where it has no weights and is not needed.
    """

    settings: JRDSettings
    room: MachineRoom | None = None
    boxes: BoxesFile | None = None
    dense: JRDMapPredictor | None = None

    def levels(self, clip: Clip, codec: str) -> LevelSource:
        """What gives the levels of a clip's frames. codec: 'vvc', 'hevc', ...: whose labels. Raises InputError."""
        settings = self.settings
        rule = level_rule(codec, settings.ratio, settings.caution, pooling=settings.pooling)
        if self.boxes is not None:
            found = self.boxes.of(clip.path, clip.n_frames, *clip.upright_size)
            return ObjectLevels(found, rule, settings.margin, self.dense)
        if self.room is not None:
            from vcm_ratecontrol.jrd.objects import DetectedObjects

            detected = DetectedObjects(self.room, settings.detector, settings.least)
            return ObjectLevels(detected, rule, settings.margin, self.dense)
        assert self.dense is not None
        return DenseLevels(self.dense, rule)


def read_boxes(settings: JRDSettings, inputs: Sequence[Path] = ()) -> BoxesFile | None:
    """The file of boxes, None without one. To be read before anything that takes long: it may be a slip.

    inputs: of a job of several, which the file must tell apart. Raises InputError.
    """
    if settings.objects is None:
        return None
    from vcm_ratecontrol.jrd.object_file import BoxesFile

    return BoxesFile.read(settings.objects, inputs)


@contextlib.contextmanager
def open_finders(settings: JRDSettings, boxes: BoxesFile | None = None) -> Iterator[Finders]:
    """What finds objects, for as long as the block lasts.

    boxes: of `read_boxes`; None: read here. Raises InputError, MissingToolError, CacheError.
    """
    boxes = boxes or read_boxes(settings)
    if boxes is not None:
        yield Finders(settings, boxes=boxes, dense=_dense_if_there(settings))
    elif settings.machines is not None:
        from vcm_ratecontrol.scoring import MachineRoom

        with MachineRoom(settings.machines.open()) as room:
            yield Finders(settings, room, dense=_dense_if_there(settings))
    else:
        try:
            predictor = _dense(settings)
        except MissingToolError as error:
            raise MissingToolError(f"{error}; or give --machines DIR, or --objects FILE") from error
        yield Finders(settings, dense=predictor)


@contextlib.contextmanager
def opened_levels(
    settings: JRDSettings, clip: Clip, codec: str, boxes: BoxesFile | None = None
) -> Iterator[LevelSource]:
    """`Finders.levels` of a single clip, for as long as the block lasts. Raises InputError, MissingToolError."""
    with open_finders(settings, boxes) as finders:
        yield finders.levels(clip, codec)


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
