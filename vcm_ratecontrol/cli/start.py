"""Where the installed programs begin, before anything is imported.

Ctrl-C in the tenths of a second that imports take would end in the traceback of one of them. So signals wait for as
long; `cli.common.run_command` lets them in as soon as it can end as docs/commands.md promises.
"""

from __future__ import annotations

import signal
from functools import partial
from importlib import import_module


def start(name: str) -> None:
    """Run the command of `vcm_ratecontrol.cli.NAME`; never returns."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    import_module(f"vcm_ratecontrol.cli.{name}").main()


annotate = partial(start, "annotate")
bench = partial(start, "bench")
decode = partial(start, "decode")
doctor = partial(start, "doctor")
encode = partial(start, "encode")
machines = partial(start, "machines")
measure = partial(start, "measure")
qpmap = partial(start, "qpmap")
train = partial(start, "train")
