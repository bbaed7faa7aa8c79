"""Speed against other libraries. Libraries read their number of threads as they load, so it is set here, first."""

import os

THREADS = 2
for variable in ("OMP_NUM_THREADS", "GPU_LSTM_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
    os.environ[variable] = str(THREADS)  # NPROC: XLA's thread pool
