"""`from vcm_ratecontrol import encode, plan, predict_smr_curve`: what a notebook sees."""
# ruff: noqa: F811 - fixtures are imported by name

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vcm_ratecontrol
from codec_wrappers.errors import InputError
from tests.vcm_ratecontrol.predicted_inputs import TWO, film, photos, weights  # noqa: F401
from vcm_ratecontrol import encode, plan, predict_smr_curve
from vcm_ratecontrol.cli.encode import main
from vcm_ratecontrol.options import EncodeArguments, JRDArguments, jrd_request_of, request_of


def test_a_picture_in_three_lines(photos: list[Path], weights: Path, tmp_path: Path) -> None:
    report = encode(photos[0], tmp_path / "out.mp4", target_smr=0.8, weights=weights)
    assert report.output.stat().st_size == report.file_bytes
    assert report.predicted_smr is not None
    assert report.predicted_smr >= 0.8
    flat = encode(str(photos[0]), str(tmp_path / "flat.mp4"), qp=40, anchor=False)
    assert (flat.mode, flat.segments[0].qp) == ("fixed", 40)


def test_a_plan_is_what_encode_does_and_writes_nothing(film: Path, weights: Path, tmp_path: Path) -> None:
    planned = plan(film, target_smr=0.8, probes=0, weights=weights)
    done = encode(film, tmp_path / "out.mkv", target_smr=0.8, probes=0, weights=weights)
    assert [segment.qp for segment in planned.segments] == [segment.qp for segment in done.segments]
    assert len(planned.commands) == len(planned.segments)
    assert (planned.bits, planned.file_bytes) == (None, None)
    assert planned.predicted_bits == sum(segment.predicted_bits or 0 for segment in planned.segments) > 0
    assert planned.predicted_bits == done.predicted_bits
    assert [line[-1] for line in planned.commands] == [
        f"./plan.{s.start:07d}-{s.stop:07d}-{s.qp:02d}.piece.mp4" for s in planned.segments
    ]


def test_a_curve_of_an_array_of_a_file_and_with_machines(photos: list[Path], weights: Path, machines_dir: Path) -> None:
    with Image.open(photos[0]) as image:
        rgb = np.asarray(image)
    curve = predict_smr_curve(rgb, weights=weights)
    np.testing.assert_array_equal(curve.smr, predict_smr_curve(photos[0], weights=weights).smr)
    assert curve.smr.shape == (64,)
    assert (np.diff(curve.smr) <= 0).all()
    sharper = predict_smr_curve(rgb, weights=weights, machines=machines_dir, names=TWO)
    assert (sharper.smr != curve.smr).any()
    with pytest.raises(InputError, match="no frame 3"):
        predict_smr_curve(photos[0], frame=3, weights=weights)


def test_a_wrong_name_is_told(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such option: taget_smr"):
        encode(photos[0], tmp_path / "out.mp4", taget_smr=0.8)  # type: ignore[call-overload]


def shared_options() -> dict[str, object]:
    """The options of the command that say what to do, as they are when none is given."""
    given = main.make_context("vcm-encode", ["in.png", "-o", "out.mp4"]).params
    return {name: value for name, value in given.items() if name not in {"sources", "output", "no_cache"}}


def test_every_option_of_the_command_is_one_of_the_library() -> None:
    known = EncodeArguments.__annotations__.keys() | JRDArguments.__annotations__.keys()
    assert known - {"progress", "on_event"} == shared_options().keys()


def test_the_defaults_are_the_same() -> None:
    defaults = {name: value for name, value in shared_options().items() if name != "cache"}
    flat: Any = {**defaults, "qp": 40}
    asked = replace(request_of("in.png", "out.mp4", flat), notes=())  # they say that some of these have no effect
    assert asked == request_of("in.png", "out.mp4", {"qp": 40})
    per_object: Any = {**defaults, "target_jrd": 0.5}
    assert jrd_request_of("in.png", "out.mp4", per_object) == jrd_request_of("in.png", "out.mp4", {"target_jrd": 0.5})


def test_importing_is_light() -> None:
    code = (
        "import sys, vcm_ratecontrol; assert 'encode' in dir(vcm_ratecontrol);"
        "heavy = {'torch', 'onnxruntime', 'av', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert set(vcm_ratecontrol.__all__) >= {"encode", "plan", "predict_smr_curve"}
    assert vcm_ratecontrol.encode.__doc__
