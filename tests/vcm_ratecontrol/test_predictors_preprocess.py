"""Pictures of any size become tensors in one way; bad ones are refused with a reason."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from codec_wrappers.errors import InputError
from vcm_ratecontrol.predictors.config import InputSpec
from vcm_ratecontrol.predictors.evidence import (
    N_EVIDENCE,
    ConfidenceStatistics,
    MachineEvidence,
    classification_statistics,
    confidence_map,
    detection_statistics,
    evidence_features,
)
from vcm_ratecontrol.predictors.interface import Condition, Sample
from vcm_ratecontrol.predictors.picture_statistics import (
    N_DISTORTION,
    N_STATISTICS,
    distortion_statistics,
    picture_statistics,
)
from vcm_ratecontrol.predictors.preprocess import by_size, collate, fit_picture, input_size, object_crop, prepare
from vcm_ratecontrol.predictors.tiles import tiles_of

AREA = InputSpec("area", 384, 384, statistics=True)
MAP = InputSpec("area", 768, 448, enlarge=False, min_scale=0.4)
EIGHT_K = (4320, 7680)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "spec", "expected"),
    [
        ((1080, 1920), AREA, (288, 512)),
        ((480, 640), AREA, (320, 448)),
        ((1, 1), AREA, (384, 384)),
        ((1, 8000), AREA, (128, 1088)),
        (EIGHT_K, AREA, (288, 512)),
        ((1080, 1920), MAP, (448, 768)),
        ((480, 640), MAP, (480, 640)),
        ((3, 5), MAP, (32, 32)),
        ((77, 5), InputSpec("stretch", 224, 96), (96, 224)),
    ],
)
def test_input_sizes(size: tuple[int, int], spec: InputSpec, expected: tuple[int, int]) -> None:
    assert input_size(*size, spec) == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["stretch", "letterbox", "center", "area"]))
def test_any_size_fits(height: int, width: int, mode: str) -> None:
    spec = InputSpec(mode, 96, 64, statistics=True)
    picture = noise(height, width)
    prepared = prepare(Sample(picture, coded=picture), spec)
    assert prepared.size == input_size(height, width, spec)
    assert prepared.picture.dtype == torch.uint8
    assert all(side % 32 == 0 for side in prepared.size)
    for vector, length in ((prepared.statistics, N_STATISTICS), (prepared.distortion, N_DISTORTION)):
        assert vector is not None
        assert vector.shape == (length,)
        assert torch.isfinite(vector).all()


def test_modes_do_what_they_say() -> None:
    grey = np.full((40, 80, 3), 200, dtype=np.uint8)
    letterbox = fit_picture(grey, InputSpec("letterbox", 64, 64))
    assert (letterbox[:, 16:48] == 200).all()
    assert not letterbox[:, :16].any()
    assert not letterbox[:, 48:].any()
    center = fit_picture(grey, InputSpec("center", 96, 32))
    assert (center[:, :, 8:88] == 200).all()
    assert not center[:, :, :8].any()
    assert (fit_picture(grey, InputSpec("stretch", 32, 64)) == 200).all()


def test_resizing_is_that_of_pillow(picture) -> None:  # type: ignore[no-untyped-def]
    with Image.open(picture("coco/000000052891.jpg")) as image:
        rgb = np.asarray(image.convert("RGB"))
        expected = np.asarray(image.convert("RGB").resize((256, 192), Image.Resampling.BILINEAR))
    found = fit_picture(rgb, InputSpec("stretch", 256, 192)).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_batches_hold_one_input_size_and_pad_the_machines() -> None:
    machine = MachineEvidence("classification", classification_statistics([0.9, 0.05]))
    samples = [
        Sample(noise(60, 90)),
        Sample(noise(90, 60)),
        Sample(noise(60, 90, 1), evidence=(machine, machine), confidence_map=np.ones((4, 6), np.float32)),
    ]
    prepared = [prepare(sample, AREA) for sample in samples]
    assert by_size(prepared) == [[0, 2], [1]]
    batch = collate([prepared[0], prepared[2]])
    assert batch.evidence_mask.tolist() == [[False, False], [True, True]]
    assert (batch.confidence_map[0] == -1).all()
    assert (batch.confidence_map[1] == 1).all()
    assert batch.coded is None
    with pytest.raises(ValueError, match="input size"):
        collate(prepared)


def good_evidence(**changes: float) -> MachineEvidence:
    values = {"highest": 0.9, "mean": 0.5, "lowest": 0.3, "margin": 0.0, "count": 3, "size": 0.2}
    return MachineEvidence("detection", ConfidenceStatistics(**(values | changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample(noise(8, 8).astype(np.float32)), "uint8"),
        (Sample(noise(8, 8)[..., 0]), "uint8"),
        (Sample(noise(8, 8)[:0]), "empty: 8x0"),
        (Sample(noise(8, 8), coded=noise(8, 9)), "9x8"),
        (Sample(noise(8, 8), level=64), "level 64"),
        (Sample(noise(8, 8), level=float("nan")), "level nan"),
        (Sample(noise(8, 8), condition=Condition("av1")), "knows no av1/still/both"),
        (Sample(noise(8, 8), confidence_map=np.full((1, 1), np.nan, np.float32)), "confidence map"),
        (Sample(noise(8, 8), confidence_map=np.ones((2, 1), np.float32)), "confidence map"),
        (Sample(noise(8, 8), evidence=(good_evidence(size=float("inf")),)), "not finite"),
        (Sample(noise(8, 8), evidence=(good_evidence(mean=float("nan")),)), "0..1"),
        (Sample(noise(8, 8), evidence=(good_evidence(highest=1.2),)), "0..1"),
    ],
)
def test_bad_samples_are_refused(sample: Sample, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(sample, AREA, [Condition("vvc")])


def test_statistics_tell_detail_from_flatness_and_do_not_grow_with_the_picture() -> None:
    rough, flat = noise(*EIGHT_K), np.full((*EIGHT_K, 3), 128, dtype=np.uint8)
    assert picture_statistics(rough)[0] > picture_statistics(flat)[0] + 1
    assert picture_statistics(flat)[9] == 1  # all patches are flat
    np.testing.assert_allclose(picture_statistics(rough), picture_statistics(rough))
    blurred = (rough[:600, :800] // 64) * 64
    near, far = (distortion_statistics(rough[:600, :800], other) for other in (rough[:600, :800], blurred))
    assert (near < far).all()


def test_evidence_of_machines_as_numbers() -> None:
    boxes = [[0, 0, 50, 100], [10, 10, 20, 20], [0, 0, 4, 4], [0, 0, 1, 1]]
    statistics = detection_statistics([0.8, 0.4, 0.25, 0.1], boxes, 100, 100)
    assert statistics == ConfidenceStatistics(
        0.8, pytest.approx(0.6), 0.4, 0.0, count=2, size=pytest.approx((0.5**0.5 + 0.1) / 2)
    )
    assert detection_statistics([0.25, 0.1], boxes[2:], 100, 100) == ConfidenceStatistics(0.25, 0, 0, 0, 0, 0)
    assert detection_statistics([], [], 100, 100).highest == 0
    features = evidence_features(MachineEvidence("detection", statistics, coded=statistics, agreement=0.5))
    assert features.shape == (N_EVIDENCE,)
    assert features[:2].tolist() == [0, 1]
    np.testing.assert_array_equal(features[2:8], features[9:15])
    assert features[-1] == 0.5
    assert classification_statistics([0.6, 0.3, 0.1]).margin == pytest.approx(0.3)


def test_confidence_maps_hold_the_weakest_detection_of_a_block() -> None:
    found = confidence_map([[0, 0, 33, 16], [-5, -5, 16, 15], [70, 0, 90, 9]], [0.9, 0.4, 0.7], 60, 20)
    np.testing.assert_array_equal(found, np.array([[0.4, 0.9, 0.9, 0], [0, 0, 0, 0]], dtype=np.float32))
    with pytest.raises(ValueError, match="finite"):
        confidence_map([[0, 0, np.nan, 1]], [0.5], 60, 20)


def test_object_crops_stay_inside_the_picture() -> None:
    picture = noise(50, 60)
    np.testing.assert_array_equal(object_crop(picture, (10, 20, 30, 40)), picture[20:40, 10:30])
    assert object_crop(picture, (10, 20, 30, 40), margin=0.5).shape == (40, 40, 3)
    assert object_crop(picture, (-10, 40.5, 5.5, 90), margin=0.1).shape == (15, 8, 3)
    assert object_crop(picture, (3.2, 3.2, 3.4, 3.4)).shape == (1, 1, 3)
    for box in ((5, 5, 5, 9), (60, 0, 70, 9), (0, 0, np.nan, 9), (0, -9, 5, 0)):
        with pytest.raises(InputError, match="box"):
            object_crop(picture, box)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 9000))
def test_tiles_cover_every_block_once_and_are_large_enough(height: int, width: int) -> None:
    rows, cols = -(-height // 16), -(-width // 16)
    covered = np.zeros((1, rows, cols), dtype=np.float32)
    for tile in tiles_of(height, width, MAP):
        assert 0 <= tile.top <= tile.core_top < tile.core_bottom <= tile.bottom <= rows
        assert 0 <= tile.left <= tile.core_left < tile.core_right <= tile.right <= cols
        tile_rows, tile_cols = tile.blocks
        assert tile_rows * tile_cols * 256 * 0.4**2 <= 768 * 448 * 1.02
        whole = np.zeros_like(covered)
        tile.paste(np.ones((1, *tile.blocks), dtype=np.float32), whole)
        covered += whole
    assert (covered == 1).all()


def test_ordinary_pictures_are_one_tile_and_8k_is_cut() -> None:
    assert len(tiles_of(1080, 1920, MAP)) == 1
    assert len(tiles_of(*EIGHT_K, AREA)) == 1
    cut = tiles_of(*EIGHT_K, MAP)
    assert len(cut) > 8
    part = cut[1].cut(Sample(noise(*EIGHT_K), confidence_map=np.zeros((270, 480), np.float32)))
    assert part.confidence_map is not None
    assert part.confidence_map.shape == cut[1].blocks


def test_input_specifications_are_checked() -> None:
    for wrong in ({"mode": "crop"}, {"width": 100}, {"height": 0}, {"min_scale": 2.0}):
        with pytest.raises(InputError, match=r"\[input\]"):
            InputSpec(**({"mode": "area", "width": 64, "height": 64} | wrong))
