"""Sources of the compiled kernels; shipped as data in gpu_lstm.kernels."""
