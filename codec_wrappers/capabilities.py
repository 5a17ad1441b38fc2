"""What an encoder can do, read from the binary itself, and the refusals that follow from it."""

from dataclasses import dataclass
from typing import Literal

from codec_wrappers.errors import UnsupportedError
from codec_wrappers.plan import EncodePlan

Codec = Literal["vvc", "hevc", "av1"]
BlockQP = Literal["none", "map", "rectangles"]


@dataclass(frozen=True)
class Capabilities:
    """What one encoder binary can do.

    path, version: the binary and what it calls itself.
    qp_min, qp_max: the encoder's own QP range, inclusive.
    frame_qp: one process can change the QP from frame to frame (else a plan is coded in segments and joined).
    block_qp: 'map' takes a QP per block of `block_size` luma samples, 'rectangles' a few static offsets.
    pixel_formats: raw formats it takes, best first.
    presets: names it knows, fastest first; empty when free.
    """

    path: str
    version: str
    qp_min: int
    qp_max: int
    frame_qp: bool
    block_qp: BlockQP
    block_size: int
    pixel_formats: tuple[str, ...]
    presets: tuple[str, ...]

    @property
    def where(self) -> str:
        """Path and version, for messages."""
        return f"{self.path} ({self.version})"

    def require_qp(self, qp: int) -> None:
        """Raise UnsupportedError when `qp` lies outside the encoder's range."""
        if not self.qp_min <= qp <= self.qp_max:
            raise UnsupportedError(f"QP {qp}: {self.where} takes {self.qp_min}..{self.qp_max}")

    def require_preset(self, preset: str) -> None:
        """Raise UnsupportedError when the encoder does not know the preset."""
        if self.presets and preset not in self.presets:
            raise UnsupportedError(f"preset {preset!r}: {self.where} knows {', '.join(self.presets)}")

    def require_plan(self, plan: EncodePlan) -> None:
        """Raise UnsupportedError when the plan asks for what this encoder cannot do."""
        for segment in plan.segments:
            self.require_qp(segment.qp)
        if plan.qp_map is not None and self.block_qp == "none":
            raise UnsupportedError(
                f"QP map: {self.where} has no per-block QP; use --codec hevc-kvazaar, or uvg266 for VVC"
            )
