"""Reading a library's manifest.json into frozen specifications."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from codec_wrappers.errors import InputError

from .machine import Task

Runtime = Literal["onnxruntime", "litert", "ncnn"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "litert", "ncnn")
DECODES = (
    "yolox", "gfl", "yolov5", "yolov8", "darknet", "fastestv2", "fastestdet", "ssd_anchors", "tflite_post",
)  # fmt: skip
FITS = ("stretch", "letterbox", "letterbox-topleft")
RESIZE_MODES = ("fraction", "crop", "direct")
RUNTIME_OF_SUFFIX: dict[str, Runtime] = {".onnx": "onnxruntime", ".tflite": "litert", ".param": "ncnn"}
LAYOUT_OF_RUNTIME = {"onnxruntime": "NCHW", "litert": "NHWC", "ncnn": "NCHW"}


@dataclass(frozen=True)
class ModelFile:
    """One file of a network: where it lies, its SHA-256 (None: unchecked), where it can be fetched."""

    path: Path
    sha256: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std on 0..255, per channel in the machine's own channel order."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color: Literal["RGB", "BGR"] = "RGB"


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes size = (width, height) pixels.

    rule 'fraction': the central `value` of the shorter side, as a square, resized to size;
    'crop': the shorter side resized to `value`, then the centre cropped; 'direct' and 'stretch': resized
    whole; 'letterbox': scaled to fit, centred on `pad` grey; 'letterbox-topleft': padded right and below.
    view: the picture is brought to this size by the rule and from there to `size`, as if by a camera of
    fewer pixels.
    """

    size: tuple[int, int]
    rule: str
    value: float = 0.0
    pad: int = 114
    view: tuple[int, int] | None = None


@dataclass(frozen=True)
class MachineSpec:
    """One machine as its manifest describes it. `options` are the decoder's own fields, unparsed."""

    name: str
    task: Task
    runtime: Runtime
    files: tuple[ModelFile, ...]
    geometry: Geometry
    normalisation: Normalisation
    layout: Literal["NCHW", "NHWC"]
    decode: str | None = None
    nms_iou: float = 0.6
    class_map: tuple[int, ...] | None = None
    eval_categories: tuple[int, ...] | None = None
    labels: str = ""
    input_name: str | None = None
    output_names: tuple[str, ...] | None = None
    quantisation: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, file_hashes: tuple[str, ...]) -> str:
        """SHA-256 over the files' hashes and every setting that changes the result (not the name)."""
        settings = {
            "files": file_hashes,
            "task": self.task,
            "runtime": self.runtime,
            "geometry": [*self.geometry.size, self.geometry.rule, self.geometry.value, self.geometry.pad],
            "normalisation": [self.normalisation.mean, self.normalisation.std, self.normalisation.color],
            "layout": self.layout,
            "decode": self.decode,
            "nms_iou": self.nms_iou,
            "class_map": self.class_map,
            "output_names": self.output_names,
            "quantisation": dict(self.quantisation),
            "options": dict(self.options),
        }
        # Only where it is set, so that hashes recorded before the field existed stay what they are.
        if self.geometry.view is not None:
            settings["view"] = self.geometry.view
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The machines of one library, in the manifest's order; twins (`NAME@ncnn`, `NAME@onnx`) apart."""

    path: Path
    machines: tuple[MachineSpec, ...]
    twins: tuple[MachineSpec, ...]


def find_manifest(directory: Path) -> Path:
    """The manifest.json of a library: the path itself, inside the folder, or beside it. Raises InputError."""
    if directory.is_file():
        return directory
    for candidate in (directory / "manifest.json", directory.parent / "manifest.json"):
        if directory.is_dir() and candidate.is_file():
            return candidate
    if not directory.exists():
        raise InputError(f"{directory}: no such machine library; give a folder that holds manifest.json")
    raise InputError(f"{directory}: no manifest.json here or one folder above; see docs/machines.md for one")


