// CUDA's header of this name, which no wheel has that is needed otherwise.
#pragma once
#include <cuda_runtime_api.h>

extern "C" {
cudaError_t cudaProfilerStart();
cudaError_t cudaProfilerStop();
}
