"""ONNX export: the graph gives in ONNX Runtime what the network gives in torch."""

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("onnxscript", reason="ONNX export needs the package onnxscript")
pytest.importorskip("onnxruntime", reason="the exported graph is checked in ONNX Runtime")

from codec_wrappers.errors import VerificationError
from vcm_ratecontrol.predictors import onnx_export
from vcm_ratecontrol.predictors.config import InputSpec, PredictorConfig, build_network, load_config

TINY = PredictorConfig(
    "tiny",
    "dtjrd",
    InputSpec("stretch", 64, 64),
    {"trunk": "vit", "size": 64, "patch": 32, "width": 16, "depth": 1, "heads": 2},
)


def test_a_network_is_exported_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = build_network(TINY)
    path = tmp_path / "new" / "tiny.onnx"
    onnx_export.export_onnx(network, TINY, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.onnx"]
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    again = tmp_path / "again.onnx"
    with pytest.raises(VerificationError, match=r"again\.onnx: output 'logits' differs"):
        onnx_export.export_onnx(network, TINY, again)
    assert not again.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["curve_small", "curve_evidence", "smr_small", "owjrd_small", "dtjrd_small", "jrd_map_small", "stand_in", "owjrd"],
)
def test_every_shipped_network_is_exported(name: str, tmp_path: Path) -> None:
    """Takes 15 to 60 seconds each."""
    torch.manual_seed(0)
    config = load_config(name)
    network = build_network(config)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    onnx_export.export_onnx(network, config, tmp_path / f"{name}.onnx")
