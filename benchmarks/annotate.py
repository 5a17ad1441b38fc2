"""How fast pictures are annotated: coded pictures per second and core, and where the time goes.

    python benchmarks/annotate.py ../shared/data/images --machines ../shared/data/machines --workers 1 2

Each number of workers annotates the same pictures into a temporary folder. The rate is taken from the steady part
of the run: from when every worker has finished a first picture (so that starting and opening the machines is not
in it) to when the first one runs out of work. A computer that does other things meanwhile spoils the rate: the load
before each run is printed, and of `--repeats` runs the quickest counts. It hardly spoils the processor time, which
has the start in it.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from vcm_ratecontrol.annotate.local import annotate_local
from vcm_ratecontrol.annotate.picture import Spent
from vcm_ratecontrol.annotate.run import Settings, annotate
from vcm_ratecontrol.annotate.task import Outcome
from vcm_ratecontrol.cli.annotate import parse_qps
from vcm_ratecontrol.cli.streams import quiet_native_stderr
from vcm_ratecontrol.labels.schema import MIN_STORED_CONFIDENCE
from vcm_ratecontrol.machines.library import LibraryRef

# COCO train2017, and the number of QPs of the SMR data set (arXiv 2211.06797): the job that a cluster would get.
COCO_PICTURES, COCO_QPS = 118_287, 36

SLOWEST_SHOWN = 5


@dataclass
class Run:
    """Outcomes of one run with their times in seconds, the sum of what they spent, and processor seconds of all."""

    workers: int
    finished: list[tuple[float, int]] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    cpu: float = 0.0

    def tell(self, outcome: Outcome) -> None:
        self.finished.append((time.monotonic(), outcome.spent.coded))
        self.spent.add(outcome.spent)

    @property
    def rate(self) -> float:
        """Coded pictures per second of the steady part."""
        steady = self.finished[self.workers - 1 : len(self.finished) - self.workers + 1]
        coded = sum(number for _, number in steady[1:])
        return coded / (steady[-1][0] - steady[0][0])


def measure(options: argparse.Namespace, workers: int) -> Run:
    run = Run(workers)
    library = LibraryRef(options.machines, min_confidence=MIN_STORED_CONFIDENCE)
    settings = Settings(options.codec, parse_qps(options.qps), max_side=options.max_side, limit=options.pictures)
    before = children_cpu()
    with tempfile.TemporaryDirectory() as folder, quiet_native_stderr():
        annotate(
            [str(options.images)],
            folder,
            library,
            settings,
            lambda recipe, tasks, told: annotate_local(recipe, tasks, workers, told),
            on_outcome=run.tell,
        )
    run.cpu = children_cpu() - before
    return run


def children_cpu() -> float:
    """Processor seconds of all child processes that have ended, encoders included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(run: Run, first: Run) -> None:
    spent = run.spent
    print(
        f"{run.workers} workers: {run.rate:.2f} coded pictures/s, {run.rate / run.workers:.2f} per worker,"
        f" {run.rate / first.rate:.2f}x of {first.workers}"
    )
    print(
        f"  per coded picture: encode {spent.encode / spent.coded:.3f} s, decode {spent.decode / spent.coded:.3f} s,"
        f" machines {spent.machines / spent.coded:.3f} s"
        f" ({spent.encode / spent.total:.0%}, {spent.decode / spent.total:.0%}, {spent.machines / spent.total:.0%})"
    )
    print(f"  processor time, start included: {run.cpu / spent.coded:.3f} s per coded picture")
    slowest = sorted(spent.by_machine.items(), key=lambda item: -item[1])[:SLOWEST_SHOWN]
    looks = spent.coded + spent.pictures
    print("  slowest machines: " + ", ".join(f"{name} {1000 * s / looks:.0f} ms" for name, s in slowest))
    hours = COCO_PICTURES * COCO_QPS / (run.rate / run.workers) / 3600
    print(f"  COCO train at {COCO_QPS} QPs: {hours:,.0f} core hours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of pictures")
    parser.add_argument("--machines", type=Path, required=True, help="machine library")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=12, help="how many of them, more than twice the workers")
    parser.add_argument("--qps", default="18,27,33,39,45,52")
    parser.add_argument("--codec", default="vvc")
    parser.add_argument("--max-side", type=int, default=640)
    options = parser.parse_args()
    if options.pictures <= 2 * max(options.workers):
        parser.error("--pictures: take more than twice the number of workers")
    best: dict[int, Run] = {}
    for _ in range(options.repeats):
        for workers in options.workers:
            print(f"{workers} workers, load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
            run = measure(options, workers)
            print(f"  {run.rate:.2f} coded pictures/s", flush=True)
            if workers not in best or run.rate > best[workers].rate:
                best[workers] = run
    for run in best.values():
        show(run, best[options.workers[0]])


if __name__ == "__main__":
    main()
