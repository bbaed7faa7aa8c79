// Copies that go on by themselves, and the barriers in shared memory (mbarrier) that say when they are done. For the
// emulator branch of a kernel's own header around this PTX:
//
//   copy_async<16>(shared, global)          cp.async.ca/cg.shared.global, 4, 8 or 16 bytes; a third argument: read so
//                                           many bytes only, zeros for the rest
//   copy_async_commit()                     cp.async.commit_group
//   copy_async_wait(n)                      cp.async.wait_group n; wait_all: n = 0 after a commit
//
//   mbarrier_init(b, count)                 mbarrier.init.shared.b64, b a uint64_t in shared memory
//   mbarrier_arrive(b)                      mbarrier.arrive.release; b may be mapped to another block of the cluster
//   mbarrier_arrive_expect(b, bytes)        mbarrier.arrive.expect_tx.release
//   mbarrier_test(b, parity)                mbarrier.test_wait.parity.acquire
//   mbarrier_wait(b, parity)                the same as mbarrier.try_wait.parity.acquire in a loop
//   store_async(p, value, b)                st.async, p and b mapped to the same block: 4, 8 or 16 bytes
//
// A copy happens as late as it may (cp.async: when it is waited for; st.async: at any time before its barrier's phase
// ends), so that reading too early reads old data.
#pragma once

namespace emulator {

template <int Bytes>
EMULATOR_INLINE void copy_async(void* shared, const void* global, unsigned from_bytes = Bytes) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  copy_async(shared, global, Bytes, from_bytes);
}

template <typename T>
EMULATOR_INLINE void store_async(T* address, Same<T> value, uint64_t* barrier) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "st.async stores 4, 8 or 16 bytes");
  store_async((void*)address, &value, sizeof(T), barrier);
}

EMULATOR_INLINE void mbarrier_arrive(uint64_t* barrier) { mbarrier_arrive(barrier, 0); }
EMULATOR_INLINE void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) { mbarrier_arrive(barrier, bytes); }

}  // namespace emulator
