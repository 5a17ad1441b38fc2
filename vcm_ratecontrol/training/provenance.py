"""How weights came to be, in words that hold on any computer: command, time, hardware, versions."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from codec_wrappers import __version__


def provenance(arguments: Sequence[str], seconds: float, device: torch.device, processes: int) -> dict[str, Any]:
    """arguments: of the command line, its name first. seconds: of training, all runs together."""
    return {
        "command": command_text(arguments),
        "training_minutes": round(seconds / 60, 1),
        "hardware": hardware(device, processes),
        "versions": {
            "vcm-ratecontrol": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def command_text(arguments: Sequence[str]) -> str:
    """The command with each path cut to its last part: where a folder lay on one computer is nobody's business."""
    return shlex.join(Path(part).name if "/" in part and not part.startswith("-") else part for part in arguments)


def hardware(device: torch.device, processes: int) -> str:
    """Such as '2 threads of Intel Xeon ...' or '4 x NVIDIA H200'."""
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''} of {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
