"""Slips of the command line that the shell does not catch: one line that says what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from vcm_ratecontrol.cli.common import PATH

COMMANDS = ("annotate", "bench", "decode", "doctor", "encode", "machines", "measure", "qpmap", "train")


def invoke(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(import_module(f"vcm_ratecontrol.cli.{command}").main, list(arguments))


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def leaves(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for one in command.commands.values():
            yield from leaves(one)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_an_empty_path_for_the_current_folder(name: str) -> None:
    for command in leaves(import_module(f"vcm_ratecontrol.cli.{name}").main):
        paths = [parameter for parameter in command.params if isinstance(parameter.type, click.Path)]
        assert all(parameter.type is PATH for parameter in paths)


@pytest.mark.parametrize(
    ("command", "arguments", "word"),
    [
        ("encode", ("--qp", "30", "in.png", "-o", ""), "'-o'"),
        ("encode", ("--qp", "30", "", "-o", "out.mp4"), "'INPUT...'"),
        ("encode", ("--target-smr", "0.9", "in.png", "-o", "out.mp4", "--machines="), "'--machines'"),
        ("encode", ("--target-jrd", "0.9", "in.png", "-o", "out.mp4", "--objects", ""), "'--objects'"),
        ("decode", ("in.mp4", "-o", ""), "'-o'"),
        ("bench", ("in.png", "--machines", ".", "--out", ""), "'--out'"),
    ],
)
def test_an_empty_path_is_refused(
    command: str, arguments: tuple[str, ...], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of `-o "$OUT"` with a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    refused(invoke(command, *arguments), word, "is empty; name a file or folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["-clip.mp4", "--clip.mp4", "-output.mp4", "-quick.mp4"])
def test_a_file_that_looks_like_options_gets_a_hint(
    name: str, synthetic_clip: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that begins like an option that there is: -o utput.mp4, -q."""
    monkeypatch.chdir(tmp_path)
    arguments = ("--qp", "40", "--no-anchor", "-o", "out.mp4")
    without = invoke("encode", *arguments, name)
    refused(without, "vcm-encode --help")
    assert "./" not in without.stderr
    Path(name).symlink_to(synthetic_clip("one_frame.mp4"))
    refused(invoke("encode", *arguments, name), f"write ./{name}, or put it last, behind --")
    refused(invoke("encode", *arguments, "--nmaes", name, "--x" + "y" * 5000), "'--nmaes'")
    assert not Path("out.mp4").exists()
    for way_out in ([f"./{name}"], ["--", name]):
        assert invoke("encode", "-y", *arguments, *way_out).exit_code == 0
        assert Path("out.mp4").is_file()
