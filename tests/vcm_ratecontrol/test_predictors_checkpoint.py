"""Checkpoints: what is saved comes back; what is damaged, foreign or of another version is refused in one line."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from codec_wrappers.errors import CacheError, InputError, MissingToolError, VcmError
from vcm_ratecontrol.predictors.checkpoint import (
    FORMAT,
    METADATA_KEY,
    VERSION,
    CheckpointCard,
    load_checkpoint,
    read_card,
    save_checkpoint,
    weights_sha256,
)
from vcm_ratecontrol.predictors.config import InputSpec, PredictorConfig, build_network, load_config
from vcm_ratecontrol.predictors.dtjrd import ObjectJRDClassifier
from vcm_ratecontrol.predictors.public_weights import load_public_weights, read_state_dict

VIT = {"trunk": "vit", "size": 64, "patch": 32, "width": 16, "depth": 1, "heads": 2}
CONFIG = PredictorConfig("tiny", "dtjrd", InputSpec("stretch", 64, 64), VIT, {"epochs": 3})
CARD = CheckpointCard(CONFIG, "ab" * 32, {"mae": 5.5}, "Apache-2.0", {"command": "vcm-train tiny.toml"})


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(1)
    return build_network(CONFIG)


@pytest.fixture
def saved(network: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, network, CARD)
    return path


def rewritten(path: Path, change: Callable[[str], str]) -> Path:
    """The file with another header text and the same weights."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = change(file.metadata()[METADATA_KEY])
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {METADATA_KEY: header})
    return path


def test_round_trip(network: nn.Module, saved: Path) -> None:
    loaded, card = load_checkpoint(saved, expected=CONFIG)
    assert not loaded.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert card == dataclasses.replace(CARD, weights_sha256=weights_sha256(network.state_dict()))
    assert read_card(saved) == card
    assert saved.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_the_same_weights_give_the_same_file(network: nn.Module, saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, network, CARD)
    assert again.read_bytes() == saved.read_bytes()


def test_half_halves_matrices_and_keeps_curves(tmp_path: Path) -> None:
    config = load_config("curve_small")
    network = build_network(config)
    network.curves.set_curves(network.curves.conditions[0], [1 / 3] * 64, [0.1] * 64, 5.0)
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, network, dataclasses.replace(CARD, config=config), half=True)
    assert path.stat().st_size < 4_300_000
    loaded, _ = load_checkpoint(path, expected="curve_small")
    assert loaded.stand_in.groups.weight.dtype == torch.float32
    assert torch.equal(loaded.curves.smr, network.curves.smr)
    torch.testing.assert_close(loaded.stand_in.groups.weight, network.stand_in.groups.weight, rtol=1e-3, atol=1e-3)


def test_weights_of_the_same_network_load_whatever_the_training_was(saved: Path) -> None:
    load_checkpoint(saved, expected=dataclasses.replace(CONFIG, name="other", training={}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.replace('"version": 1', '"version": 2'), "version 2, this program reads 1"),
        (lambda header: header.replace("vcm-ratecontrol predictor", "else"), "not a predictor"),
        (lambda header: "{}", "not a predictor"),
        (lambda header: "[]", "card cannot be read"),
        (lambda header: "{", "card cannot be read"),
        (lambda header: header.replace('"licence"', '"license"'), "'licence'"),
        (lambda header: header.replace('"dtjrd"', '"unheard"'), "unheard"),
        (lambda header: header.replace('"weights_sha256": "', '"weights_sha256": "0'), "SHA-256"),
        (lambda header: header.replace('"depth": 1', '"depth": 2'), "'describe.trunk.blocks.1"),
        (lambda header: header.replace('"width": 16', '"width": 32'), "has shape"),
    ],
)
def test_other_metadata_are_refused(saved: Path, change: Callable[[str], str], message: str) -> None:
    with pytest.raises(CacheError, match=message) as caught:
        load_checkpoint(rewritten(saved, change))
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 5, 400, -1])
def test_truncated_files_are_refused(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(CacheError, match=r"tiny\.safetensors"):
        load_checkpoint(saved)


def test_a_flipped_bit_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-100] ^= 1
    saved.write_bytes(data)
    with pytest.raises(CacheError, match="SHA-256"):
        load_checkpoint(saved)


def test_a_missing_file_and_another_configuration_are_refused(saved: Path) -> None:
    with pytest.raises(MissingToolError, match="no such weights"):
        load_checkpoint(saved.with_name("absent.safetensors"))
    with pytest.raises(CacheError, match="'tiny', not of 'dtjrd_small'"):
        load_checkpoint(saved, expected="dtjrd_small")


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "nan.safetensors"
    with torch.no_grad():
        network.head.bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"head\.bias"):
        save_checkpoint(path, network, CARD)
    assert not path.exists()
    state = network.state_dict()
    card = {**dataclasses.asdict(CARD), "config": CONFIG.to_dict(), "weights_sha256": weights_sha256(state)}
    header = {"format": FORMAT, "version": VERSION, **card}
    safetensors.torch.save_file(dict(state), path, {METADATA_KEY: json.dumps(header)})
    with pytest.raises(CacheError, match=r"'head\.bias' is not finite"):
        load_checkpoint(path)


def test_public_weights_by_path_are_checked(network: ObjectJRDClassifier, tmp_path: Path) -> None:
    trunk = network.describe.trunk
    state = {f"module.{name}": torch.ones_like(value) for name, value in trunk.state_dict().items()}
    state["module.head.weight"] = torch.zeros(21843, 16)
    path = tmp_path / "vit.pth"
    torch.save({"state_dict": state}, path)
    assert load_public_weights(network, path) == ("head.weight",)
    assert bool((trunk.cls_token == 1).all())
    with pytest.raises(MissingToolError, match="SHA-256"):
        load_public_weights(network, path, sha256="0" * 64)
    with pytest.raises(MissingToolError, match="no such"):
        load_public_weights(network, tmp_path / "absent.pth")
    with pytest.raises(InputError, match="SHA-256"):
        load_public_weights(network, "https://example.invalid/vit.pth")
    as_safetensors = tmp_path / "vit.safetensors"
    safetensors.torch.save_file({"cls_token": torch.zeros(1, 1, 16)}, as_safetensors)
    with pytest.raises(CacheError, match="not the public weights") as caught:
        load_public_weights(network, as_safetensors)
    assert "\n" not in str(caught.value)


def test_files_that_could_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.pth"
    torch.save({"weight": print}, path)
    with pytest.raises(VcmError, match="weights alone"):
        read_state_dict(path)
    path.write_text("no weights at all")
    with pytest.raises(CacheError, match="weights alone"):
        read_state_dict(path)
    torch.save([1, 2], path)
    with pytest.raises(CacheError, match="no state dict"):
        read_state_dict(path)
