"""Slips of the command line that the shell does not catch: one line that says what to write instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

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


@pytest.fixture
def still(picture: Callable[[str], Path], tmp_path: Path) -> Path:
    """A small real picture: 96x72."""
    path = tmp_path / "still.png"
    with Image.open(picture("coco/000000052891.jpg")) as image:
        image.convert("RGB").resize((96, 72)).save(path)
    return path


IDLE: list[tuple[tuple[str, ...], list[str]]] = [
    ((), []),
    (("--segment-seconds", "2", "--workers", "1", "--preset", "faster", "-y"), []),
    (
        ("--strict", "--probes", "3", "--pool", "mean", "--floor", "0"),
        ["with --qp these have no effect: --pool, --floor, --probes, --strict"],
    ),
    (("--cache", "somewhere"), ["with --qp these have no effect: --cache"]),
    (("--no-cache",), ["with --qp these have no effect: --no-cache"]),
    (
        ("--machines", "MACHINES", "--names", "yolo_fastestv2", "--t-iou", "0.5"),
        ["with --qp these have no effect: --machines, --names, --t-iou; with --verify-smr machines measure the result"],
    ),
    (
        ("--machines", "MACHINES", "--names", "yolo_fastestv2", "--verify-smr", "--strict"),
        ["with --qp these have no effect: --strict"],
    ),
]


@pytest.mark.parametrize(("options", "notes"), IDLE)
def test_options_that_mean_nothing_beside_a_qp_are_named(
    options: tuple[str, ...], notes: list[str], still: Path, machines_dir: Path, tmp_path: Path
) -> None:
    """Defaults do not count, but what was written does, also where it is the default."""
    given = [str(machines_dir) if word == "MACHINES" else word for word in options]
    run = invoke("encode", str(still), "-o", str(tmp_path / "out.mp4"), "--qp", "40", "--no-anchor", "--json", *given)
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["notes"] == notes
    folder = tmp_path / "coded"
    folder.mkdir()
    shown = invoke("encode", str(still), "-o", str(folder), "--qp", "40", "--no-anchor", *given)
    assert [line for line in shown.stdout.splitlines() if line.startswith("note: ")] == [f"note: {n}" for n in notes]


def test_options_that_mean_nothing_without_machines_are_named(still: Path, tmp_path: Path) -> None:
    given = ("--target-smr", "0.7", "--probes", "0", "--t-conf", "0.4", "--cache", str(tmp_path / "cache"), "--json")
    run = invoke("encode", str(still), "-o", str(tmp_path / "out.mp4"), *given)
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["notes"] == [
        "without --machines these have no effect: --t-conf, --cache"
    ]


def test_a_folder_that_got_nothing_is_not_left(still: Path, tmp_path: Path) -> None:
    folder = tmp_path / "coded"
    refused(invoke("encode", str(still), str(tmp_path / "no.png"), "-o", str(folder), "--target-smr", "0.7"), "no.png")
    assert not folder.exists()
    folder.mkdir()  # one that was there stays
    refused(invoke("encode", str(still), str(tmp_path / "no.png"), "-o", str(folder), "--target-smr", "0.7"), "no.png")
    assert folder.is_dir()


def test_an_empty_preset_is_no_preset(still: Path, tmp_path: Path) -> None:
    run = invoke("encode", str(still), "-o", str(tmp_path / "out.mp4"), "--qp", "40", "--preset", "")
    refused(run, "preset ''", "faster")


def test_contradictions_beside_a_qp_are_refused(still: Path, tmp_path: Path) -> None:
    arguments = (str(still), "-o", str(tmp_path / "out.mp4"), "--qp", "40")
    refused(invoke("encode", *arguments, "--target-smr", "0.9"), "--target-smr", "--qp")
    refused(invoke("encode", *arguments, "--target-jrd", "0.9"), "--qp", "--target-jrd")
    refused(invoke("encode", *arguments, "--background-qp", "50"), "--background-qp needs --target-jrd")
    refused(invoke("encode", *arguments, "--verify-smr"), "--verify-smr", "--machines DIR")
