// The barrier of a block, and fences.
#pragma once

#define EMULATOR_HERE (::emulator::Site{__FILE__, __LINE__, __COUNTER__})

#define __syncthreads() ((void)::emulator::block_barrier(EMULATOR_HERE, 0))
#define __syncthreads_count(predicate) (::emulator::block_barrier(EMULATOR_HERE, !!(predicate)))
#define __syncthreads_or(predicate) ((int)(::emulator::block_barrier(EMULATOR_HERE, !!(predicate)) != 0))
#define __syncthreads_and(predicate) ((int)(::emulator::block_barrier(EMULATOR_HERE, !(predicate)) == 0))

EMULATOR_INLINE void __threadfence_block() { emulator::fence(emulator::Scope::block); }
EMULATOR_INLINE void __threadfence() { emulator::fence(emulator::Scope::device); }
EMULATOR_INLINE void __threadfence_system() { emulator::fence(emulator::Scope::device); }
