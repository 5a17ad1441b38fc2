"""What a machine is and what it says about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from codec_wrappers.errors import VcmError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Task = Literal["classification", "detection"]


class MachineRunError(VcmError):
    """A machine failed on a picture; the message names the machine. Its result there counts as invalid."""

    exit_code = 7


@dataclass(frozen=True, eq=False, slots=True)
class Classification:
    """A classifier's answer for one picture.

    label: 0..n_classes-1 (ImageNet-1k: order of WordNet ids), the background class dropped.
    confidence: probability of `label`, 0..1.
    probabilities: float32 [n_classes], sums to 1.
    """

    label: int
    confidence: float
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Detections:
    """A detector's answer for one picture, sorted by falling score; N may be 0.

    boxes: float32 [N, 4], x1, y1, x2, y2 in pixels of the picture, clipped to it.
    scores: float32 [N], 0..1.
    classes: int16 [N], COCO-80 index 0..79 (or the machine's own index where its manifest maps none).
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, confidence: float) -> Detections:
        """The detections with score >= confidence (a prefix, as they are sorted)."""
        n = int((self.scores >= confidence).sum())
        return Detections(self.boxes[:n], self.scores[:n], self.classes[:n])


Result = Classification | Detections


@runtime_checkable
class Machine(Protocol):
    """A network with its pre- and post-processing. One instance serves one thread at a time."""

    @property
    def name(self) -> str:
        """Distinct within its library."""

    @property
    def task(self) -> Task:
        """What it answers with: `Classification` or `Detections`."""

    @property
    def sha256(self) -> str:
        """Hash of the model file(s) and of every setting that changes the result."""

    def run(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> list[Classification] | list[Detections]:
        """One result per picture (uint8 [H, W, 3] RGB). Raises `MachineRunError`."""
