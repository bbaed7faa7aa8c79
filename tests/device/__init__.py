"""A machine with two GPUs that aren't there: the real CuPy, its kernels run from their PTX by an interpreter."""
