// What kernels ask of the runtime: the boundary between instrumented code (a kernel and the headers here) and the
// runtime, which is compiled without instrumentation.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Index {
  unsigned x, y, z;
};

// Where in the kernel text a barrier stands. `occurrence` tells apart two on one line.
struct Site {
  const char* file;
  int line;
  int occurrence;
};

// ---- who am I: never changes for one thread, so calls may be merged

__attribute__((const)) Index thread_index();
__attribute__((const)) Index block_index();
__attribute__((const)) Index block_size();
__attribute__((const)) Index grid_size();
__attribute__((const)) int lane();
__attribute__((const)) Index cluster_index();    // this block within its cluster
__attribute__((const)) Index cluster_size();     // blocks in a cluster
__attribute__((const)) unsigned cluster_rank();  // this block within its cluster, x fastest
__attribute__((const)) unsigned cluster_blocks();

// ---- barriers

// Waits for all threads of the block; returns how many of them passed a nonzero value.
int block_barrier(Site site, int value);

enum class WarpOperation { barrier, shuffle, vote, match, reduce, matrix };

// Waits for all lanes in `mask` that have not returned; `values` receives what each of them brought, 32 of `size`
// bytes. Returns the lanes that took part.
unsigned warp_exchange(WarpOperation, unsigned mask, const void* value, void* values, size_t size);
unsigned active_lanes();

enum class Arrival { release, relaxed };
void cluster_arrive(Arrival);
void cluster_wait();
void* map_to_block_of_cluster(const void* shared, unsigned rank);

// ---- memory

enum class Scope { block, device };
void fence(Scope);

enum class Access { load, store, exchange };  // exchange: reads and writes
enum class Order { relaxed, synchronizing };  // synchronizing: a load acquires, a store releases

// Between these two nothing else runs.
void atomic_begin(const volatile void* address, size_t size, Access, Order);
void atomic_end(bool changed);

void copy(void* to, const volatile void* from, size_t size);  // a plain copy that no instrumentation sees

// ---- asynchronous.h

void copy_async(void* shared, const void* global, unsigned bytes, unsigned from_bytes);
void copy_async_commit();
void copy_async_wait(int groups_under_way);

void mbarrier_init(uint64_t* barrier, unsigned count);
void mbarrier_arrive(uint64_t* barrier, unsigned expected_bytes);
bool mbarrier_test(uint64_t* barrier, unsigned parity);
void mbarrier_wait(uint64_t* barrier, unsigned parity);
void store_async(void* address, const void* value, size_t size, uint64_t* barrier);

// ---- others

// Lets others run: a thread that only waits should say so.
void pause();
long long clock();

// A mistake of the kernel, seen on its side of this boundary.
[[noreturn]] void mistake(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace emulator
