// The devices that aren't there: memory, streams, events and graphs, as the driver and the runtime both see them.
//
// Work is done in the caller's thread, when it is asked for or, if asked for, when it is waited for. What a graph records
// is done when it is launched.
#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../ptx/machine.h"

constexpr int DEVICES = 2;

enum Status {  // numbers that the driver and the runtime share
  DONE = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_HANDLE = 400,
  NOT_FOUND = 500, TOO_LARGE = 720, LAUNCH_FAILED = 700, UNSUPPORTED = 801, CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901, CAPTURE_UNJOINED = 904, CAPTURE_ISOLATION = 905, CAPTURE_IMPLICIT = 906,
};

// Remembers why, for cudaGetErrorString and cuGetErrorString, and gives the status.
int refuse(int status, const std::string& why);
const char* reason(int status);
int absent(const char* name);  // a function that isn't modelled
int take_last();  // the last status that was refused with, once

int current_device();
int set_device(int device);
int multiprocessors();

std::recursive_mutex& lock();

// memory.cpp
struct Range {
  u64 start;
  std::size_t bytes;
  int device;
};
const Range* range_of(u64 address);
void* allocate(std::size_t bytes, int device);
int release(void* memory);

// streams.cpp
struct Stream;
using Work = std::function<void()>;

struct Graph {
  std::vector<Work> work;
};

struct Capture {
  Graph* graph;
  Stream* origin;
};

struct Pending {
  Work work;
  std::shared_ptr<bool> after;  // what an event notes that this waits for, if anything
};

struct Stream {
  int device;
  bool nonblocking = false;
  Capture* capture = nullptr;
  bool unjoined = false;  // has recorded what the capture's first stream doesn't wait for
  u64 recorded = 0;       // pieces of work, to tell whether an event is the last of its stream
  std::deque<Pending> pending = {};
};

struct Event {
  int device;
  std::chrono::steady_clock::time_point time;
  Capture* capture = nullptr;
  Stream* stream = nullptr;
  u64 place = 0;
  std::shared_ptr<bool> done = nullptr;
};

Stream* stream_of(void* handle);  // null, legacy and per thread: the device's own
int submit(void* stream, Work work);
int finish(void* stream);  // waits for what is pending there
int finish_all();
