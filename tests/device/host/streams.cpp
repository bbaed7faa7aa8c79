// Streams, events, and graphs recorded from them.
//
// Work is done when it is asked for, unless GPU_LSTM_DEVICE_STREAMS has a number: then it is pending until somebody waits
// for it, and the number decides whose turn it is. Streams that aren't non-blocking take turns with the legacy one: they
// are one. A mistake is told by who waits.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>
#include <utility>

#include "device.h"

namespace {

std::set<Stream*> streams;
thread_local int device = 0, last = DONE;
thread_local std::map<int, std::string> reasons;

Stream* own_stream(int of) {
  static Stream all[DEVICES] = {{0}, {1}};
  return &all[of];
}

cudaError_t answer(int status) { return cudaError_t(status); }

const char* turns() {
  const char* text = std::getenv("GPU_LSTM_DEVICE_STREAMS");
  return text && *text ? text : nullptr;
}

Stream* queue_of(Stream* stream) { return stream->nonblocking ? stream : own_stream(stream->device); }

int attempt(const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return refuse(LAUNCH_FAILED, error.what());
  }
  return DONE;
}

// One piece of work of any stream that can go on, while there is pending what is waited for.
int finish_while(const std::function<bool()>& pending) {
  static std::mt19937_64 generator;
  static std::string known;
  if (const char* text = turns(); text && known != text) generator.seed(std::strtoull((known = text).c_str(), nullptr, 10));
  int status = DONE;
  while (pending()) {
    std::vector<Stream*> ready;
    auto look = [&](Stream* stream) {
      if (!stream->pending.empty() && (!stream->pending.front().after || *stream->pending.front().after))
        ready.push_back(stream);
    };
    for (int of = 0; of < DEVICES; ++of) look(own_stream(of));
    for (Stream* stream : streams) look(stream);
    if (ready.empty()) return refuse(LAUNCH_FAILED, "streams wait for each other");
    Stream* next = ready[generator() % ready.size()];
    Pending piece = std::move(next->pending.front());
    next->pending.pop_front();
    int before = std::exchange(device, next->device);
    if (int failed = attempt(piece.work)) status = failed;
    device = before;
  }
  return status;
}

}  // namespace

int finish(void* handle) {
  std::lock_guard guard(lock());
  Stream* queue = queue_of(stream_of(handle));
  return finish_while([=] { return !queue->pending.empty(); });
}
int finish_all() {
  std::lock_guard guard(lock());
  return finish_while([] {
    bool any = false;
    for (int of = 0; of < DEVICES; ++of) any |= !own_stream(of)->pending.empty();
    for (Stream* stream : streams) any |= !stream->pending.empty();
    return any;
  });
}

int refuse(int status, const std::string& why) {
  reasons[status] = why;
  return last = status;
}
const char* reason(int status) {
  static thread_local std::string text;
  auto found = reasons.find(status);
  text = status == DONE ? "no error" : found == reasons.end() ? "error " + std::to_string(status) : found->second;
  return text.c_str();
}
int absent(const char* name) {
  std::string why = name + std::string(" isn't modelled");
  bool cublas = why.rfind("cublas", 0) == 0, nccl = why.rfind("nccl", 0) == 0;
  if (!cublas && !nccl) return refuse(UNSUPPORTED, why);
  std::fprintf(stderr, "%s\n", why.c_str());  // a status of these has no text
  return cublas ? 15 : 3;                      // CUBLAS_STATUS_NOT_SUPPORTED, ncclInternalError
}
int take_last() { return std::exchange(last, int(DONE)); }

int current_device() { return device; }
int set_device(int to) {
  if (to < 0 || to >= DEVICES) return refuse(INVALID_DEVICE, "there are " + std::to_string(DEVICES) + " devices");
  device = to;
  return DONE;
}

std::recursive_mutex& lock() {
  static std::recursive_mutex all;
  return all;
}

Stream* stream_of(void* handle) {
  return handle && handle != cudaStreamLegacy && handle != cudaStreamPerThread ? static_cast<Stream*>(handle)
                                                                               : own_stream(device);
}

