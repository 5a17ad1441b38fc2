"""A machine library: the machines of a manifest, opened, and run together on pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError

from .files import resolve_files
from .machine import MachineRunError, Result, Task
from .manifest import RUNTIMES, MachineSpec, Manifest, read_manifest
from .network import DEFAULT_MIN_CONFIDENCE, NetworkClassifier, NetworkDetector
from .preprocess import PreparedPicture

NetworkMachine = NetworkClassifier | NetworkDetector


@dataclass(frozen=True)
class LibraryRef:
    """What a worker process needs to open the same library again; picklable and small."""

    directory: Path
    names: tuple[str, ...] | None = None
    task: Task | None = None
    runtime: str | None = None
    threads: int = 1
    min_confidence: float = DEFAULT_MIN_CONFIDENCE

    def open(self) -> MachineLibrary:
        """Opens every machine. Raises InputError, MissingToolError."""
        specs = select(read_manifest(self.directory), self.names, self.task, self.runtime)
        machines = tuple(open_machine(s, self.threads, self.min_confidence) for s in specs)
        return MachineLibrary(self, machines)


class MachineLibrary:
    """Opened machines, in the manifest's order. Not for use by two threads at once; open one per worker."""

    def __init__(self, ref: LibraryRef, machines: Sequence[NetworkMachine]) -> None:
        self.ref = ref
        self.machines = tuple(machines)
        self._by_name = {m.name: m for m in self.machines}

    @classmethod
    def load(
        cls,
        directory: Path | str,
        names: Sequence[str] | None = None,
        task: Task | None = None,
        runtime: str | None = None,
        threads: int = 1,
        min_confidence: float = DEFAULT_MIN_CONFIDENCE,
    ) -> MachineLibrary:
        """Opens the machines of a folder with a manifest.json inside it or beside it.

        names: only these, in this order (`NAME@ncnn` and `NAME@onnx` are the twins in another runtime).
        runtime: onnxruntime, litert or ncnn: only what runs there, twins included.
        threads: per machine. min_confidence: detections below it are not reported.
        Raises InputError (manifest, unknown name), MissingToolError (file, checksum, run-time library).
        """
        chosen = tuple(names) if names is not None else None
        return LibraryRef(Path(directory), chosen, task, runtime, threads, min_confidence).open()

    def __len__(self) -> int:
        return len(self.machines)

    def __iter__(self) -> Iterator[NetworkMachine]:
        return iter(self.machines)

    def __getitem__(self, name: str) -> NetworkMachine:
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.machines)

    @property
    def hashes(self) -> Mapping[str, str]:
        """Name -> Machine.sha256."""
        return MappingProxyType({m.name: m.sha256 for m in self.machines})

    def run(self, picture: npt.NDArray[np.uint8] | PreparedPicture) -> dict[str, Result]:
        """Name -> result on one picture (uint8 [H, W, 3] RGB). Raises MachineRunError at a first failure."""
        prepared = picture if isinstance(picture, PreparedPicture) else PreparedPicture(picture)
        return {m.name: m.run_one(prepared) for m in self.machines}

    def try_run(
        self, picture: npt.NDArray[np.uint8] | PreparedPicture
    ) -> tuple[dict[str, Result], dict[str, MachineRunError]]:
        """Like run, but a machine that fails is left out of the results and named among the failures."""
        prepared = picture if isinstance(picture, PreparedPicture) else PreparedPicture(picture)
        results: dict[str, Result] = {}
        failures: dict[str, MachineRunError] = {}
        for machine in self.machines:
            try:
                results[machine.name] = machine.run_one(prepared)
            except MachineRunError as error:
                failures[machine.name] = error
        return results, failures

    def run_batch(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> list[dict[str, Result]]:
        """One dictionary as from run per picture."""
        return [self.run(p) for p in pictures]


def open_machine(spec: MachineSpec, threads: int, min_confidence: float) -> NetworkMachine:
    """Checks the files and opens the network. Raises InputError, MissingToolError."""
    spec, hashes = resolve_files(spec)
    identity = spec.identity(hashes)
    if spec.task == "classification":
        return NetworkClassifier(spec, identity, threads)
    return NetworkDetector(spec, identity, threads, min_confidence)


def select(
    manifest: Manifest, names: Sequence[str] | None, task: Task | None, runtime: str | None
) -> tuple[MachineSpec, ...]:
    """The machines asked for. Raises InputError for an unknown name or runtime, or when none is left."""
    wanted_runtime = "onnxruntime" if runtime == "onnx" else runtime
    if wanted_runtime is not None and wanted_runtime not in RUNTIMES:
        raise InputError(f"unknown runtime '{runtime}'; use one of {', '.join(RUNTIMES)}")
    known = {s.name: s for s in (*manifest.machines, *manifest.twins)}
    if names is not None:
        for name in names:
            if name not in known:
                raise InputError(f"{manifest.path}: no machine '{name}'; it has {', '.join(known)}")
        specs = [known[n] for n in dict.fromkeys(names)]
    else:
        specs = list(manifest.machines if wanted_runtime is None else known.values())
    chosen = tuple(s for s in specs if task in (None, s.task) and wanted_runtime in (None, s.runtime))
    if not chosen:
        raise InputError(f"{manifest.path}: no machine is left after the choice of names, task and runtime")
    return chosen
