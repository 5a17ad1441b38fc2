"""The libraries that run networks, behind one call; each is imported when a machine needs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import EncoderError, InputError, MissingToolError, VcmError
from codec_wrappers.process import run_process

from . import onnx_probe
from .decoders import OutputArray
from .manifest import MachineSpec
from .onnx_graph import with_input_shape, without_initializer_inputs

Shape = tuple[int | None, ...]
Quantisation = tuple[float, float]

_PROBE_TIMEOUT_S = 120.0

_DTYPE_OF_ONNX = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
}


class QuantisedArray:
    """An integer output that becomes float32 only where it is indexed: (q - zero point) * scale."""

    def __init__(self, data: npt.NDArray[np.integer[Any]], scale: float, zero_point: float) -> None:
        self._data, self._scale, self._zero_point = data, scale, zero_point

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        values = np.asarray(self._data[key], np.float32)
        values -= np.float32(self._zero_point)
        values *= np.float32(self._scale)
        return values


class Session(Protocol):
    """An opened network. `input_*` say what `run` takes; outputs keep the batch axis and the file's order."""

    input_shape: Shape
    input_dtype: str
    input_quantisation: Quantisation | None

    def run(self, tensor: npt.NDArray[np.generic]) -> dict[str, OutputArray]: ...


def open_session(spec: MachineSpec, threads: int = 1) -> Session:
    """Opens the network of a machine.

    Raises MissingToolError (the library is not installed, the file is corrupt), InputError (it cannot run at
    the manifest's size).
    """
    openers: dict[str, Callable[[MachineSpec, int], Session]] = {
        "onnxruntime": OnnxSession,
        "litert": LiteRtSession,
        "ncnn": NcnnSession,
    }
    try:
        with _quiet_stderr():
            return openers[spec.runtime](spec, threads)
    except VcmError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingToolError(
            f"{spec.files[0].path}: {spec.runtime} cannot open this model (machine '{spec.name}': {reason});"
            " fetch the file again or leave the machine out (--names)"
        ) from error


def _library(module: str, spec: MachineSpec) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingToolError(
            f"machine '{spec.name}' needs the Python library {module.partition('.')[0]} ({spec.runtime}),"
            " which is not installed: pip install 'vcm-ratecontrol[machines]'"
        ) from error


class OnnxSession:
    """ONNX Runtime on the CPU."""

    def __init__(self, spec: MachineSpec, threads: int) -> None:
        self._runtime = _library("onnxruntime", spec)
        self._session = self._open(_fused(spec.files[0].path), threads)
        if self._session.get_inputs()[0].shape != list(input_shape(spec)):
            self._try_size(spec, threads)
        first = self._session.get_inputs()[0]
        self._input = first.name
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._output_quantisation = dict(spec.quantisation.get("out", {}))
        self.input_shape: Shape = tuple(d if isinstance(d, int) else None for d in first.shape)
        if first.type not in _DTYPE_OF_ONNX:
            raise ValueError(f"input type {first.type} is not supported")
        self.input_dtype = _DTYPE_OF_ONNX[first.type]
        scale = spec.quantisation.get("in")
        self.input_quantisation: Quantisation | None = (float(scale[0]), float(scale[1])) if scale else None

    def _try_size(self, spec: MachineSpec, threads: int) -> None:
        """Reopens a network of another fixed size at the manifest's, where the network bears it."""
        built, wanted = self._session.get_inputs()[0].shape, input_shape(spec)
        fixed = all(isinstance(d, int) for d in built[1:])
        if not fixed or sorted(d == 3 for d in built) != sorted(d == 3 for d in wanted) or len(built) != 4:
            return
        if built.index(3) != wanted.index(3) or built[1:] == list(wanted[1:]):
            return
        model = with_input_shape(spec.files[0].path.read_bytes(), wanted)
        try:
            run_process([sys.executable, "-m", onnx_probe.__name__], stdin=model, timeout_s=_PROBE_TIMEOUT_S)
        except EncoderError as error:
            raise InputError(
                f"machine '{spec.name}': {spec.files[0].path.name} is built for an input of {built} and does"
                f" not run at {list(wanted)}; correct 'size', or use 'view' for another resolution"
            ) from error
        self._session = self._open(model, threads)

    def _open(self, model: str | bytes, threads: int) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning threads would steal the core from the encoders that run beside.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return self._runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, tensor: npt.NDArray[np.generic]) -> dict[str, OutputArray]:
        values = self._session.run(self._outputs, {self._input: tensor})
        outputs: dict[str, OutputArray] = dict(zip(self._outputs, values, strict=True))
        for name, (scale, zero_point) in self._output_quantisation.items():
            outputs[name] = QuantisedArray(outputs[name], scale, zero_point)  # type: ignore[arg-type]
        return outputs


