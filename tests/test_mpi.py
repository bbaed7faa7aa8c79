"""Ranks that MPI connects: the same bits on 1, 2 and 4 of them, also in a run that goes on with fewer."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def program():
    found = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if found is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py and an MPI library are not installed: pip install 'gpu-lstm[mpi]'")
    return found


def on(size, *arguments, module=("-m", "tests.mpi_bits")):
    """What rank 0 of so many prints; one is no job of MPI."""
    start = [] if size == 1 else [program(), "-n", str(size)]
    command = [*start, sys.executable, *(("-m", "mpi4py") if size > 1 else ()), *module, *map(str, arguments)]
    environment = os.environ | {"GPU_LSTM_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_mpi_carries(tmp_path):
    script = tmp_path / "carry.py"
    script.write_text(
        "import sys, json\nimport numpy as np\nfrom gpu_lstm.parallel import MPI\nr = MPI()\n"
        "rows = np.arange(6.0).reshape(2, 3) + 10 * r.rank\ntotal = np.ones(2) * (r.rank + 1)\nr.sum(total)\n"
        "told = [r.exchange(rows).tolist(), r.join(rows[0]).tolist(), total.tolist(), r.gather(r.rank),\n"
        "        r.broadcast({'a': r.rank}), r.any(r.rank == 1), r.any(False), r.local_size]\n"
        "every = r.gather(told)\nif r.rank == 0: print(json.dumps(every))\n",
        encoding="utf-8",
    )
    first, second = on(2, module=(str(script),))
    assert first[0] == [[0, 1, 2], [10, 11, 12]] and second[0] == [[3, 4, 5], [13, 14, 15]]
    assert first[1] == second[1] == [[0, 1, 2], [10, 11, 12]]
    assert first[2:] == second[2:] == [[3, 3], [0, 1], {"a": 0}, True, False, 2]


@pytest.mark.slow
def test_steps_on_1_2_and_4_ranks_make_the_same_weights():
    alone = on(1, 40)  # 200: python -m tests.mpi_bits
    assert len(set(alone.values())) == 12
    assert on(2, 40) == alone
    assert on(4, 40) == alone


@pytest.mark.slow
def test_a_run_of_4_ranks_goes_on_with_2_and_with_1_to_the_same_bytes(tmp_path):
    whole = on(1, tmp_path / "whole", "begin")
    whole = on(1, tmp_path / "whole", "go-on")
    on(4, tmp_path / "2", "begin")
    shutil.copytree(tmp_path / "2", tmp_path / "1")
    assert [on(size, tmp_path / str(size), "go-on") for size in (2, 1)] == [whole] * 2
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert (
            path.read_bytes() == (tmp_path / "2" / path.name).read_bytes() == (tmp_path / "1" / path.name).read_bytes()
        )
