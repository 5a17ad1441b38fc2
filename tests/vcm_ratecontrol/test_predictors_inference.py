"""Predictors on real pictures: consistent, repeatable, and clear about what they cannot do."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from codec_wrappers.errors import CacheError, InputError, MissingToolError
from vcm_ratecontrol.predictors.checkpoint import CheckpointCard, save_checkpoint
from vcm_ratecontrol.predictors.config import build_network, load_config
from vcm_ratecontrol.predictors.device import choose_device, in_batches
from vcm_ratecontrol.predictors.evidence import MachineEvidence, classification_statistics
from vcm_ratecontrol.predictors.inference import (
    AnyPredictor,
    JRDMapPredictor,
    ObjectJRDFullReferencePredictor,
    ObjectJRDPredictor,
    SMRCurvePredictor,
    SMRPredictor,
    load_predictor,
    predictor_of,
)
from vcm_ratecontrol.predictors.interface import Condition, Predictor, Sample
from vcm_ratecontrol.predictors.mean_curve import MeanCurves

VVC = Condition("vvc")


def trained(name: str) -> tuple[nn.Module, CheckpointCard]:
    """A network that pretends to be trained: random weights everywhere, curves entered for vvc/still/both."""
    torch.manual_seed(3)
    config = load_config(name)
    network = build_network(config).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    for module in network.modules():
        if isinstance(module, MeanCurves):
            module.set_curves(VVC, np.linspace(1, 0, 64), np.linspace(3, -7, 64), 6.0)
    return network, CheckpointCard(config, "00" * 32, {}, "Apache-2.0")


@pytest.fixture(scope="module")
def predictors() -> dict[str, AnyPredictor]:
    names = ["curve_small", "smr_small", "owjrd_small", "dtjrd_small", "jrd_map_small"]
    return {name: predictor_of(*trained(name), device="cpu") for name in names}


@pytest.fixture(scope="module")
def photograph(picture: Callable[[str], Path]) -> np.ndarray:
    with Image.open(picture("coco/000000052891.jpg")) as image:
        return np.asarray(image.convert("RGB"))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_curves_of_pictures_of_many_sizes(predictors: dict[str, AnyPredictor], photograph: np.ndarray) -> None:
    predictor = predictors["curve_small"]
    assert isinstance(predictor, SMRCurvePredictor)
    sure = MachineEvidence("classification", classification_statistics([0.95, 0.01]))
    samples = [
        Sample(photograph, condition=VVC),
        Sample(noise(5, 3), condition=VVC),
        Sample(photograph[:, ::-1].copy(), condition=VVC, evidence=(sure, sure)),
        Sample(photograph.transpose(1, 0, 2).copy(), condition=VVC),
    ]
    together = predictor.predict(samples)
    for curve, sample in zip(together, samples, strict=True):
        for values in (curve.smr, curve.low, curve.high, curve.log2_bits):
            assert values.shape == (64,)
            assert values.dtype == np.float32
            assert (np.diff(values) <= 0).all()
        alone = predictor.predict([sample])[0]
        np.testing.assert_allclose(curve.smr, alone.smr, atol=1e-5)
        np.testing.assert_allclose(curve.log2_bits, alone.log2_bits, atol=1e-5, rtol=1e-5)
        assert curve.shift == pytest.approx(alone.shift, abs=1e-4)
    level = together[0].highest_level(0.5)
    assert level is not None
    assert together[0].smr[level] >= 0.5 > together[0].smr[level + 1]
    assert (together[0].highest_level(0.5, safe=True) or 0) <= level
    assert together[0].highest_level(1.1) is None


def test_an_8k_picture_is_answered_by_every_kind(predictors: dict[str, AnyPredictor]) -> None:
    picture = np.kron(noise(540, 960), np.ones((8, 8, 1), dtype=np.uint8))
    curve = predictors["curve_small"]
    assert isinstance(curve, SMRCurvePredictor)
    assert np.isfinite(curve.predict([Sample(picture, condition=VVC)])[0].smr).all()
    maps = predictors["jrd_map_small"]
    assert isinstance(maps, JRDMapPredictor)
    part = picture[:2160, :3840]  # a quarter of it: tiles in both directions, in a quarter of the time
    found = maps.predict([Sample(part)])[0]
    assert found.level.shape == (135, 240)
    assert np.isfinite(found.level).all()


def test_maps_of_small_and_ordinary_pictures(predictors: dict[str, AnyPredictor], photograph: np.ndarray) -> None:
    predictor = predictors["jrd_map_small"]
    assert isinstance(predictor, JRDMapPredictor)
    height, width = photograph.shape[:2]
    rows, cols = -(-height // 16), -(-width // 16)
    tiny, whole = predictor.predict([Sample(noise(3, 9)), Sample(photograph)])
    assert tiny.level.shape == (1, 1)
    assert whole.level.shape == whole.deviation.shape == whole.object_probability.shape == (rows, cols)
    assert ((whole.level >= 0) & (whole.level <= 63)).all()
    strict = predictor.predict([Sample(photograph)], ratio=1.0)[0]
    assert (strict.level <= whole.level).all()
    background = predictor.predict([Sample(photograph)], threshold=1.0)[0]
    assert (background.level == 63).all()
    known = np.zeros((rows, cols), dtype=np.float32)
    known[: rows // 2] = 0.9
    with_detector = predictor.predict([Sample(photograph, confidence_map=known)])[0]
    assert not np.allclose(with_detector.object_probability, whole.object_probability, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="ratio"):
        predictor.predict([Sample(photograph)], ratio=0.0)


def test_full_reference_and_objects(predictors: dict[str, AnyPredictor], photograph: np.ndarray) -> None:
    coded = photograph // 32 * 32
    smr = predictors["smr_small"]
    assert isinstance(smr, SMRPredictor)
    values = smr.predict([Sample(photograph, coded=coded, condition=VVC, level=30), Sample(photograph, coded=coded)])
    assert all(0 <= value <= 1 for value in values)
    crop, coded_crop = photograph[40:140, 30:90], coded[40:140, 30:90]
    jrd = predictors["dtjrd_small"]
    assert isinstance(jrd, ObjectJRDPredictor)
    objects = jrd.predict([Sample(crop), Sample(noise(1, 1))])
    assert all(0 <= found.level <= 63 for found in objects)
    assert objects[0].probabilities.sum() == pytest.approx(1, abs=1e-5)
    pairs = predictors["owjrd_small"]
    assert isinstance(pairs, ObjectJRDFullReferencePredictor)
    found = pairs.predict_jrd(crop, {20: crop, 30: crop, 40: coded_crop})
    assert found.level in (0, 20, 30, 40)
    for predictor in (smr, pairs):
        with pytest.raises(InputError, match="coded"):
            predictor.predict([Sample(crop)])


def test_all_predictors_have_one_interface(predictors: dict[str, AnyPredictor]) -> None:
    def name_of(predictor: Predictor[object]) -> str:
        return predictor.name

    assert [name_of(predictor) for predictor in predictors.values()] == list(predictors)
    assert all(predictor.predict([]) == [] for predictor in predictors.values())


def test_unknown_and_untrained_conditions_are_refused(
    predictors: dict[str, AnyPredictor], photograph: np.ndarray
) -> None:
    predictor = predictors["curve_small"]
    with pytest.raises(InputError, match="give a condition"):
        predictor.predict([Sample(photograph)])
    with pytest.raises(InputError, match="knows no av1/still/both"):
        predictor.predict([Sample(photograph, condition=Condition("av1"))])
    with pytest.raises(CacheError, match="without labels for hevc/still/both; it knows vvc/still/both"):
        predictor.predict([Sample(photograph, condition=Condition("hevc"))])


def test_a_network_that_breaks_down_is_not_believed(photograph: np.ndarray) -> None:
    network, card = trained("dtjrd_small")
    with torch.no_grad():
        network.head[0].bias.fill_(float("nan"))
    with pytest.raises(CacheError, match="not finite"):
        predictor_of(network, card, device="cpu").predict([Sample(photograph)])


def test_a_saved_predictor_answers_as_before(
    predictors: dict[str, AnyPredictor], photograph: np.ndarray, tmp_path: Path
) -> None:
    network, card = trained("dtjrd_small")
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, network, card)
    loaded = load_predictor(path, expected="dtjrd_small", device="cpu")
    before, after = predictors["dtjrd_small"].predict([Sample(photograph)]), loaded.predict([Sample(photograph)])
    np.testing.assert_array_equal(before[0].probabilities, after[0].probabilities)  # type: ignore[union-attr]


def test_weights_that_do_not_come_with_the_package_are_named() -> None:
    with pytest.raises(MissingToolError, match="no weights of 'efficientnet_b4'"):
        load_predictor("efficientnet_b4")
    network, card = trained("stand_in")
    with pytest.raises(InputError, match="trunk for training"):
        predictor_of(network, card, device="cpu")


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="--device"):
        choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_asked_for_but_absent() -> None:
    with pytest.raises(MissingToolError, match="--device cuda") as caught:
        choose_device("cuda")
    assert "--device auto" in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_cuda_agrees_with_the_cpu(photograph: np.ndarray) -> None:
    sample = Sample(photograph, condition=VVC)
    curves = [predictor_of(*trained("curve_small"), device=name).predict([sample])[0] for name in ("cpu", "cuda")]
    np.testing.assert_allclose(curves[0].smr, curves[1].smr, atol=1e-3)


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    notes: list[str] = []

    def run(part: range) -> list[int]:
        torch.empty((len(part) - 2) * 10**15 if len(part) > 2 else 1)  # more than any computer has
        return [index * index for index in part]

    results = list(in_batches(run, range(7), 8, notify=notes.append))  # type: ignore[arg-type]
    assert [value for _, values in results for value in values] == [index * index for index in range(7)]
    assert notes == [
        "out of memory with 7 pictures at once; going on with 3",
        "out of memory with 3 pictures at once; going on with 1",
    ]


def test_a_picture_that_does_not_fit_alone_and_other_errors() -> None:
    def never(part: range) -> None:
        torch.empty(10**16)

    with pytest.raises(InputError, match="single picture"):
        list(in_batches(never, range(2), 2, notify=lambda line: None))  # type: ignore[arg-type]

    def broken(part: range) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(in_batches(broken, range(2), 2))  # type: ignore[arg-type]


def test_importing_the_interface_does_not_import_torch() -> None:
    code = (
        "import sys, vcm_ratecontrol.predictors.interface, vcm_ratecontrol.predictors.config; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_results_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        VVC.codec = "hevc"  # type: ignore[misc]
    with pytest.raises(ValueError, match="none of still, inter"):
        Condition("vvc", "moving")  # type: ignore[arg-type]
