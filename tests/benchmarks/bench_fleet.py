"""Fine-tunes of one base as a batch: against single commands and jobs, and on a cluster of two nodes that loses one.

Four fine-tunes of the tiny trio's base. The cluster lies on this machine, each node with processes and resources of its own; the
second is killed, all its processes at once, when jobs are under way on both.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OPTIONS: dict[str, Any] = {"calibration": "default", "samples": 12, "tune_samples": 8, "sequence_length": 96, "device": "cpu"}
THREADS = 1


def fine_tunes(folder: Path) -> list[Path]:
    """The trio's two, and two more that are these, moved a little."""
    from core.demo import tiny_trio
    from tests.models import perturb, save_beside, tensors_of
    found = []
    for seed, source in enumerate((tiny_trio().pirate, tiny_trio().json)):
        tensors = tensors_of(source)
        found += [save_beside(folder / source.name, source, tensors),
                  save_beside(folder / f"{source.name}-moved", source, perturb(tensors, 0.004, seed=seed))]
    return found


def command(arguments: Sequence[object]) -> float:
    """Seconds of one command in a process of its own."""
    flags = [x for key, value in OPTIONS.items() for x in (f"--{key.replace('_', '-')}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "app", *map(str, arguments), *flags], check=True, capture_output=True, env=environment)
    return time.perf_counter() - begin


def differing(one: Path, other: Path, names: Sequence[str]) -> int:
    """How many of these deltas are not the same, byte for byte."""
    def contents(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.iterdir()}
    return sum(contents(one / n) != contents(other / n) for n in names)


def on_two_nodes(base: Path, tunes: Sequence[Path], folder: Path) -> tuple[int, int, float]:
    """(deltas done, matrices taken over from a journal, seconds) with the second node killed on the way."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    import ray
    from ray.cluster_utils import Cluster

    from app.fleet_ray import node_resources, plan_needs, ray_engine
    from core.events import AnyEvent, LayerFitted
    from core.fleet import members_of, run_fleet
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    fitted: dict[str, int] = {}
    restored: list[str] = []
    killed: list[float] = []

    def tell(name: str, event: AnyEvent) -> None:
        if isinstance(event, LayerFitted):
            fitted[name] = fitted.get(name, 0) + 1
            if event.restored:
                restored.append(event.tensor)
            if len(fitted) > 1 and not killed:
                killed.append(time.perf_counter())
                cluster.remove_node(second, allow_graceful=False)
    begin = time.perf_counter()
    try:
        members = members_of(str(base), [str(t) for t in tunes], folder, OPTIONS, THREADS)
        outcomes = run_fleet(members, ray_engine(ray, plan_needs(node_resources(ray), "cpu", None)), tell)
        seconds = time.perf_counter() - begin
    finally:
        ray.shutdown()
        cluster.shutdown()
    if not killed:
        raise RuntimeError("No node was killed: jobs never ran on both.")
    return sum(o.state == "done" for o in outcomes), len(restored), seconds


def run() -> list[dict[str, Any]]:
    """Ratios of times, and what the cluster made."""
    import torch

    from core.demo import tiny_trio
    from core.fleet import members_of, run_fleet
    from core.fleet_local import Slot, local_engine
    from core.job import Job
    torch.set_num_threads(THREADS)
    base = tiny_trio().base
    figures = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        folder = Path(work)
        tunes = fine_tunes(folder / "tunes")
        names = [t.name for t in tunes]
        (folder / "single").mkdir()
        single = sum(command(["compress", base, t, "-o", folder / "single" / t.name]) for t in tunes)
        batch = command(["fleet", base, *tunes, "-o", folder / "batch"])
        different = differing(folder / "single", folder / "batch", names)
        figures.append({"name": "4 tiny fine-tunes: one `fleet` / 4 `compress`", "value": round(batch / single, 2), "unit": "x",
                        "reference": f"{batch:.1f} s against {single:.1f} s; {different} of 4 deltas differ", "goal": 0.7,
                        "better": "lower"})
        jobs, shared = 0.0, 0.0
        for turn in range(2):                          # the first warms both up
            alone = members_of(str(base), list(map(str, tunes)), folder / f"alone-{turn}", OPTIONS, THREADS)
            together = members_of(str(base), list(map(str, tunes)), folder / f"together-{turn}", OPTIONS, THREADS)
            begin = time.perf_counter()
            for member in alone:
                Job(member.request, lambda event: None).run()
            middle = time.perf_counter()
            run_fleet(together, local_engine([Slot("cpu", THREADS)]))
            if turn:
                jobs, shared = jobs + middle - begin, shared + time.perf_counter() - middle
        figures.append({"name": "4 tiny fine-tunes: one batch / 4 jobs, both in a running process",
                        "value": round(shared / jobs, 2), "unit": "x", "reference": f"{shared:.1f} s against {jobs:.1f} s: base, "
                        "hashes and calibration tokens read once", "goal": None, "better": "lower"})
        if importlib.util.find_spec("ray") is not None:
            done, restored, seconds = on_two_nodes(base, tunes, folder / "cluster")
            different = differing(folder / "batch", folder / "cluster", names) if done == 4 else 4
            figures.append({"name": "two Ray nodes, one killed: deltas done with the local queue's bytes",
                            "value": done - different, "unit": "of 4",
                            "reference": f"{done} done, {restored} matrices taken over from journals, {seconds:.0f} s",
                            "goal": 4, "better": "higher"})
    return figures


if __name__ == "__main__":
    for row in run():
        print(row)
