// The CUDA driver, as far as CuPy and cuda.bindings call it: modules, functions, occupancy, launches.
#include <cuda.h>
#include <dlfcn.h>

#include "device.h"

namespace {

CUresult answer(int status) { return CUresult(status); }
Kernel* kernel_of(CUfunction f) { return reinterpret_cast<Kernel*>(f); }

constexpr int MOST_SHARED = 232448, SHARED = 233472, RESERVED = 1024;  // a block, a multiprocessor, bytes of the system

// Registers aren't known from PTX: `resources.md` has what the real compiler takes.
int blocks_of_a_multiprocessor(const Kernel& k, int threads, std::size_t dynamic) {
  if (threads <= 0 || threads > k.most_threads || i64(dynamic) > k.most_dynamic_shared) return 0;
  int warps = (threads + LANES - 1) / LANES;
  return std::min({64 / warps, int(SHARED / (k.static_shared + dynamic + RESERVED)), 32});
}

// A cluster lies within one of the groups that multiprocessors come in, of 18 on an H100: there are fewer than would
// fit otherwise. Blocks that are no cluster lie anywhere.
int resident_clusters(const Kernel& k, int threads, std::size_t dynamic, int cluster) {
  constexpr int GROUP = 18;
  int each = blocks_of_a_multiprocessor(k, threads, dynamic), count = 0;
  if (cluster == 1) return each * multiprocessors();
  for (int left = multiprocessors(); left > 0; left -= GROUP) count += std::min(left, GROUP) * each / cluster;
  return count;
}

struct Geometry {
  u32 grid[3], block[3];
  std::size_t dynamic;
  bool cooperative = false;
  int cluster = 1;
};

int launch(CUfunction function, const Geometry& g, void* stream, void** parameters) {
  Kernel& k = *kernel_of(function);
  int threads = int(g.block[0] * g.block[1] * g.block[2]), cluster = g.cluster > 1 ? g.cluster : k.cluster;
  u64 blocks = u64(g.grid[0]) * g.grid[1] * g.grid[2];
  auto invalid = [&](const std::string& why) { return refuse(INVALID_VALUE, k.name + ": " + why); };
  if (k.device != current_device()) return refuse(INVALID_HANDLE, k.name + " was loaded on another device");
  if (threads == 0 || threads > k.most_threads) return invalid("a block of " + std::to_string(threads) + " threads");
  if (!blocks || g.grid[0] > 2147483647u || g.grid[1] > 65535 || g.grid[2] > 65535) return invalid("the grid");
  if (i64(g.dynamic) > k.most_dynamic_shared) return invalid("more dynamic shared memory than was allowed");
  if (k.cluster > 1 && cluster != k.cluster) return invalid("another cluster size than it is compiled for");
  if (blocks % cluster || (cluster > 1 && g.grid[1] * g.grid[2] > 1)) return invalid("a grid that is not whole clusters in x");
  if (cluster > 8) return invalid("more blocks in a cluster than every device takes");
  int resident = resident_clusters(k, threads, g.dynamic, cluster) * cluster;
  if (g.cooperative && blocks > u64(resident)) return refuse(TOO_LARGE, k.name + ": more blocks than can be resident");
  Launch what{&k, {}, {}, g.dynamic, g.cooperative, cluster, std::vector<char>(k.parameter_bytes)};
  std::copy(g.grid, g.grid + 3, what.grid);
  std::copy(g.block, g.block + 3, what.block);
  for (std::size_t n = 0; n < k.parameters.size(); ++n)
    std::memcpy(what.parameters.data() + k.parameters[n].offset, parameters[n], k.parameters[n].size);
  return submit(stream, [=] { run(what); });
}

Geometry geometry(const CUlaunchConfig& c) {
  Geometry g{{c.gridDimX, c.gridDimY, c.gridDimZ}, {c.blockDimX, c.blockDimY, c.blockDimZ}, c.sharedMemBytes};
  for (unsigned n = 0; n < c.numAttrs; ++n) {
    const CUlaunchAttribute& each = c.attrs[n];
    if (each.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) g.cooperative = each.value.cooperative;
    if (each.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
      g.cluster = int(each.value.clusterDim.x * each.value.clusterDim.y * each.value.clusterDim.z);
  }
  return g;
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned) { return answer(DONE); }
CUresult cuDriverGetVersion(int* version) { return *version = 13000, answer(DONE); }
CUresult cuGetErrorName(CUresult error, const char** text) {
  return *text = error == CUDA_SUCCESS ? "CUDA_SUCCESS" : "CUDA_ERROR", answer(DONE);
}
CUresult cuGetErrorString(CUresult error, const char** text) { return *text = reason(error), answer(DONE); }
CUresult cuGetExportTable(const void**, const CUuuid*) { return answer(NOT_FOUND); }
CUresult cuGetProcAddress_v2(const char* name, void** address, int, cuuint64_t, CUdriverProcAddressQueryResult* found) {
  static void* self = dlopen("libcuda.so.1", RTLD_LAZY);
  for (const char* version : {"_v2", ""})
    if ((*address = dlsym(self, (std::string(name) + version).c_str()))) break;
  if (found) *found = *address ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return answer(*address ? DONE : NOT_FOUND);
}

CUresult cuCtxGetCurrent(CUcontext* context) {  // a device's number, but not null
  return *context = reinterpret_cast<CUcontext>(std::intptr_t(current_device() + 1)), answer(DONE);
}
CUresult cuCtxSetCurrent(CUcontext context) { return answer(set_device(int(reinterpret_cast<std::intptr_t>(context)) - 1)); }
CUresult cuCtxGetDevice(CUdevice* device) { return *device = current_device(), answer(DONE); }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return answer(DONE); }

CUresult cuModuleLoadData(CUmodule* made, const void* image) {
  const char* text = static_cast<const char*>(image);
  if (text[0] == 0x7f) return answer(refuse(INVALID_IMAGE, "machine code, and not PTX: CUPY_COMPILE_WITH_PTX isn't 1"));
  std::lock_guard guard(lock());
  try {
    std::unique_ptr<Module> module = parse(text);
    for (auto& [name, kernel] : module->kernels) kernel->device = current_device();
    for (auto& [name, global] : module->globals) own(global.memory, global.size, current_device());
    *made = reinterpret_cast<CUmodule>(module.release());
  } catch (const std::exception& error) {
    return answer(refuse(INVALID_IMAGE, error.what()));
  }
  return answer(DONE);
}
CUresult cuModuleUnload(CUmodule handle) {
  std::lock_guard guard(lock());
  finish_all();
  Module* module = reinterpret_cast<Module*>(handle);
  for (auto& [name, global] : module->globals) release(global.memory);
  delete module;
  return answer(DONE);
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule handle, const char* name) {
  auto& kernels = reinterpret_cast<Module*>(handle)->kernels;
  auto found = kernels.find(name);
  if (found == kernels.end()) return answer(refuse(NOT_FOUND, std::string("no kernel ") + name));
  return *function = reinterpret_cast<CUfunction>(found->second.get()), answer(DONE);
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, std::size_t* bytes, CUmodule handle, const char* name) {
  auto& globals = reinterpret_cast<Module*>(handle)->globals;
  auto found = globals.find(name);
  if (found == globals.end()) return answer(refuse(NOT_FOUND, std::string("no variable ") + name));
  *address = reinterpret_cast<CUdeviceptr>(found->second.memory);
  if (bytes) *bytes = found->second.size;
  return answer(DONE);
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction function) {
  const Kernel& k = *kernel_of(function);
  switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = k.most_threads; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = int(k.static_shared); break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = k.most_dynamic_shared; break;
    default: *value = 0;
  }
  return answer(DONE);
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
  Kernel& k = *kernel_of(function);
  if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return answer(refuse(UNSUPPORTED, "a function's attribute"));
  if (value + int(k.static_shared) > MOST_SHARED) return answer(refuse(INVALID_VALUE, "more shared memory than a block may have"));
  k.most_dynamic_shared = value;
  return answer(DONE);
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction f, int threads, std::size_t dynamic) {
  return *blocks = blocks_of_a_multiprocessor(*kernel_of(f), threads, dynamic), answer(DONE);
}
CUresult cuOccupancyMaxActiveClusters(int* clusters, CUfunction f, const CUlaunchConfig* config) {
  Geometry g = geometry(*config);
  int threads = int(g.block[0] * g.block[1] * g.block[2]);
  *clusters = resident_clusters(*kernel_of(f), threads, g.dynamic, g.cluster);
  return answer(DONE);
}

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, std::size_t* count) {
  const auto& work = reinterpret_cast<Graph*>(graph)->work;
  if (nodes) return answer(refuse(UNSUPPORTED, "the nodes of a graph"));
  return *count = work.size(), answer(DONE);
}

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned dynamic, CUstream stream, void** parameters, void** extra) {
  if (extra) return answer(refuse(UNSUPPORTED, "parameters of a launch as one buffer"));
  std::lock_guard guard(lock());
  return answer(launch(f, {{gx, gy, gz}, {bx, by, bz}, dynamic}, stream, parameters));
}
CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                   unsigned bz, unsigned dynamic, CUstream stream, void** parameters) {
  std::lock_guard guard(lock());
  return answer(launch(f, {{gx, gy, gz}, {bx, by, bz}, dynamic, true}, stream, parameters));
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction f, void** parameters, void**) {
  std::lock_guard guard(lock());
  return answer(launch(f, geometry(*config), config->hStream, parameters));
}

}  // extern "C"
