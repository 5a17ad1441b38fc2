"""What all predictors share: the sample they are asked about, the tensors in between, the values they give
back.

The way through: `Sample` (numpy, one picture) -> `preprocess` -> `Batch` (torch) -> network ->
`...Prediction` (torch) -> `inference` -> `SMRCurve`, `ObjectJRD`, `JRDMap` (numpy, one picture). Training
uses the middle, everybody else the two ends. Importing this module does not import torch.

Levels are those of the label space, 0..63 (VVC QPs); an encoder's own range is no matter of this room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.evidence import MachineEvidence

if TYPE_CHECKING:
    from torch import Tensor, device

CodingType = Literal["still", "inter"]
"""'still': every picture coded alone. 'inter': pictures of a clip, coded with prediction from others."""

Task = Literal["classification", "detection", "both"]
"""Whose satisfaction: that of the classifiers, of the detectors, or of all machines together."""

BLOCK_SIZE = 16
"""Side of the blocks of a JRD map, in pixels of the picture."""


@dataclass(frozen=True)
class Condition:
    """What a curve is for: a codec ('vvc', 'hevc', ...), how pictures are coded, and which machines judge."""

    codec: str
    coding_type: CodingType = "still"
    task: Task = "both"

    def __post_init__(self) -> None:
        for value, known in ((self.coding_type, get_args(CodingType)), (self.task, get_args(Task))):
            if value not in known:
                raise ValueError(f"'{value}' is none of {', '.join(known)}")

    def __str__(self) -> str:
        return f"{self.codec}/{self.coding_type}/{self.task}"


@dataclass(frozen=True)
class Sample:
    """One question to a predictor. Which fields it reads, each predictor says.

    picture: uint8 [H, W, 3], RGB. The original, or the better one of a pair.
    coded: uint8 [H, W, 3], RGB, the same picture after coding.
    condition: what the curve is for; None: unknown.
    level: the level at which `coded` was coded, 0..63; None: unknown.
    reference_level: the level of `picture` when that is itself a coded one; None: it is the original.
    evidence: what machines at hand say about the picture; any number, their order does not matter.
    confidence_map: float32 [ceil(H / 16), ceil(W / 16)], 0..1, see `evidence.confidence_map`; None: no
    detector.
    """

    picture: NDArray[np.uint8]
    coded: NDArray[np.uint8] | None = None
    condition: Condition | None = None
    level: float | None = None
    reference_level: float | None = None
    evidence: tuple[MachineEvidence, ...] = ()
    confidence_map: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Tensors:
    """A record of tensors, some of which may be absent (None)."""

    def named(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}

    def to(self, target: device | str) -> Self:
        """The same record on another device."""
        moved: dict[str, Any] = {name: value.to(target) for name, value in self.named().items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class Batch(Tensors):
    """Samples of one input size as tensors, all on one device. B samples, M machines (padded), h x w cells.

    picture: float32 [B, 3, H, W], RGB, ImageNet-normalised.
    coded: the same for the coded picture, or None.
    statistics: float32 [B, N_STATISTICS] of the picture at its own size, or None (`picture_statistics`).
    distortion: float32 [B, N_DISTORTION] of the pair at its own size, or None.
    condition: int64 [B], index into the network's conditions; -1 = unknown.
    level, reference_level: float32 [B], 0..63; -1 = unknown, or original.
    evidence: float32 [B, M, N_EVIDENCE]; evidence_mask: bool [B, M], True = there.
    confidence_map: float32 [B, 1, H / 16, W / 16], 0..1; -1 = unknown.
    """

    picture: Tensor
    condition: Tensor
    level: Tensor
    reference_level: Tensor
    evidence: Tensor
    evidence_mask: Tensor
    confidence_map: Tensor
    coded: Tensor | None = None
    statistics: Tensor | None = None
    distortion: Tensor | None = None

    def __len__(self) -> int:
        return int(self.picture.shape[0])


@dataclass(frozen=True)
class SMRPrediction(Tensors):
    """Full reference: SMR of each coded picture, float32 [B], not clipped to 0..1.

    smr: the answer: of head G, of head Q (1 - difference), or the mean of both, as configured.
    direct: output of head G [B], or None where it is absent.
    difference: output of head Q [B], SMR(picture) - SMR(coded), or None.
    """

    smr: Tensor
    direct: Tensor | None
    difference: Tensor | None


@dataclass(frozen=True)
class CurvePrediction(Tensors):
    """One-shot curves, float32.

    smr, low, high: [B, 64], 0..1, falling with the level: the curve, and the band around it.
    log2_bits: [B, 64], log2 of bits per pixel, falling with the level.
    shift: [B], QP levels by which the mean curve is moved up (> 0: more robust), shrunk.
    shift_mean, shift_deviation: [B], QP levels: mean and standard deviation before shrinking (the loss uses
    these).
    """

    smr: Tensor
    low: Tensor
    high: Tensor
    log2_bits: Tensor
    shift: Tensor
    shift_mean: Tensor
    shift_deviation: Tensor


@dataclass(frozen=True)
class JRDPrediction(Tensors):
    """JRD of each object. logits: float32 [B, 64], one class per level."""

    logits: Tensor


@dataclass(frozen=True)
class RecognitionPrediction(Tensors):
    """Full-reference JRD: is the object of the coded crop still recognised?

    logits: float32 [B, 2]; class 0 = still recognised, class 1 = not (the order of the published code).
    """

    logits: Tensor


@dataclass(frozen=True)
class MapPrediction(Tensors):
    """Dense JRD, float32, on cells of 8 x 8 pixels of the network's input.

    object_logit: [B, h, w]; sigmoid = probability that an object touches the cell.
    levels: [B, R, h, w], 0..63: highest level at which the share r of the machines still recognises what is
        there, for the R ratios of the network in rising order; falling along R.
    deviation: [B, h, w], levels: standard deviation of `levels`.
    """

    object_logit: Tensor
    levels: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class SMRCurve:
    """SMR and bits of one picture against the level.

    smr, low, high: float32 [64], 0..1, never rising: the curve and its 80 % band. The band holds what is
    unknown
        of the picture; the scatter of a small machine library comes on top.
    log2_bits: float32 [64], log2 of bits per pixel, never rising.
    shift, shift_deviation: QP levels against the mean curve; > 0: more robust than most pictures.
    """

    smr: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    log2_bits: NDArray[np.float32]
    condition: Condition
    shift: float
    shift_deviation: float

    @property
    def levels(self) -> NDArray[np.int64]:
        """The levels 0..63 that the curves are given at."""
        return np.arange(N_LEVELS)

    def highest_level(self, target: float, *, safe: bool = False) -> int | None:
        """Highest level whose SMR meets the target; None if none does. safe: by the low end of the band."""
        met = np.flatnonzero((self.low if safe else self.smr) >= target)
        return int(met[-1]) if met.size else None


@dataclass(frozen=True)
class ObjectJRD:
    """JRD of one object: level, 0..63, and probabilities: float32 [64], or the 0/1 flags of a full
    reference."""

    level: int
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class JRDMap:
    """Highest useful level of each block of 16 x 16 pixels of one picture.

    level: float32 [ceil(H / 16), ceil(W / 16)], 0..63; 63 where nothing is to be recognised.
    deviation: float32, same shape, levels: its standard deviation.
    object_probability: float32, same shape, 0..1.
    ratio: share of the machines that still recognise what is there.
    width, height: of the picture, in pixels.
    """

    level: NDArray[np.float32]
    deviation: NDArray[np.float32]
    object_probability: NDArray[np.float32]
    ratio: float
    width: int
    height: int
    block_size: int = BLOCK_SIZE


Prediction_co = TypeVar("Prediction_co", covariant=True)
Result = TypeVar("Result")


class LevelNetwork(Protocol[Prediction_co]):
    """What every network is, besides a `torch.nn.Module`."""

    def __call__(self, batch: Batch) -> Prediction_co: ...

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Fill the trunk from a public state dict; returns the names that were not used."""
        ...


class Predictor(Protocol[Result]):
    """A network with its weights, ready to answer. `name`: its configuration; `card`: see `checkpoint`."""

    name: str
    card: Any

    def predict(self, samples: Sequence[Sample]) -> list[Result]:
        """One result per sample, in order. Raises InputError for pictures that it cannot read."""
        ...
