"""Rate control for machines: the highest quantisation that the machines which will watch still accept.

The names of `__all__` are loaded when they are first asked for, so that importing the package stays
below 0.2 s and pulls in neither torch nor a runtime.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from codec_wrappers import __version__

# ONNX Runtime else tells Microsoft of each session, and leaves files in the temporary and the cache folder (since 1.31
# on Linux, too). It reads this once, when it is imported, wherever that is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME_OF = {
    "encode": "vcm_ratecontrol.api",
    "jrd_map": "vcm_ratecontrol.jrd.map_file",
    "plan": "vcm_ratecontrol.api",
    "predict_smr_curve": "vcm_ratecontrol.api",
}

__all__ = ["__version__", "encode", "jrd_map", "plan", "predict_smr_curve"]

if TYPE_CHECKING:
    from vcm_ratecontrol.api import encode, plan, predict_smr_curve
    from vcm_ratecontrol.jrd.map_file import jrd_map


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
