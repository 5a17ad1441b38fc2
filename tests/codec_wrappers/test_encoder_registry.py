"""The registry: every encoder that entry points name, its capabilities read from the binary, and refusals."""

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from codec_wrappers.encoder import CODEC_ALIASES, Encoder, encoder_names, get_encoder
from codec_wrappers.errors import InputError, MissingToolError, UnsupportedError
from codec_wrappers.join import Timing
from codec_wrappers.pipeline import EncodeOptions, encode
from codec_wrappers.plan import EncodePlan, Segment, flat_plan
from codec_wrappers.qpmap import QPMap
from codec_wrappers.still import StillSource, encode_still

RANGES = {"vvc": (0, 63), "hevc": (0, 51), "hevc-kvazaar": (0, 51), "av1": (0, 63)}
GREY = np.full((128, 192, 3), 128, np.uint8)


@pytest.fixture(autouse=True)
def only_bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VCM_FFMPEG", raising=False)


def test_the_names_of_the_manual_are_registered() -> None:
    assert set(CODEC_ALIASES.values()) <= set(encoder_names())
    assert {"vvenc", "x265", "kvazaar", "svtav1", "uvg266"} <= set(encoder_names())
    assert list(encoder_names()) == sorted(encoder_names())


@pytest.mark.parametrize("codec", RANGES)
def test_capabilities_are_those_of_the_binary(codec: str) -> None:
    encoder = get_encoder(codec)
    assert isinstance(encoder, Encoder)
    capabilities = encoder.capabilities()
    assert capabilities.path == imageio_ffmpeg.get_ffmpeg_exe()
    assert (capabilities.qp_min, capabilities.qp_max) == RANGES[codec]
    assert capabilities.pixel_formats
    assert encoder.default_preset in (capabilities.presets or (encoder.default_preset,))
    assert any(character.isdigit() for character in capabilities.version)
    assert capabilities.block_qp == {"hevc-kvazaar": "map", "hevc": "rectangles"}.get(codec, "none")
    rules = encoder.map_rules()
    assert (rules is None) == (capabilities.block_qp == "none")


@pytest.mark.parametrize("codec", RANGES)
def test_what_an_encoder_cannot_do_is_refused_before_it_starts(codec: str, tmp_path: Path) -> None:
    encoder = get_encoder(codec)
    capabilities = encoder.capabilities()
    source = StillSource(GREY)
    asked: list[tuple[EncodePlan, EncodeOptions]] = [
        (flat_plan(1, capabilities.qp_max + 1), EncodeOptions(coding="still")),
        (flat_plan(1, -1), EncodeOptions(coding="still")),
        (flat_plan(1, 30), EncodeOptions("no-such-preset", coding="still")),
    ]
    if capabilities.block_qp == "none":
        qp_map = QPMap(np.array([[[30, 31, 32], [30, 31, 32]]], np.int16), 64, 192, 128)
        asked.append((EncodePlan((Segment(0, 1, 30),), qp_map), EncodeOptions(coding="still")))
    for plan, options in asked:
        with pytest.raises(UnsupportedError) as refused:
            encode(plan, source, encoder, tmp_path / "out.mp4", _timing(), options)
        message = str(refused.value)
        assert capabilities.path in message
        assert capabilities.version in message
        assert "\n" not in message
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnsupportedError, match="QP 99"):
        encode_still(source, 99, encoder)


def test_unknown_codecs_are_told_what_there_is() -> None:
    with pytest.raises(InputError, match=r"^codec 'h266': unknown; choose one of .*\bhevc-kvazaar\b.*\bvvc\b"):
        get_encoder("h266")


@pytest.mark.parametrize("codec", [*RANGES, "uvg266"])
def test_executables_that_are_not_there_or_are_no_encoders(codec: str, tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match=r"^/no/such/encoder: no such program for "):
        get_encoder(codec, Path("/no/such/encoder"))
    text = tmp_path / "notes.txt"
    text.write_text("not a program")
    with pytest.raises(MissingToolError, match=r"notes.txt: no such program for "):
        get_encoder(codec, text)
    with pytest.raises(MissingToolError, match="/bin/true"):
        get_encoder(codec, Path("/bin/true")).capabilities()
    with pytest.raises(MissingToolError, match="/bin/false"):
        get_encoder(codec, Path("/bin/false")).capabilities()


def test_an_ffmpeg_without_the_library_is_a_missing_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poor = tmp_path / "ffmpeg"
    poor.write_text('#!/bin/sh\ncase "$*" in *-version*) echo "ffmpeg version 4.0";; *) echo "not recognized";; esac\n')
    poor.chmod(0o755)
    monkeypatch.setenv("VCM_FFMPEG", str(poor))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for codec in RANGES:
        with pytest.raises(MissingToolError) as missing:
            get_encoder(codec).capabilities()
        assert str(poor) in str(missing.value)


def test_others_add_encoders_without_touching_this_code(tmp_path: Path) -> None:
    """A package of somebody else's: VVenC under a name of its own."""
    (tmp_path / "others.py").write_text(
        "from codec_wrappers.vvenc import VvencEncoder\nclass Mine(VvencEncoder):\n    name = 'mine'\n"
    )
    info = tmp_path / "others-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[codec_wrappers.encoders]\nmine = others:Mine\n")
    code = (
        "from codec_wrappers.encoder import *; import numpy as np\n"
        "from codec_wrappers.still import *\n"
        "assert 'mine' in encoder_names()\n"
        "print(encode_still(StillSource(np.zeros((64, 64, 3), np.uint8)), 40, get_encoder('mine')).qp_read_back)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("40.0", "")


def _timing() -> Timing:
    from fractions import Fraction

    return Timing(Fraction(1, 25), (0,))
