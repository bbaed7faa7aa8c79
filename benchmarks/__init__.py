"""What is measured besides `gpu-lstm bench`. Libraries read their number of threads as they load: it is set first."""

import os

THREADS = 2
for variable in ("OMP_NUM_THREADS", "GPU_LSTM_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
    os.environ[variable] = str(THREADS)  # NPROC: XLA's thread pool


def need_compiled() -> None:
    """Leave with one line where the CPU's kernel, which is to be measured, isn't there."""
    from gpu_lstm.native import compiled

    if lacking := compiled.missing():
        raise SystemExit(
            f"the CPU's compiled tier isn't there to be measured ({lacking}); `pip install -e .` builds it"
        )
