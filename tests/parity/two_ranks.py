"""The golden assignments of two ranks, on two real ranks: processes for PyTorch, devices for JAX.

    python -m tests.parity.two_ranks torch OUT RANK RENDEZVOUS        (once for each rank)
    python -m tests.parity.two_ranks jax OUT                          (with two CPU devices)

Writes the codes of every case, in float64, to OUT. TensorFlow's collectives on a CPU have no maximum; it is judged by
the sharded form in tests/contract, as all are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from swav_spec import registry
from swav_spec.config import Execution
from swav_spec.testing.golden import GoldenCase, cases

GOLDEN = Path(__file__).parents[1] / "golden"
PRECISION = "float64"


def two_rank_cases() -> list[GoldenCase]:
    """Cases of the second golden file that are assignments."""
    return [case for case in cases(GOLDEN, "a_sinkhorn_world2") if case.about["iterations"] >= 1]


def settings(case: GoldenCase) -> dict[str, float]:
    return {"epsilon": case.about["epsilon"], "iterations": case.about["iterations"]}


def torch_rank(out: str, rank: str, rendezvous: str) -> None:
    """One of two processes: its half of the rows, reductions by torch.distributed."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=2)
    implementation = registry.load("torch", Execution("cpu", PRECISION))

    def reduction(operation):
        def reduce(array):
            reduced = array.clone()
            dist.all_reduce(reduced, op=operation)
            return reduced

        return reduce

    hooks = {"all_max": reduction(dist.ReduceOp.MAX), "all_sum": reduction(dist.ReduceOp.SUM)}
    codes = {}
    for case in two_rank_cases():
        half = np.split(case.input("scores", PRECISION), 2)[int(rank)]
        found = implementation.sinkhorn(implementation.to_device(half), **hooks, **settings(case))
        codes[case.name] = implementation.to_host(found)
    dist.destroy_process_group()
    np.savez(out, **codes)


def jax_devices(out: str) -> None:
    """Two devices of one process: rows spread by shard_map, reductions by its collectives."""
    import jax
    from jax.sharding import Mesh, PartitionSpec

    implementation = registry.load("jax", Execution("cpu", PRECISION))
    mesh = Mesh(jax.devices(), ("rank",))
    assert mesh.size == 2
    rows = PartitionSpec("rank")
    hooks = {"all_max": lambda array: jax.lax.pmax(array, "rank"), "all_sum": lambda array: jax.lax.psum(array, "rank")}
    codes = {}
    for case in two_rank_cases():

        def of_rank(half, case=case):
            return implementation.sinkhorn(half, **hooks, **settings(case))

        spread = jax.jit(jax.shard_map(of_rank, mesh=mesh, in_specs=rows, out_specs=rows))
        codes[case.name] = implementation.to_host(spread(case.input("scores", PRECISION)))
    np.savez(out, **codes)


if __name__ == "__main__":
    {"torch": torch_rank, "jax": jax_devices}[sys.argv[1]](*sys.argv[2:])
