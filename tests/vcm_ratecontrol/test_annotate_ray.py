"""Annotating on a Ray cluster of two nodes, one of which is killed while it works: the same shards."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vcm_ratecontrol.annotate.local import annotate_local
from vcm_ratecontrol.annotate.ray_executor import RayOptions, annotate_ray
from vcm_ratecontrol.annotate.run import Settings, annotate
from vcm_ratecontrol.annotate.task import Outcome
from vcm_ratecontrol.cli.annotate import main
from vcm_ratecontrol.labels.schema import MIN_STORED_CONFIDENCE
from vcm_ratecontrol.machines.library import LibraryRef

NAMES = ("mobilenet_v1_0.5_128_quant_onnx", "yolo_fastest_1.1")
PICTURES = ("000000052891", "000000075612", "000000098261", "000000301421")
STORE_BYTES = 80 * 2**20
SETTINGS = Settings("vvc", (22, 45), max_side=160)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node without room for work, to which nodes are added."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # A dead node is noticed after three seconds instead of fifteen.
    watch = {"health_check_period_ms": 500, "health_check_failure_threshold": 6}
    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "_system_config": watch}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_node_that_dies_costs_nothing_but_time(
    cluster: Any, asset: Callable[[str], Path], machines_dir: Path, tmp_path: Path
) -> None:
    pictures = [str(asset(f"images/coco/{name}.jpg")) for name in PICTURES]
    library = LibraryRef(machines_dir, NAMES, min_confidence=MIN_STORED_CONFIDENCE)
    # The GPUs are there in name only: what is tested is that tasks claim their share of them.
    node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": STORE_BYTES}
    nodes = [cluster.add_node(**node) for _ in range(2)]
    cluster.wait_for_nodes()
    finished: list[Outcome] = []

    def kill_one(outcome: Outcome) -> None:
        """After the first picture both nodes are at work on another one."""
        finished.append(outcome)
        if len(finished) == 1:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    options = RayOptions(cluster.address, cpus=1, gpus=0.5)
    report = annotate(
        pictures, str(tmp_path / "ray"), library, SETTINGS,
        lambda recipe, tasks, told: annotate_ray(recipe, tasks, options, told), on_outcome=kill_one,
    )  # fmt: skip
    assert (report.annotated, report.broken, len(nodes)) == (len(PICTURES), (), 1)

    annotate(
        pictures, str(tmp_path / "local"), library, SETTINGS,
        lambda recipe, tasks, told: annotate_local(recipe, tasks, 1, told),
    )  # fmt: skip
    assert files(tmp_path / "ray") == files(tmp_path / "local")


def test_the_command_joins_a_cluster(
    cluster: Any,
    asset: Callable[[str], Path],
    machines_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    picture = str(asset(f"images/coco/{PICTURES[0]}.jpg"))
    options = ["--names", NAMES[0], "--qps", "30", "--max-side", "160", "--out", str(tmp_path / "labels"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main.main(
            [picture, "--machines", str(machines_dir), *options, "--executor", "ray", "--ray-address", cluster.address]
        )
    assert ended.value.code == 0
    end = json.loads([text for text in capfd.readouterr().out.splitlines() if text.startswith("{")][-1])
    assert (end["annotated"], end["coded"]) == (1, 1)
