"""Joint PCA of function vectors that are larger than the memory it may use."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.errors import CorruptRunError
from llc_dynamics.pca.decomposition import choose_solver
from llc_dynamics.seeding import numpy_generator


def record(path, num_rows, num_features, seed, rows_per_shard=64):
    """A smooth curve in 12 directions plus noise, on a large mean; returns the vectors as they are stored."""
    generator = numpy_generator(seed, "streaming")
    shared = numpy_generator(99, "streaming")
    directions = shared.standard_normal((12, num_features)).astype(np.float32)
    mean = 30 * shared.standard_normal(num_features).astype(np.float32)
    time = np.linspace(0, np.pi, num_rows)[:, None] * np.arange(1, 13) + seed
    vectors = np.cos(time).astype(np.float32) / np.arange(1, 13, dtype=np.float32) ** 2 @ directions + mean
    vectors += 0.02 * generator.standard_normal(vectors.shape, dtype=np.float32)
    with ld.TrajectoryWriter(path, torch.nn.Linear(1, 1), rows_per_shard=rows_per_shard) as writer:
        for step, vector in enumerate(vectors):
            writer.record(step, outputs=vector, weights=step % 50 == 0)
    return vectors


@pytest.mark.parametrize("solver", ["gram", "covariance", "randomized"])
@pytest.mark.parametrize("shape", [(150, 90), (60, 700)])
def test_singular_values_of_streamed_runs_are_those_of_the_matrix_in_memory(tmp_path, solver, shape):
    paths = [tmp_path / f"run-{seed}" for seed in range(3)]
    whole = np.concatenate([record(path, *shape, seed=seed) for seed, path in enumerate(paths)]).astype(np.float64)
    block = 7 * 8 * shape[1] / 2**20
    pca = ld.JointTrajectoryPCA(6, solver=solver, block_megabytes=block).fit([ld.Trajectory(path) for path in paths])
    centred = whole - whole.mean(axis=0)
    _, expected, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(pca.singular_values_, expected[:6], rtol=1e-5)
    np.testing.assert_allclose(pca.explained_variance_ratio_, (expected**2 / (expected**2).sum())[:6], rtol=2e-5)
    overlap = np.abs(np.sum(pca.components_ * directions[:6], axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)


def test_the_solver_follows_the_shape():
    assert choose_solver(34 * 2203, 8192, 2048) == "randomized"
    assert choose_solver(3 * 120, 4096, 4096) == "gram"
    assert choose_solver(34 * 2203, 512, 32768) == "covariance"
    # Rows of 8 MB: a Gram matrix would read every block again for every other one.
    assert choose_solver(2203, 1_000_000, 16) == "randomized"
    assert choose_solver(200, 1_000_000, 16) == "gram"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be set back on Linux only")
@pytest.mark.parametrize(("solver", "limit"), [("gram", 125e6), ("randomized", 60e6)])
def test_a_fit_takes_the_memory_of_a_few_blocks(tmp_path, solver, limit):
    """In a process of its own, by the peak of its resident memory: 131 MB of float64 vectors, blocks of 8 MB."""
    paths = [tmp_path / f"run-{seed}" for seed in range(2)]
    for seed, path in enumerate(paths):
        record(path, 1000, 8192, seed)
    program = """
import sys
from pathlib import Path
import numpy as np
import llc_dynamics as ld

def resident(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

solver, *paths = sys.argv[1:]
runs = [ld.Trajectory(path) for path in paths]
ld.JointTrajectoryPCA(2, solver=solver).fit([np.random.default_rng(0).standard_normal((40, 500))])
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
ld.JointTrajectoryPCA(4, solver=solver, block_megabytes=8).fit(runs)
print((resident("VmHWM") - before) * 1024)
"""
    command = [sys.executable, "-c", program, solver, *map(str, paths)]
    taken = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # The Gram matrix of 2,000 rows is 32 MB, as is what LAPACK makes of it; the vectors in memory would be 131 MB.
    assert 8e6 < taken < limit, f"{taken / 1e6:.0f} MB"


def test_damage_is_met_on_the_way(tmp_path):
    import h5py

    path = tmp_path / "run"
    record(path, 100, 64, 0, rows_per_shard=10)
    shard = path / "shards" / "shard-000007.h5"
    with h5py.File(shard) as file:
        place = file["outputs"].id.get_offset() + 3 * 256 + 17
    content = bytearray(shard.read_bytes())
    content[place] ^= 2
    shard.write_bytes(content)
    with pytest.raises(CorruptRunError, match="step 73"):
        ld.JointTrajectoryPCA(2).fit(ld.Trajectory(path))
