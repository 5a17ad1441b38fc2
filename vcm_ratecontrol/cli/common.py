"""The front that all commands share: options, progress, events, and one way to end.

    @vcm_command("vcm-measure")
    @click.argument("original", type=PATH)
    def main(run: CommandRun, original: Path) -> None:
        measured = measure(..., progress=run.progress)
        run.summarise(smr=measured.smr)      # fields of the end event
        run.show(table)                      # what a person reads

The function raises to fail; `cli.failures` says which exception means which exit code.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, cast

import click

from codec_wrappers import __version__
from vcm_ratecontrol.cli.failures import EXIT_OK, Failure, failure_of
from vcm_ratecontrol.cli.streams import Signals, discard_stdout, kept_stdout
from vcm_ratecontrol.events import END_FIELDS, ErrorInfo, EventWriter, ReaderGoneError, Status
from vcm_ratecontrol.progress import JsonProgress, Progress, RichProgress, SilentProgress, shows_progress

if TYPE_CHECKING:
    from rich.console import RenderableType

P = ParamSpec("P")

TRACEBACK_VARIABLE = "VCM_TRACEBACK"
#: Columns of a table in a file or pipe: a path that is folded finds nothing.
PIPE_WIDTH = 200


class _FilePath(click.Path):
    """A path that is not empty: `Path("")` would be the current folder, which nobody has named."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not os.fspath(value):
            self.fail("is empty; name a file or folder", param, ctx)
        return cast("Path", super().convert(value, param, ctx))


#: Type of every option and argument that names a file or folder.
PATH = _FilePath(path_type=Path)


class CommandRun:
    """What a command works with. One per process.

    events: where they go with `--json`, else None. progress: what to hand to library functions.
    """

    def __init__(self, name: str, events: EventWriter | None) -> None:
        self.name = name
        self.events = events
        self.progress: Progress = SilentProgress()
        self.quiet = False
        self.summary: dict[str, object] = {}

    @property
    def json(self) -> bool:
        return self.events is not None

    def begin(self) -> None:
        """Start the display. Called once the options are read."""
        if self.events is not None:
            self.events.start(__version__)
            self.progress = JsonProgress(self.events)
        elif not self.quiet and shows_progress(sys.stderr):
            self.progress = RichProgress(sys.stderr)

    def emit(self, event: str, **fields: object) -> None:
        """An event of the command's own with `--json`; nothing without."""
        if self.events is not None:
            self.events.write(event, **fields)

    def summarise(self, **fields: object) -> None:
        """Fields of the end event. They are told even when the command fails later on."""
        if taken := END_FIELDS & fields.keys():
            raise ValueError(f"{sorted(taken)} are fields of every end event")
        self.summary |= fields

    def show(self, *results: RenderableType) -> None:
        """Print what was found out, for a person, on stdout; ends the progress display. Nothing with `--json`."""
        self.progress.close()
        if self.json:
            return
        from rich.console import Console

        terminal = sys.stdout.isatty()
        console = Console(file=sys.stdout, width=None if terminal else PIPE_WIDTH, highlight=False)
        # Captured, as the console answers a broken pipe with an exit of its own.
        with console.capture() as captured:
            for result in results:
                console.print(result, soft_wrap=isinstance(result, str))
        try:
            sys.stdout.write(captured.get())
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError("the reader of the standard output has gone") from error


class VcmCommand(click.Command):
    """A command with one way to end: see docs/commands.md. Its function gets a `CommandRun` through `pass_run`."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Run and exit. Never returns and never prints a traceback unasked."""
        sys.exit(run_command(self, sys.argv[1:] if args is None else list(args), extra))


class VcmGroup(VcmCommand, click.Group):
    """A command with sub-commands; `common_options` go to each of those."""


pass_run = click.make_pass_decorator(CommandRun)


def vcm_command(name: str) -> Callable[[Callable[Concatenate[CommandRun, P], None]], VcmCommand]:
    """Make a function a command: it gets the `CommandRun` first, then its own options by name."""

    def decorate(function: Callable[Concatenate[CommandRun, P], None]) -> VcmCommand:
        return click.command(name=name, cls=VcmCommand)(common_options(pass_run(function)))

    return decorate


def common_options(function: Callable[P, None]) -> Callable[P, None]:
    """The options that every command has."""

    def be_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        run = context.find_object(CommandRun)
        if run is not None:
            run.quiet = value

    def flag(*names: str, text: str, callback: Any = None) -> Callable[[Callable[P, None]], Callable[P, None]]:
        return click.option(*names, is_flag=True, expose_value=False, callback=callback, help=text)

    # `--json` and `--traceback` are looked for before the options are read: they hold for mistakes in those too.
    function = flag("--json", text="Print events as JSON, one a line (docs/commands.md).")(function)
    function = flag("--quiet", "-q", text="No progress display.", callback=be_quiet)(function)
    function = flag("--traceback", text=f"Show where an error arose ({TRACEBACK_VARIABLE}=1).")(function)
    return click.version_option(__version__, message="%(prog)s %(version)s")(function)


def run_command(command: click.Command, arguments: list[str], extra: Mapping[str, Any] | None = None) -> int:
    """Run a command to its end, whatever that is. Returns the exit status."""
    signals = Signals()
    name = command.name or Path(sys.argv[0]).name
    options = _options_of(arguments)
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.handled())
        events = None
        if "--json" in options:
            events = EventWriter(stack.enter_context(kept_stdout()), name)
        run = CommandRun(name, events)
        trace = None
        try:
            signals.let_in()
            code = _invoke(command, run, arguments, extra or {})
            failure = None if code == EXIT_OK else Failure(code, "error", "Exit", "")
            signals.deaf = True
        except BaseException as error:
            signals.deaf = True
            failure = failure_of(error, signals.arrived, options)
            if "--traceback" in options or os.environ.get(TRACEBACK_VARIABLE):
                trace = "".join(traceback.format_exception(error))
        with contextlib.suppress(ReaderGoneError, OSError):
            run.progress.close()
        return _finish(run, failure, trace)


def _options_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments before a '--', which ends the options."""
    return tuple(arguments[: arguments.index("--")] if "--" in arguments else arguments)


def _invoke(command: click.Command, run: CommandRun, arguments: list[str], extra: Mapping[str, Any]) -> int:
    try:
        command._main_shell_completion(dict(extra), run.name)
        with command.make_context(run.name, list(arguments), obj=run, **extra) as context:
            run.begin()
            command.invoke(context)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return EXIT_OK


def _finish(run: CommandRun, failure: Failure | None, trace: str | None) -> int:
    """Say how it ended: the end event, and one line on stderr."""
    if run.events is not None:
        status: Status = "ok"
        code, error = EXIT_OK, None
        if failure is not None:
            status, code = failure.status, failure.exit_code
            error = ErrorInfo(type=failure.kind, message=failure.message)
        try:
            run.events.end(status, code, error, run.summary, trace)
        except (ReaderGoneError, OSError) as unwritten:
            failure = failure or failure_of(unwritten)
    if failure is None:
        return EXIT_OK
    if failure.kind == "ReaderGone":
        discard_stdout()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody may read stderr either
        if trace is not None:
            sys.stderr.write(trace)
        if failure.message:
            lead = "" if failure.status == "interrupted" else "error: "
            sys.stderr.write(f"{lead}{failure.message}\n")
        sys.stderr.flush()
    return failure.exit_code
