"""Signals that arrive while a command is still being imported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vcm_ratecontrol.encode_runs import environment

# As the installed program does, but for a signal in the middle of the imports: when `click` is asked for.
SCRIPT = """
import os, sys

class Strikes:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Strikes())
from vcm_ratecontrol.cli.start import {command}
sys.exit({command}())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["encode", "bench"])
def test_a_signal_during_the_imports_ends_the_command_as_later_on(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    script = SCRIPT.format(number=int(number), command=command)
    arguments = [sys.executable, "-c", script, "in.png", "-o", "out.mp4", "--qp", "30", "--json"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment())
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    (end,) = map(json.loads, done.stdout.splitlines())
    assert (end["event"], end["status"], end["exit_code"]) == ("end", "interrupted", 130)
    assert list(tmp_path.iterdir()) == []


def test_signals_are_let_in_afterwards(tmp_path: Path) -> None:
    """Neither a command nor the encoders that it starts may be deaf to them."""
    script = (
        "import signal, sys, types; sys.modules['vcm_ratecontrol.cli.told'] = told = types.ModuleType('told')\n"
        "from vcm_ratecontrol.cli import start\n"
        "from vcm_ratecontrol.cli.common import vcm_command\n"
        "@vcm_command('vcm-told')\n"
        "def main(run): run.show(str(signal.pthread_sigmask(signal.SIG_BLOCK, ())))\n"
        "told.main = main; start.start('told')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")
