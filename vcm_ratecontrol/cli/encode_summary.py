"""What vcm-encode tells a person at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from vcm_ratecontrol.batch import BatchReport
from vcm_ratecontrol.report import EncodeReport

if TYPE_CHECKING:
    from vcm_ratecontrol.jrd.job import JRDReport


def summary_table(report: EncodeReport) -> Table:
    """The closing summary of one file."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("output", f"{report.output}  ({count(report.file_bytes)} bytes)")
    table.add_row("encoder", f"{report.encoder}, preset {report.preset}")
    table.add_row("QP", qp_text(report))
    table.add_row("bits", f"{count(report.bits)}  ({rate_text(report)})")
    if report.anchor is not None:
        table.add_row("saving", saving_text(report))
    if report.target is not None:
        table.add_row("SMR", smr_text(report))
        if report.predicted_smr is not None:
            table.add_row("predicted", band_text(report))
    if report.verified is not None:
        table.add_row("verified", verified_text(report))
    if report.target is not None:
        table.add_row("probes", f"{report.probes}")
    table.add_row("time", f"{report.seconds:.1f} s")
    return table


def batch_table(batch: BatchReport) -> Table:
    """The closing summary of several files: one line each, and the whole."""
    table = Table(box=None, pad_edge=False)
    for name in ("output", "QP", "bits", "SMR", "predicted"):
        table.add_column(name, justify="left" if name == "output" else "right", overflow="fold")
    for report in batch.reports:
        missed = "" if report.reached else "  NOT reached"
        table.add_row(
            str(report.output), qp_text(report), count(report.bits), _number(report.smr),
            _number(report.predicted_smr) + missed,
        )  # fmt: skip
    smr, predicted = _number(batch.mean("smr")), _number(batch.mean("predicted_smr"))
    table.add_row(f"all {len(batch.reports)}", "", count(batch.bits), smr, predicted)
    return table


def qp_text(report: EncodeReport) -> str:
    """'37' for one QP, '31..40, mean 35.8 (12 segments)' for several; the mean is over frames."""
    qps = [segment.qp for segment in report.segments]
    if len(set(qps)) == 1:
        return f"{qps[0]}" + (f"  ({len(qps)} segments)" if len(qps) > 1 else "")
    mean = sum(s.qp * (s.stop - s.start) for s in report.segments) / report.n_frames
    return f"{min(qps)}..{max(qps)}, mean {mean:.1f}  ({len(qps)} segments)"


def saving_text(report: EncodeReport) -> str:
    """Fewer bits than the anchor, and how that is known."""
    anchor = report.anchor
    assert anchor is not None
    if not anchor.measured:
        if anchor.saving < 0:
            return f"none: about {-anchor.saving:.0%} more than QP {anchor.qp} (predicted)"
        return f"about {anchor.saving:.0%} against QP {anchor.qp} (predicted)"
    on = "" if report.n_frames == 1 else f", on {anchor.segments} of {len(report.segments)} segments"
    if anchor.saving < 0:
        return f"none: {-anchor.saving:.1%} more than QP {anchor.qp}{on}"
    return f"{anchor.saving:.1%} against QP {anchor.qp}{on}"


def smr_text(report: EncodeReport) -> str:
    """SMR against the target, measured where it is, and whether it is reached."""
    how = " in the mean" if report.pool == "mean" else ""
    if report.mode == "predicted":
        state = "reached by prediction" if report.reached else "NOT reached: best effort written"
        return f"target {report.target:g}{how} {state}"
    if report.smr is None:
        return "not measured: no machine of the library sees anything"
    state = "reached" if report.reached else "NOT reached: best effort written"
    worst = f", worst frame {report.smr_min:.3f}" if report.n_frames > 1 and report.smr_min is not None else ""
    return f"{report.smr:.3f} measured{worst}; target {report.target:g}{how} {state}"


def band_text(report: EncodeReport) -> str:
    """Predicted SMR with its band."""
    low, high = _number(report.predicted_low), _number(report.predicted_high)
    return f"{_number(report.predicted_smr)}  (80 % band {low}..{high})"


def verified_text(report: EncodeReport) -> str:
    """SMR of the final file as measured."""
    verified = report.verified
    assert verified is not None
    if verified.smr is None:
        return "no machine of the library sees anything"
    return f"{verified.smr:.3f} measured on {verified.frames} frame(s), worst {_number(verified.smr_min)}"


def count(value: int | None) -> str:
    """'12,345'; nothing where it is not known."""
    return "" if value is None else f"{value:,}"


def rate_text(report: EncodeReport | JRDReport) -> str:
    """'0.1234 bpp' of a picture, '123.4 kbps' of a clip."""
    rate = report.kilobits_per_second
    return f"{_number(report.bits_per_pixel, 4)} bpp" if rate is None else f"{rate:.1f} kbps"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
