"""Still images and videos as one kind of thing: a `Clip` of frames, cut into segments.

The names of `__all__` are loaded when they are first asked for: importing this package is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcm_ratecontrol.media.analysis import Consumer, FrameView, LumaStatistics, RGBSampler, fan_out
    from vcm_ratecontrol.media.clip import Clip, StreamInfo, open_clip
    from vcm_ratecontrol.media.sampling import sample_indices
    from vcm_ratecontrol.media.segments import SceneCuts, cut_segments, segments_from_cuts
    from vcm_ratecontrol.media.write import write_png, write_y4m

_HOME_OF = {
    "Clip": "clip",
    "Consumer": "analysis",
    "FrameView": "analysis",
    "LumaStatistics": "analysis",
    "RGBSampler": "analysis",
    "SceneCuts": "segments",
    "StreamInfo": "clip",
    "cut_segments": "segments",
    "fan_out": "analysis",
    "open_clip": "clip",
    "sample_indices": "sampling",
    "segments_from_cuts": "segments",
    "write_png": "write",
    "write_y4m": "write",
}

__all__ = [
    "Clip",
    "Consumer",
    "FrameView",
    "LumaStatistics",
    "RGBSampler",
    "SceneCuts",
    "StreamInfo",
    "cut_segments",
    "fan_out",
    "open_clip",
    "sample_indices",
    "segments_from_cuts",
    "write_png",
    "write_y4m",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
