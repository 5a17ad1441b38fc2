"""An encoder of one's own: x265 without B pictures, for cameras whose receiver must not wait.

    pip install ./examples/encoder_plugin
    vcm-encode --codec x265-lowdelay --target-smr 0.8 street.mp4 -o street.coded.mp4

The library finds it by the entry point in setup.cfg. Here most is left to the encoder that is there already; see
`codec_wrappers.encoder.Encoder` for what each member must promise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from codec_wrappers.capabilities import Capabilities, Codec
from codec_wrappers.encoder import EncodeCommand, EncodeJob, PictureRecord
from codec_wrappers.qpmap_legal import MapRules
from codec_wrappers.x265 import X265Encoder


class LowDelayX265:
    """Encoder plug-in: the x265 inside ffmpeg, every picture an I or P picture."""

    name = "x265-lowdelay"
    codec: Codec = "hevc"
    raw_format = "hevc"
    default_preset = "medium"

    def __init__(self, executable: Path | None = None) -> None:
        self._x265 = X265Encoder(executable)

    def capabilities(self) -> Capabilities:
        return self._x265.capabilities()

    def map_rules(self) -> MapRules | None:
        return self._x265.map_rules()

    def command(self, job: EncodeJob) -> EncodeCommand:
        command = self._x265.command(job)
        words = list(command.argv)
        words[words.index("-x265-params") + 1] += ":bframes=0"
        return replace(command, argv=tuple(words))

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        return self._x265.read_back(job, log)