def input_shape(spec: MachineSpec) -> tuple[int, int, int, int]:
    """The input that the manifest's size and layout describe."""
    width, height = spec.geometry.size
    return (1, 3, height, width) if spec.layout == "NCHW" else (1, height, width, 3)


def _fused(path: Path) -> str | bytes:
    """The path as it is, or the file's bytes where an edit lets ONNX Runtime fuse more."""
    model = path.read_bytes()
    edited = without_initializer_inputs(model)
    # The path where nothing changes: a model with external data is found only beside its file.
    return str(path) if edited == model else edited


class LiteRtSession:
    """LiteRT (TensorFlow Lite); two files are one network cut in two and run in a chain."""

    def __init__(self, spec: MachineSpec, threads: int) -> None:
        interpreter = _library("ai_edge_litert.interpreter", spec).Interpreter
        self._parts = []
        for file in spec.files:
            part = interpreter(model_content=file.path.read_bytes(), num_threads=threads)
            part.allocate_tensors()
            self._parts.append((part, part.get_input_details()[0], part.get_output_details()))
        first = self._parts[0][1]
        self.input_shape: Shape = tuple(int(d) for d in first["shape"])
        self.input_dtype = np.dtype(first["dtype"]).name
        scale, zero_point = first["quantization"]
        quantised = self.input_dtype in ("uint8", "int8") and scale
        self.input_quantisation: Quantisation | None = (float(scale), float(zero_point)) if quantised else None

    def run(self, tensor: npt.NDArray[np.generic]) -> dict[str, OutputArray]:
        outputs: dict[str, OutputArray] = {}
        for part, first, last in self._parts:
            if outputs:
                tensor = _requantise(next(iter(outputs.values()))[...], first)
            part.set_tensor(first["index"], tensor)
            part.invoke()
            outputs = {o["name"]: _dequantised(part.get_tensor(o["index"]), o["quantization"]) for o in last}
        return outputs


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """LiteRT greets and ncnn complains on descriptor 2, past Python, into the progress display of a command."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nobody is disturbed
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        os.close(nothing)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _dequantised(data: npt.NDArray[Any], quantisation: tuple[float, int]) -> OutputArray:
    return QuantisedArray(data, *quantisation) if data.dtype in (np.uint8, np.int8) else data


def _requantise(values: npt.NDArray[np.float32], detail: dict[str, Any]) -> npt.NDArray[np.generic]:
    """The first half's output as the second half's input."""
    dtype = np.dtype(detail["dtype"])
    if dtype.kind not in "iu":
        return values.astype(dtype)
    scale, zero_point = detail["quantization"]
    info = np.iinfo(dtype)
    quantised = np.clip(np.round(values / np.float32(scale) + zero_point), info.min, info.max)
    result: npt.NDArray[np.generic] = quantised.astype(dtype)
    return result


class NcnnSession:
    """ncnn on the CPU; files are (.param, .bin)."""

    def __init__(self, spec: MachineSpec, threads: int) -> None:
        self._ncnn = _library("ncnn", spec)
        self._net = self._ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = threads
        if len(spec.files) != 2 or not spec.output_names or not spec.input_name:
            raise ValueError("an ncnn machine needs file (.param), file2 (.bin), input_name and output_names")
        # ncnn takes any file without complaint; its return code is the only sign.
        if self._net.load_param(str(spec.files[0].path)) or self._net.load_model(str(spec.files[1].path)):
            raise ValueError("not a network")
        self._input, self._outputs = spec.input_name, spec.output_names
        self.input_shape: Shape = (1, 3, None, None)
        self.input_dtype = "float32"
        self.input_quantisation: Quantisation | None = None

    def run(self, tensor: npt.NDArray[np.generic]) -> dict[str, OutputArray]:
        extractor = self._net.create_extractor()
        extractor.input(self._input, self._ncnn.Mat(tensor[0]).clone())
        outputs: dict[str, OutputArray] = {}
        for name in self._outputs:
            code, value = extractor.extract(name)
            if code:
                raise RuntimeError(f"ncnn gives no output '{name}' (code {code})")
            outputs[name] = np.array(value)[None]
        return outputs
