"""vcm-doctor: what this installation holds, and what is missing."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from codec_wrappers.errors import MissingToolError

if TYPE_CHECKING:
    from vcm_ratecontrol.installation import Finding

PIPE_WIDTH = 200


@click.command(name="vcm-doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def main(as_json: bool) -> None:
    """Print the versions of everything that the commands use.

    Exit code 0 when all that the main job needs is there, 7 when something is missing; optional parts
    (runtimes of machines, encoder programs on PATH) are only reported.
    """
    from vcm_ratecontrol.installation import inspect_installation

    findings = inspect_installation()
    missing = [finding.name for finding in findings if finding.needed and not finding.found]
    if as_json:
        report = {"ok": not missing, "missing": missing, "parts": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(report, indent=2))
    else:
        _print_table(findings, missing)
    if missing:
        sys.exit(MissingToolError.exit_code)


def _print_table(findings: "tuple[Finding, ...]", missing: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("", "part", "version", "note"):
        table.add_column(title, overflow="fold")
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            table.add_row("", f"[bold]{group}[/bold]", "", "")
        if finding.found:
            state = "[green]ok[/green]"
        else:
            state = "[red]MISSING[/red]" if finding.needed else "[yellow]absent[/yellow]"
        table.add_row(state, f"  {finding.name}", finding.version, finding.note)
    # In a file or pipe no line is folded: a path that is cut in two finds nothing.
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(table)
    console.print(f"Missing: {', '.join(missing)}" if missing else "All that the main job needs is here.")


if __name__ == "__main__":
    main()
