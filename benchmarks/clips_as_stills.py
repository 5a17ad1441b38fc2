"""How well the shipped curves know clips: as of clips, and moved by the shift that their frames have as stills.

    python -m benchmarks.clips_as_stills --labels data/labels/vvc-faster-inter --clips DIR [--task both]

Every labelled frame is looked at as `vcm-encode` does without machines. Truth is the SMR of all machines of the labels.
Errors are of each clip's mean SMR over the labelled QPs; a share of 0 is what the network says of frames as of a clip.
Then what a clip gets that is coded by itself at one QP: without and with the margin that plans keep.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.annotate.sources import scaled
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.predictors.interface import SMRCurve, Task
from vcm_ratecontrol.ratecontrol import pooling
from vcm_ratecontrol.ratecontrol.predicted import CurveSource, moved_to, open_curve_source
from vcm_ratecontrol.ratecontrol.shift import fragile, margin
from vcm_ratecontrol.training.curve_targets import curve_targets
from vcm_ratecontrol.training.label_set import TASKS, LabelSet, load_label_set
from vcm_ratecontrol.training.pictures import FRAME_MARK

TRUSTS = (0.0, 0.5, 0.75, 1.0)
"""Shares of the shift as a still that are followed."""

TARGETS = (0.7, 0.8)
"""SMRs asked for; the labels of clips end at QP 17, where few clips have 0.9."""

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


def report_targets(labels: LabelSet, clips: Path, task: Task) -> None:
    """The SMR that each clip gets at the QP planned for it alone."""
    source = open_curve_source(labels.config.codec, "inter", task, evidence=False)
    curves = [source.curve(frame_of(labels, row, clips)) for row in range(len(labels.sources))]
    truth = curve_targets(labels, labels.machines_at(labels.verdicts.machines, task), labels.rows_of("train"))
    names = np.array([one.rpartition(FRAME_MARK)[0] for one in labels.sources])
    training = {names[row] for row in labels.rows_of("train")}
    clip_names = sorted(set(names[truth.known]))
    levels, qps = np.arange(N_LEVELS), np.array(labels.qps)
    said, true, unsure = [], [], []
    for name in clip_names:
        rows = np.flatnonzero((names == name) & truth.known)
        said.append(np.mean([curves[row].smr for row in rows], axis=0))
        unsure.append(np.mean([curves[row].shift_deviation for row in rows]))
        true.append(np.interp(levels, qps, truth.smr[rows].mean(axis=0)))
    unseen = np.array([name not in training for name in clip_names])
    print("| task | asked | margin | measured | missed by, mean | clips not trained on: measured | missed by |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for target in TARGETS:
        for text, by in (("none", np.zeros(len(said))), ("as planned", margin(np.array(unsure)))):
            safe = np.where(levels < source.lowest_level, said, fragile(said, levels, by)).clip(0, 1)
            chosen = pooling.each(safe, np.zeros_like(safe), levels, target).index
            got = np.array(true)[np.arange(len(said)), chosen]
            missed = np.maximum(0.0, target - got)
            cells = [got.mean(), missed.mean(), got[unseen].mean(), missed[unseen].mean()]
            print(f"| {task} | {target:g} | {text} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description="How well the shipped curves know clips.")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, nargs="+", default=list(TASKS))
    given = parser.parse_args()
    labels = load_label_set(given.labels)
    for task in given.task:
        report(labels, given.clips, task)
        report_targets(labels, given.clips, task)


if __name__ == "__main__":
    main()
