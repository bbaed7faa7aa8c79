// CUDA C++ for g++: put in front of an unmodified .cu text, this makes it run on the CPU, one fiber per CUDA thread.
// What is modelled, and what is not: ../README.md. The runtime behind it: ../runtime/.
#pragma once

#define GPU_LSTM_EMULATOR 1
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "runtime.h"

#include "language.h"
#include "vector_types.h"
#include "arithmetic.h"
#include "float16.h"
#include "synchronization.h"
#include "memory.h"
#include "warp.h"
#include "cluster.h"
#include "asynchronous.h"
#include "tensor_core.h"
#include "launch.h"