int submit(void* handle, Work work) {
  Stream* stream = stream_of(handle);
  if (stream->device != device)
    return refuse(INVALID_HANDLE, "a stream of device " + std::to_string(stream->device) + " while device " +
                                      std::to_string(device) + " is current");
  if (stream->capture) {
    stream->capture->graph->work.push_back(std::move(work));
    stream->unjoined = stream != stream->capture->origin;
    ++stream->recorded;
    return DONE;
  }
  if (turns()) return queue_of(stream)->pending.push_back({std::move(work), nullptr}), int(DONE);
  if (int failed = finish_all()) return failed;
  return attempt(work);
}

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* made, unsigned flags) {
  Stream* stream = new Stream{device, (flags & cudaStreamNonBlocking) != 0};
  std::lock_guard guard(lock());
  streams.insert(stream);
  *made = reinterpret_cast<cudaStream_t>(stream);
  return answer(DONE);
}
cudaError_t cudaStreamCreate(cudaStream_t* made) { return cudaStreamCreateWithFlags(made, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* made, unsigned flags, int) {
  return cudaStreamCreateWithFlags(made, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::lock_guard guard(lock());
  finish(stream);
  streams.erase(stream_of(stream));  // events may still name it: it isn't freed
  return answer(DONE);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return answer(stream_of(stream)->capture ? refuse(CAPTURE_UNSUPPORTED, "a stream is waited for while it is captured")
                                           : finish(stream));
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
  *flags = stream_of(stream)->nonblocking;
  return answer(DONE);
}
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return answer(DONE);
}
cudaError_t cudaDeviceSynchronize() {
  std::lock_guard guard(lock());
  for (Stream* stream : streams)
    if (stream->capture && stream->device == device)
      return answer(refuse(CAPTURE_UNSUPPORTED, "a device is waited for while a stream of it is captured"));
  return answer(finish_all());
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream_of(stream)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return answer(DONE);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode) {
  Stream* stream = stream_of(handle);
  if (stream == own_stream(device)) return answer(refuse(CAPTURE_UNSUPPORTED, "the legacy stream can't be captured"));
  stream->capture = new Capture{new Graph, stream};
  stream->unjoined = false;
  return answer(DONE);
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Capture* capture = stream_of(handle)->capture;
  if (!capture || capture->origin != stream_of(handle))
    return answer(refuse(CAPTURE_INVALIDATED, "the end of a capture that wasn't begun on this stream"));
  bool unjoined = false;
  std::lock_guard guard(lock());
  for (Stream* stream : streams) {
    if (stream->capture != capture) continue;
    unjoined |= stream->unjoined;
    stream->capture = nullptr;
    stream->unjoined = false;
  }
  if (unjoined) return answer(refuse(CAPTURE_UNJOINED, "a capture ends, and another stream of it was not waited for"));
  *graph = reinterpret_cast<cudaGraph_t>(capture->graph);
  return answer(DONE);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* made, unsigned) {
  *made = reinterpret_cast<cudaEvent_t>(new Event{device, {}});
  return answer(DONE);
}
cudaError_t cudaEventCreate(cudaEvent_t* made) { return cudaEventCreateWithFlags(made, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return answer(DONE);
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t on) {
  Event* event = reinterpret_cast<Event*>(handle);
  Stream* stream = stream_of(on);
  if (event->device != stream->device)
    return answer(refuse(INVALID_HANDLE, "an event of one device is recorded on a stream of another"));
  event->time = std::chrono::steady_clock::now();
  event->capture = stream->capture;
  event->stream = stream;
  event->place = stream->recorded;
  event->done = nullptr;
  if (!stream->capture && turns()) {
    event->done = std::make_shared<bool>(false);
    queue_of(stream)->pending.push_back({[done = event->done] { *done = true; }, nullptr});
  }
  return answer(DONE);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return answer(reinterpret_cast<Event*>(event)->capture
                    ? refuse(CAPTURE_UNSUPPORTED, "an event of a capture is waited for") : finish_all());
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  auto time = reinterpret_cast<Event*>(end)->time - reinterpret_cast<Event*>(start)->time;
  *milliseconds = std::max(1e-3f, std::chrono::duration<float, std::milli>(time).count());
  return answer(DONE);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t what, unsigned) {
  Event* event = reinterpret_cast<Event*>(what);
  Stream* stream = stream_of(handle);
  if (!event->capture) {
    if (stream->capture && event->stream)
      return answer(refuse(CAPTURE_ISOLATION, "a captured stream waits for an event from outside of the capture"));
    if (event->done) queue_of(stream)->pending.push_back({[] {}, event->done});
    return answer(DONE);
  }
  if (stream == own_stream(device))
    return answer(refuse(CAPTURE_IMPLICIT, "the legacy stream waits for an event of a capture"));
  if (stream->capture && stream->capture != event->capture)
    return answer(refuse(CAPTURE_ISOLATION, "a captured stream waits for an event of another capture"));
  stream->capture = event->capture;  // and belongs to it from now on
  if (event->stream != stream && event->place == event->stream->recorded) event->stream->unjoined = false;
  stream->unjoined = stream != event->capture->origin;
  return answer(DONE);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return answer(DONE);
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(made, graph, flags);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return answer(DONE);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return answer(DONE);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return answer(DONE); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream) {
  Graph* graph = reinterpret_cast<Graph*>(handle);
  std::lock_guard guard(lock());
  return answer(submit(stream, [=] {
    for (const Work& work : graph->work) work();
  }));
}

}  // extern "C"
