"""The one way into compiled code: the CPU library and CUDA kernels, found, checked and called."""
