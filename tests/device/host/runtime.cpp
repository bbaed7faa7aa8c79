// The CUDA runtime, as far as CuPy calls it: devices, memory, errors.
#include <cuda_runtime_api.h>

#include "device.h"

namespace {

cudaError_t answer(int status) { return cudaError_t(status); }

int attribute(cudaDeviceAttr which) {  // an H100's, but for the multiprocessors
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 49152;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 232448;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 233472;
    case cudaDevAttrTotalConstantMemory: return 65536;
    case cudaDevAttrWarpSize: return LANES;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrClockRate: return 1980000;
    case cudaDevAttrMemoryClockRate: return 2619000;
    case cudaDevAttrGlobalMemoryBusWidth: return 5120;
    case cudaDevAttrMultiProcessorCount: return multiprocessors();
    case cudaDevAttrL2CacheSize: return 52428800;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return 32;
    case cudaDevAttrComputeCapabilityMajor: return 9;
    case cudaDevAttrComputeCapabilityMinor: return 0;
    case cudaDevAttrCooperativeLaunch: return 1;
    default: return 0;
  }
}

bool on_device(cudaMemcpyKind kind, bool target, u64 address) {
  if (kind == cudaMemcpyDefault) return range_of(address);  // the address tells
  return kind == cudaMemcpyDeviceToDevice || kind == (target ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost);
}

}  // namespace

int multiprocessors() {
  static const char* text = std::getenv("GPU_LSTM_DEVICE_MULTIPROCESSORS");
  return text ? std::atoi(text) : 32;
}

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, answer(DONE); }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, answer(DONE); }
cudaError_t cudaGetDevice(int* device) { return *device = current_device(), answer(DONE); }
cudaError_t cudaSetDevice(int device) { return answer(set_device(device)); }
cudaError_t cudaGetDeviceCount(int* count) { return *count = DEVICES, answer(DONE); }
cudaError_t cudaGetLastError() { return answer(take_last()); }
const char* cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaError"; }
const char* cudaGetErrorString(cudaError_t error) { return reason(error); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  return *value = attribute(which), answer(DONE);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* to, int device) {
  if (device < 0 || device >= DEVICES) return answer(refuse(INVALID_DEVICE, "no such device"));
  *to = {};
  std::strcpy(to->name, "PTX on a CPU");
  to->totalGlobalMem = std::size_t(80) << 30;
  to->sharedMemPerBlock = attribute(cudaDevAttrMaxSharedMemoryPerBlock);
  to->sharedMemPerBlockOptin = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  to->regsPerBlock = attribute(cudaDevAttrMaxRegistersPerBlock);
  to->warpSize = LANES;
  to->maxThreadsPerBlock = attribute(cudaDevAttrMaxThreadsPerBlock);
  to->maxThreadsPerMultiProcessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
  to->multiProcessorCount = multiprocessors();
  to->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
  to->major = 9;
  return answer(DONE);
}
cudaError_t cudaDeviceGetPCIBusId(char* to, int size, int device) {
  std::snprintf(to, size, "0000:0%d:00.0", device);
  return answer(DONE);
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, answer(DONE); }
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = std::size_t(80) << 30;
  *free = *total - (std::size_t(1) << 30);
  return answer(DONE);
}
cudaError_t cudaProfilerStart() { return answer(DONE); }
cudaError_t cudaProfilerStop() { return answer(DONE); }

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  std::lock_guard guard(lock());
  *memory = allocate(bytes, current_device());
  return answer(*memory ? int(DONE) : refuse(OUT_OF_MEMORY, "out of memory"));
}
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFree(void* memory) {
  std::lock_guard guard(lock());
  int failed = finish_all();
  return answer(failed ? failed : release(memory));
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) { return cudaFree(memory); }
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  std::lock_guard guard(lock());
  *memory = allocate(bytes, -1);
  return answer(*memory ? int(DONE) : refuse(OUT_OF_MEMORY, "out of memory"));
}
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  std::lock_guard guard(lock());
  int device = current_device();
  u64 target = reinterpret_cast<u64>(to), source = reinterpret_cast<u64>(from);
  bool pageable = !on_device(kind, false, source) && !range_of(source);  // then it is read before this returns
  std::string read(pageable ? static_cast<const char*>(from) : "", pageable ? bytes : 0);
  int failed = submit(stream, [=] {
    if (on_device(kind, true, target)) require_access(target, bytes, true, device, "a copy");
    if (on_device(kind, false, source)) require_access(source, bytes, false, device, "a copy");
    std::memmove(to, pageable ? read.data() : from, bytes);
  });
  return answer(failed || range_of(target) || stream_of(stream)->capture ? failed : finish(stream));
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  cudaError_t failed = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return failed ? failed : answer(finish(nullptr));
}
// Between devices: each side's memory is checked as its own device's.
cudaError_t cudaMemcpyPeerAsync(void* to, int target, const void* from, int source, std::size_t bytes, cudaStream_t stream) {
  std::lock_guard guard(lock());
  return answer(submit(stream, [=] {
    require_access(reinterpret_cast<u64>(to), bytes, true, target, "a copy between devices");
    require_access(reinterpret_cast<u64>(from), bytes, false, source, "a copy between devices");
    std::memmove(to, from, bytes);
  }));
}
cudaError_t cudaMemcpyPeer(void* to, int target, const void* from, int source, std::size_t bytes) {
  return cudaMemcpyPeerAsync(to, target, from, source, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  std::lock_guard guard(lock());
  int device = current_device();
  return answer(submit(stream, [=] {
    require_access(reinterpret_cast<u64>(to), bytes, true, device, "a fill");
    std::memset(to, value, bytes);
  }));
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) { return cudaMemsetAsync(to, value, bytes, nullptr); }

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* to, const void* pointer) {
  std::lock_guard guard(lock());
  const Range* range = range_of(reinterpret_cast<u64>(pointer));
  *to = {};
  to->type = !range ? cudaMemoryTypeUnregistered : range->device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  to->device = range && range->device >= 0 ? range->device : current_device();
  to->devicePointer = range ? const_cast<void*>(pointer) : nullptr;
  to->hostPointer = range && range->device < 0 ? const_cast<void*>(pointer) : nullptr;
  return answer(DONE);
}

}  // extern "C"
