"""How well the shipped curves know clips: as of clips, and moved by the shift that their frames have as stills.

    python -m benchmarks.clips_as_stills --labels data/labels/vvc-faster-inter --clips DIR [--task both]

Every labelled frame is looked at as `vcm-encode` does without machines. Truth is the SMR of all machines of the labels.
Errors are of each clip's mean SMR over the labelled QPs; a share of 0 is what the network says of frames as of a clip.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.annotate.sources import scaled
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.predictors.interface import SMRCurve, Task
from vcm_ratecontrol.ratecontrol.predicted import CurveSource, moved_to, open_curve_source
from vcm_ratecontrol.training.curve_targets import curve_targets
from vcm_ratecontrol.training.label_set import TASKS, LabelSet, load_label_set
from vcm_ratecontrol.training.pictures import FRAME_MARK

TRUSTS = (0.0, 0.5, 0.75, 1.0)
"""Shares of the shift as a still that are followed."""

Floats = npt.NDArray[np.float64]


def frame_of(labels: LabelSet, row: int, clips: Path) -> npt.NDArray[np.uint8]:
    """A labelled frame as it was annotated: uint8 RGB [H, W, 3]."""
    name, _, number = labels.sources[row].rpartition(FRAME_MARK)
    (rgb,) = open_clip(clips / name).read_rgb([int(number)])
    return scaled(rgb, labels.config.max_side)


def looked(source: CurveSource, labels: LabelSet, clips: Path) -> tuple[list[SMRCurve], Floats]:
    """Curves of all labelled frames as of clips, and their shifts as of stills."""
    assert source.predictor is not None
    assert source.still is not None
    stills = CurveSource(source.name, source.codec, source.predictor, source.still)
    plain = CurveSource(source.name, source.codec, source.predictor, source.condition)
    frames = [frame_of(labels, row, clips) for row in range(len(labels.sources))]
    return [plain.curve(rgb) for rgb in frames], np.array([stills.curve(rgb).shift for rgb in frames])


def report(labels: LabelSet, clips: Path, task: Task) -> None:
    source = open_curve_source(labels.config.codec, "inter", task, evidence=False)
    curves, as_stills = looked(source, labels, clips)
    truth = curve_targets(labels, labels.machines_at(labels.verdicts.machines, task), labels.rows_of("train"))
    names = np.array([one.rpartition(FRAME_MARK)[0] for one in labels.sources])
    training = {names[row] for row in labels.rows_of("train")}
    qps = np.array(labels.qps)
    of_clip = {name: np.flatnonzero((names == name) & truth.known) for name in sorted(set(names[truth.known]))}
    true = [truth.shift[rows].mean() for rows in of_clip.values()]

    def error(name: str, trust: float) -> float:
        rows = of_clip[name]
        said = [(moved_to(curves[r], trust * as_stills[r]) if trust else curves[r]).smr[qps] for r in rows]
        return float(np.abs(np.mean(said, axis=0) - truth.smr[rows].mean(axis=0)).mean())

    print(
        "| task | share of the shift as a still | error of a clip's SMR | clips not trained on |\n|---|---:|---:|---:|"
    )
    unseen = [name for name in of_clip if name not in training]
    for trust in TRUSTS:
        every, others = (np.mean([error(name, trust) for name in group]) for group in (of_clip, unseen))
        print(f"| {task} | {trust:g} | {every:.3f} | {others:.3f} |")
    for what, shifts in (("as of clips", np.array([c.shift for c in curves])), ("as of stills", as_stills)):
        said = [shifts[rows].mean() for rows in of_clip.values()]
        print(f"{task}, shift {what}: correlation {np.corrcoef(true, said)[0, 1]:.2f} over {len(true)} clips")


def main() -> None:
    parser = argparse.ArgumentParser(description="How well the shipped curves know clips.")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, nargs="+", default=list(TASKS))
    given = parser.parse_args()
    labels = load_label_set(given.labels)
    for task in given.task:
        report(labels, given.clips, task)


if __name__ == "__main__":
    main()
