"""Physical objects with their JRD over one part of the machines, and what the other machines are sure of in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.labels.objects import (
    ObjectFlags,
    Rule,
    jrd_at_ratio,
    object_jrd,
    physical_objects,
)
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE, ConfidenceStatistics, MachineEvidence, evidence_features
from vcm_ratecontrol.training.label_set import LabelSet

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ObjectTargets:
    """K physical objects of a label set over some machines.

    picture: int64 [K], row of the label set; boxes: float32 [K, 4], pixels; group: int64 [K], number of the physical
    object over all machines. jrd: int16 [K, R], at each ratio; share: float32 [K, Q], 0..1, machines that still
    recognise it at each QP. n_machines: int64 [K].
    """

    picture: Indices
    boxes: Floats
    group: Indices
    jrd: npt.NDArray[np.int16]
    share: Floats
    n_machines: Indices

    def __len__(self) -> int:
        return len(self.picture)


@dataclass(frozen=True, eq=False)
class ObjectBank:
    """Objects of one label set as all its detectors see them, grouped into physical ones.

    jrd: int16 [N], per object and machine; groups: int64 [N]; order, starts: members of group g are
    order[starts[g]:starts[g + 1]].
    """

    labels: LabelSet
    objects: ObjectFlags
    jrd: npt.NDArray[np.int16]
    groups: Indices
    order: Indices
    starts: Indices

    @classmethod
    def of(cls, labels: LabelSet, rule: Rule = "window") -> ObjectBank:
        objects = labels.objects
        groups = physical_objects(objects)
        order = np.argsort(groups, kind="stable")
        starts = np.searchsorted(groups[order], np.arange(int(groups.max(initial=-1)) + 2))
        return cls(labels, objects, object_jrd(objects, rule), groups, order, starts)

    def targets(self, machines: Sequence[str], ratios: Sequence[float], least_machines: int) -> ObjectTargets:
        """Physical objects that at least so many of these machines see."""
        members = np.flatnonzero(np.isin(self.objects.machine, self.labels.machines_at(machines)))
        known, local = np.unique(self.groups[members], return_inverse=True)
        chosen = self.objects.of_machines([name for name in self.objects.machines if name in set(machines)])
        found = [jrd_at_ratio(chosen, self.jrd[members], local, ratio, least_machines) for ratio in ratios]
        counts = np.bincount(local, minlength=len(known))
        recognised = np.zeros((len(known), self.objects.recognised.shape[1]), np.float32)
        np.add.at(recognised, local, self.objects.recognised[members].astype(np.float32))
        keep = counts >= least_machines
        return ObjectTargets(
            picture=found[0].picture,
            boxes=found[0].boxes,
            group=known[keep],
            jrd=np.stack([one.jrd for one in found], axis=1),
            share=(recognised[keep] / counts[keep, None]).astype(np.float32),
            n_machines=counts[keep],
        )

    def members(self, group: int, machines: Indices) -> Indices:
        """Places in `objects` of a physical object as those of the machines (indices) see it: int64 [m]."""
        members = self.order[self.starts[group] : self.starts[group + 1]]
        return members[np.isin(self.objects.machine[members], machines)]

    def evidence(self, group: int, machines: Indices) -> Floats:
        """Evidence of those of the machines (indices) that see the object: float32 [m, N_EVIDENCE]."""
        told = self.members(group, machines)
        if not len(told):
            return np.zeros((0, N_EVIDENCE), np.float32)
        return np.stack([evidence_features(self._of_member(int(member))) for member in told])

    def _of_member(self, member: int) -> MachineEvidence:
        row = int(self.objects.picture[member])
        x1, y1, x2, y2 = (float(value) for value in self.objects.boxes[member])
        area = float(self.labels.widths[row] * self.labels.heights[row])
        size = float(np.sqrt(max(0.0, x2 - x1) * max(0.0, y2 - y1) / area))
        return object_evidence(float(self.objects.confidences[member]), size)


def object_evidence(confidence: float, size: float) -> MachineEvidence:
    """What a detector that sees one object says of it. confidence: 0..1; size: 0..1, sqrt(box area / picture area)."""
    return MachineEvidence("detection", ConfidenceStatistics(confidence, confidence, confidence, 0.0, 1, size))