def read_manifest(directory: Path | str) -> Manifest:
    """Reads and validates the manifest of a library folder. Raises InputError (one line, names the field)."""
    directory = Path(directory)
    path = find_manifest(directory)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a readable JSON manifest ({error}); repair it") from error
    entries = document.get("machines") if isinstance(document, dict) else document
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise InputError(f"{path}: no list 'machines' of objects; see docs/machines.md")
    folder = path.parent if directory.is_file() else directory
    by_name: dict[str, dict[str, Any]] = {}
    machines: list[MachineSpec] = []
    twins: list[MachineSpec] = []
    for entry in entries:
        entry = _inherit(entry, by_name, path)
        name = entry.get("name")
        if not isinstance(name, str) or not name or "@" in name:
            raise InputError(f"{path}: a machine needs a 'name' (text without '@'), got {name!r}")
        if name in by_name:
            raise InputError(f"{path}: two machines are named '{name}'; each virtual machine needs its own name")
        by_name[name] = entry
        reader = _EntryReader(path, folder, entry)
        machines.append(reader.machine())
        twins.extend(reader.twins())
    return Manifest(path, tuple(machines), tuple(twins))


def _inherit(entry: dict[str, Any], known: Mapping[str, dict[str, Any]], path: Path) -> dict[str, Any]:
    """'base' names an earlier machine whose fields hold where the entry says nothing (a virtual machine)."""
    base = entry.get("base")
    if base is None:
        return entry
    if base not in known:
        raise InputError(f"{path}: machine {entry.get('name')!r}: no machine {base!r} ('base') comes before it")
    inherited = {k: v for k, v in known[base].items() if k not in ("measured", "onnx", "ncnn")}
    return {**inherited, "folder": inherited.get("folder", base), **entry}


