"""Who chooses and who judges: two sets of machines, disjoint for 'unseen machines', equal for 'known machines'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codec_wrappers.errors import InputError
from vcm_ratecontrol.labels.schema import MIN_STORED_CONFIDENCE
from vcm_ratecontrol.machines.library import LibraryRef, MachineLibrary, NetworkMachine, select
from vcm_ratecontrol.machines.machine import Task
from vcm_ratecontrol.machines.manifest import read_manifest


@dataclass(frozen=True)
class MachineSets:
    """libraries: where all of them are found (one or two folders). choosing, judging: names."""

    libraries: tuple[LibraryRef, ...]
    choosing: tuple[str, ...]
    judging: tuple[str, ...]

    @property
    def known(self) -> bool:
        """The judges are the machines that choose."""
        return set(self.choosing) == set(self.judging)

    def open(self) -> MachineLibrary:
        """All machines of both sets as one library. Raises InputError, MissingToolError."""
        opened: dict[str, NetworkMachine] = {}
        for library in self.libraries:
            for machine in library.open():
                twin = opened.setdefault(machine.name, machine)
                if twin.sha256 != machine.sha256:
                    raise InputError(
                        f"--judge: its machine '{machine.name}' is another than that of --machines; rename it"
                    )
        return MachineLibrary(self.libraries[0], tuple(opened.values()))

    def shared(self, library: MachineLibrary) -> tuple[str, ...]:
        """Judges that choose as well, be it under another name; empty when both sets are meant to be the same."""
        if self.known:
            return ()
        choosing = {library[name].sha256 for name in self.choosing}
        return tuple(name for name in self.judging if library[name].sha256 in choosing)


def machine_sets(
    machines: Path,
    names: Sequence[str] | None,
    judge: str | None,
    judge_names: Sequence[str] | None,
    task: Task | None = None,
) -> MachineSets:
    """The sets that options ask for.

    judge: None (the choosing machines, or `judge_names` of the same library), 'hash' (the library is split by
    `training.machine_split`), or the folder of another library. names: the choosing machines, None for all that do
    not judge. Raises InputError: unknown names, or a side without machines.
    """
    if judge == "hash":
        from vcm_ratecontrol.training.machine_split import split_machines

        if judge_names is not None:
            raise InputError("--judge hash: divides the library itself; leave out --judge-names")
        specs = select(read_manifest(machines), names, task, None)
        split = split_machines([s.name for s in specs], [s.task for s in specs])
        return _sets([(machines, (*split.choosing, *split.judging))], split.choosing, split.judging, task)
    if judge is not None:
        chosen = _names(machines, names, task)
        judging = _names(Path(judge), judge_names, task)
        return _sets([(machines, chosen), (Path(judge), judging)], chosen, judging, task)
    if judge_names is None:
        chosen = _names(machines, names, task)
        return _sets([(machines, chosen)], chosen, chosen, task)
    judging = _names(machines, judge_names, task)
    chosen = tuple(n for n in _names(machines, names, task) if names is not None or n not in judging)
    if not chosen:
        raise InputError(
            "--judge-names: leaves no machine to choose with; name fewer, or the choosing ones with --names"
        )
    return _sets([(machines, tuple(dict.fromkeys((*chosen, *judging))))], chosen, judging, task)


def _names(directory: Path, names: Sequence[str] | None, task: Task | None) -> tuple[str, ...]:
    return tuple(spec.name for spec in select(read_manifest(directory), names, task, None))


def _sets(
    found: Sequence[tuple[Path, tuple[str, ...]]],
    choosing: tuple[str, ...],
    judging: tuple[str, ...],
    task: Task | None,
) -> MachineSets:
    refs = tuple(LibraryRef(folder, names, task, min_confidence=MIN_STORED_CONFIDENCE) for folder, names in found)
    return MachineSets(refs, choosing, judging)
