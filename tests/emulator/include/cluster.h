// Thread-block clusters. CUDA's own way to them is cooperative_groups::cluster_group or PTX; a kernel reaches both
// through one header of its own, whose emulator branch calls these:
//
//   emulator::cluster_rank(), cluster_blocks()      %cluster_ctarank, %cluster_nctarank
//   emulator::cluster_index(), cluster_size()       %cluster_ctaid, %cluster_nctaid
//   emulator::map_shared(pointer, rank)             mapa: my shared variable, but in the block of that rank
//   emulator::cluster_arrive(), cluster_wait()      barrier.cluster.arrive.release, .wait.acquire
//   emulator::cluster_arrive(Arrival::relaxed)      barrier.cluster.arrive.relaxed: orders no memory
//   emulator::cluster_barrier()                     both
//
// load_acquire, store_release and the atomics of memory.h work on the pointers that map_shared returns.
#pragma once

namespace emulator {

EMULATOR_INLINE void cluster_arrive() { cluster_arrive(Arrival::release); }
EMULATOR_INLINE void cluster_barrier() {
  cluster_arrive(Arrival::release);
  cluster_wait();
}

template <typename T>
EMULATOR_INLINE T* map_shared(T* pointer, unsigned rank) {
  return (T*)map_to_block_of_cluster((const void*)pointer, rank);
}

}  // namespace emulator