class _EntryReader:
    """Turns one manifest object into specifications; every refusal names manifest, machine and field."""

    def __init__(self, path: Path, folder: Path, entry: dict[str, Any]) -> None:
        self.path, self.folder, self.entry = path, folder, entry
        self.name: str = entry["name"]

    def refuse(self, what: str) -> InputError:
        return InputError(f"{self.path}: machine '{self.name}': {what}")

    def machine(self) -> MachineSpec:
        entry = self.entry
        file = entry.get("file")
        if not isinstance(file, str):
            raise self.refuse("no 'file'; name the model file (.onnx, .tflite or .param)")
        runtime = entry.get("runtime") or RUNTIME_OF_SUFFIX.get(Path(file).suffix)
        names = [file, *([entry["file2"]] if entry.get("file2") else [])]
        return self._spec(self.name, self._runtime(runtime), names, entry)

    def twins(self) -> list[MachineSpec]:
        """The same network in another runtime, where the manifest has it (fields 'onnx' and 'ncnn')."""
        twins = []
        for key in ("onnx", "ncnn"):
            twin = self.entry.get(key)
            if not isinstance(twin, dict):
                continue
            runtime = self._runtime("onnxruntime" if key == "onnx" else "ncnn")
            names = [twin["file"], *([twin["file2"]] if twin.get("file2") else [])]
            twins.append(self._spec(f"{self.name}@{key}", runtime, names, twin))
        return twins

    def _spec(self, name: str, runtime: Runtime, files: list[str], source: Mapping[str, Any]) -> MachineSpec:
        entry = self.entry
        decode = entry.get("decode")
        task = entry.get("task") or ("detection" if decode else "classification")
        if task not in ("classification", "detection"):
            raise self.refuse(f"unknown task {task!r}; use classification or detection")
        if task == "detection" and decode not in DECODES:
            raise self.refuse(f"unknown decode {decode!r}; use one of {', '.join(DECODES)}")
        class_map, categories = entry.get("class_map"), entry.get("eval_cats")
        outputs = source.get("output_names") or entry.get("outputs")
        try:
            return MachineSpec(
                name=name,
                task=cast(Task, task),
                runtime=runtime,
                files=tuple(self._file(f) for f in files),
                geometry=self._geometry(task),
                normalisation=self._normalisation(),
                layout=self._layout(runtime),
                decode=decode if task == "detection" else None,
                nms_iou=float(entry.get("nms", 0.6)),
                class_map=tuple(int(c) for c in class_map) if class_map is not None else None,
                eval_categories=tuple(int(c) for c in categories) if categories else None,
                labels=str(entry.get("labels", "")),
                input_name=source.get("input_name"),
                output_names=tuple(str(o) for o in outputs) if outputs else None,
                quantisation=source.get("quant") or {},
                options={k: entry[k] for k in DECODER_OPTIONS if k in entry},
                # A twin gives the same outputs; what it says itself was taken on other pictures.
                measured=entry.get("measured") or {},
            )
        except (TypeError, ValueError, KeyError) as error:
            raise self.refuse(f"a field has the wrong form ({error}); see docs/machines.md") from error

    def _runtime(self, value: object) -> Runtime:
        value = "onnxruntime" if value == "onnx" else value
        for runtime in RUNTIMES:
            if value == runtime:
                return runtime
        raise self.refuse(f"unknown runtime {value!r}; use one of {', '.join(RUNTIMES)}")

    def _layout(self, runtime: Runtime) -> Literal["NCHW", "NHWC"]:
        layout = self.entry.get("layout", LAYOUT_OF_RUNTIME[runtime])
        if layout not in ("NCHW", "NHWC"):
            raise self.refuse(f"unknown layout {layout!r}; use NCHW or NHWC")
        return "NCHW" if layout == "NCHW" else "NHWC"

    def _file(self, name: str) -> ModelFile:
        sub = str(self.entry.get("folder", self.name))
        candidates = [self.folder / sub / name, self.folder / "machines" / sub / name, self.folder / name]
        path = next((c for c in candidates if c.is_file()), candidates[0])
        known = [f for f in self.entry.get("files", ()) if f.get("file") == name]
        own = self.entry if name == self.entry.get("file") else {}
        detail: Mapping[str, Any] = known[0] if known else own
        if detail.get("url") and not detail.get("sha256"):
            raise self.refuse(f"'{name}' has a 'url' but no 'sha256'; only a file that can be checked is fetched")
        return ModelFile(path, detail.get("sha256"), detail.get("url"))

    def _geometry(self, task: str) -> Geometry:
        size = self._pixels("size")
        view = self._pixels("view") if "view" in self.entry else None
        if task == "detection":
            fit = self.entry.get("fit", "stretch")
            if fit not in FITS:
                raise self.refuse(f"unknown fit {fit!r}; use one of {', '.join(FITS)}")
            return Geometry(size, fit, pad=int(self.entry.get("pad", 114)), view=view)
        resize = self.entry.get("resize") or {"mode": "fraction", "value": 0.875}
        mode = resize.get("mode")
        if mode not in RESIZE_MODES:
            raise self.refuse(f"unknown resize mode {mode!r}; use one of {', '.join(RESIZE_MODES)}")
        values = {"fraction": resize.get("value", 0.875), "crop": resize.get("short", 256), "direct": 0.0}
        return Geometry(size, mode, float(values[mode]), view=view)

    def _pixels(self, key: str) -> tuple[int, int]:
        value = self.entry.get(key)
        pair = value if isinstance(value, list | tuple) else (value, value)
        if len(pair) == 2 and all(isinstance(v, int) and v > 0 for v in pair):
            return (pair[0], pair[1])
        raise self.refuse(f"'{key}' must be a number of pixels or [width, height], got {value!r}")

    def _normalisation(self) -> Normalisation:
        pre = self.entry.get("pre") or {}
        color = pre.get("color", "RGB")
        if color not in ("RGB", "BGR"):
            raise self.refuse(f"unknown pre.color {color!r}; use RGB or BGR")
        return Normalisation(_triple(pre.get("mean", 0)), _triple(pre.get("std", 1)), color)


DECODER_OPTIONS = (
    "strides", "centre", "cls_logits", "normalised", "heads", "anchors", "map90", "post_order", "output",
)  # fmt: skip


def _triple(value: Any) -> tuple[float, float, float]:
    if isinstance(value, int | float):
        return (float(value),) * 3
    r, g, b = (float(v) for v in value)
    return (r, g, b)
