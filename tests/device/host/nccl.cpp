// NCCL between the threads of this process, one device each, as far as CuPy calls it.
//
// Everything is made of messages from rank to rank, which are checked to be the same call on both sides. A call is done
// when it returns, after all that its stream had to do; on a real device it is only asked for.
#include <condition_variable>
#include <cstdio>
#include <map>
#include <utility>

#include "device.h"

namespace {

enum Result { SUCCESS = 0, CUDA_ERROR = 1, INTERNAL = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6 };
enum What { POINT_TO_POINT, GATHER, REDUCE };
constexpr auto PATIENCE = std::chrono::seconds(20);  // how long a rank waits for another one's call

struct Unique {
  char text[128];
};

struct Message {
  What what;
  int type;
  std::string content;
};

struct Group {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<int, int> devices;                                // of the ranks that are here
  bool broken = false;                                       // two of them have one device
  std::map<std::pair<int, int>, std::deque<Message>> boxes;  // from, to
};

struct Communicator {
  std::shared_ptr<Group> group;
  int size, rank, device;
};

struct Call {
  Communicator* of;
  What what;
  bool sends, receives;
  const char* from;
  char* to;
  std::size_t count;
  int type, peer;
  void* stream;
};

std::mutex all;
std::map<std::string, std::shared_ptr<Group>> groups;
thread_local std::string why = "no error";
thread_local int depth = 0;
thread_local std::vector<Call> grouped;

int refused(int result, const std::string& text) {
  std::fprintf(stderr, "NCCL: %s\n", text.c_str());
  why = text;
  return result;
}

std::size_t bytes_of(int type) {  // ncclInt8, Uint8, Int32, Uint32, Int64, Uint64, Float16, Float32, Float64, Bfloat16
  constexpr std::size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return type >= 0 && type < 10 ? sizes[type] : 0;
}

void send(Communicator& c, int to, Message message) {
  std::lock_guard guard(c.group->mutex);
  c.group->boxes[{c.rank, to}].push_back(std::move(message));
  c.group->changed.notify_all();
}

std::string receive(Communicator& c, int from, What what, int type, std::size_t bytes) {
  std::unique_lock guard(c.group->mutex);
  auto& box = c.group->boxes[{from, c.rank}];
  std::string who = "rank " + std::to_string(c.rank) + " of rank " + std::to_string(from);
  if (!c.group->changed.wait_for(guard, PATIENCE, [&] { return !box.empty(); })) throw Fault(who + " got nothing");
  Message message = std::move(box.front());
  box.pop_front();
  c.group->changed.notify_all();
  if (message.what != what || message.type != type || message.content.size() != bytes)
    throw Fault(who + " wanted " + std::to_string(bytes) + " bytes, and came " + std::to_string(message.content.size()) +
                ", or of another call or type");
  return std::move(message.content);
}

void wait_until_taken(Communicator& c, int to) {
  std::unique_lock guard(c.group->mutex);
  auto& box = c.group->boxes[{c.rank, to}];
  if (!c.group->changed.wait_for(guard, PATIENCE, [&] { return box.empty(); }))
    throw Fault("rank " + std::to_string(to) + " takes nothing of rank " + std::to_string(c.rank));
}

template <typename T>
void add(std::string& to, const std::string& more, std::size_t begin, std::size_t end) {
  T* a = reinterpret_cast<T*>(to.data());
  const T* b = reinterpret_cast<const T*>(more.data());
  for (std::size_t k = begin; k < end; ++k) a[k] += b[k];
}

// A sum in an order that isn't that of the ranks: each of as many parts begins with another one, as in a ring.
std::string sum(const std::vector<std::string>& rows, std::size_t count, int type) {
  std::string total(rows[0].size(), 0);
  std::size_t size = rows.size();
  for (std::size_t part = 0; part < size; ++part)
    for (std::size_t k = 0; k < size; ++k) {
      auto add_up = type == 8 ? add<double> : type == 7 ? add<float> : add<i64>;
      add_up(total, rows[(part + k) % size], count * part / size, count * (part + 1) / size);
    }
  return total;
}

void check(const Call& call) {
  std::lock_guard guard(lock());
  if (stream_of(call.stream)->capture) throw Fault("a call on a stream that is captured");
  if (stream_of(call.stream)->device != call.of->device) throw Fault("a stream of another device than the communicator's");
  std::size_t bytes = call.count * bytes_of(call.type), rows = call.what == GATHER ? call.of->size : 1;
  if (call.sends) require_access(reinterpret_cast<u64>(call.from), bytes, false, call.of->device, "NCCL's");
  if (call.receives) require_access(reinterpret_cast<u64>(call.to), rows * bytes, true, call.of->device, "NCCL's");
  if (int failed = finish(call.stream)) throw Fault(reason(failed));
}

void begin(const Call& call) {
  std::string content(call.sends ? call.from : "", call.sends ? call.count * bytes_of(call.type) : 0);
  for (int peer = 0; peer < call.of->size && call.sends; ++peer)
    if (call.what != POINT_TO_POINT || peer == call.peer) send(*call.of, peer, {call.what, call.type, content});
}

void end(const Call& call) {
  std::size_t bytes = call.count * bytes_of(call.type);
  std::vector<std::string> rows;
  for (int peer = 0; peer < call.of->size && call.receives; ++peer)
    if (call.what != POINT_TO_POINT || peer == call.peer)
      rows.push_back(receive(*call.of, peer, call.what, call.type, bytes));
  if (call.what == REDUCE) rows = {sum(rows, call.count, call.type)};
  for (std::size_t k = 0; k < rows.size(); ++k) std::memcpy(call.to + k * bytes, rows[k].data(), bytes);
}

int run(const std::vector<Call>& calls) {
  try {
    for (const Call& call : calls) check(call);
    for (const Call& call : calls) begin(call);
    for (const Call& call : calls) end(call);
    for (const Call& call : calls)
      if (call.what == POINT_TO_POINT && call.sends) wait_until_taken(*call.of, call.peer);
  } catch (const std::exception& error) {
    return refused(REMOTE, error.what());
  }
  return SUCCESS;
}

int ask(Call call) {
  if (!bytes_of(call.type)) return refused(INVALID_ARGUMENT, "no type " + std::to_string(call.type));
  if (call.peer < 0 || call.peer >= call.of->size) return refused(INVALID_ARGUMENT, "no rank " + std::to_string(call.peer));
  if (depth) return grouped.push_back(call), int(SUCCESS);
  return run({call});
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) { return *version = 22800, int(SUCCESS); }
const char* ncclGetErrorString(int result) { return result ? why.c_str() : "no error"; }
int ncclGetUniqueId(Unique* id) {
  static int number = 0;
  std::lock_guard guard(all);
  *id = {};
  std::snprintf(id->text, sizeof id->text, "group %d", ++number);
  return SUCCESS;
}
int ncclCommInitRankConfig(Communicator** made, int size, Unique id, int rank, void*) {
  std::shared_ptr<Group> group;
  {
    std::lock_guard guard(all);
    auto& named = groups[id.text];
    if (!named) named = std::make_shared<Group>();
    group = named;
  }
  std::unique_lock guard(group->mutex);
  for (auto& [other, device] : group->devices)
    group->broken |= other == rank || device == current_device();
  group->devices[rank] = current_device();
  group->changed.notify_all();
  if (!group->changed.wait_for(guard, PATIENCE, [&] { return group->broken || int(group->devices.size()) == size; }))
    return refused(REMOTE, "not all ranks came");
  if (group->broken) return refused(INVALID_USAGE, "two ranks on one device");
  *made = new Communicator{group, size, rank, current_device()};
  return SUCCESS;
}
void ncclCommDestroy(Communicator* c) { delete c; }
void ncclCommAbort(Communicator* c) { delete c; }
int ncclCommGetAsyncError(Communicator*, int* error) { return *error = SUCCESS, int(SUCCESS); }
int ncclCommCuDevice(const Communicator* c, int* device) { return *device = c->device, int(SUCCESS); }
int ncclCommUserRank(const Communicator* c, int* rank) { return *rank = c->rank, int(SUCCESS); }
int ncclCommCount(const Communicator* c, int* size) { return *size = c->size, int(SUCCESS); }

int ncclGroupStart() { return ++depth, int(SUCCESS); }
int ncclGroupEnd() {
  if (depth == 0) return refused(INVALID_USAGE, "the end of no group");
  if (--depth) return SUCCESS;
  return run(std::exchange(grouped, {}));
}
int ncclSend(const void* from, std::size_t count, int type, int peer, Communicator* c, void* stream) {
  return ask({c, POINT_TO_POINT, true, false, static_cast<const char*>(from), nullptr, count, type, peer, stream});
}
int ncclRecv(void* to, std::size_t count, int type, int peer, Communicator* c, void* stream) {
  return ask({c, POINT_TO_POINT, false, true, nullptr, static_cast<char*>(to), count, type, peer, stream});
}
int ncclAllGather(const void* from, void* to, std::size_t count, int type, Communicator* c, void* stream) {
  return ask({c, GATHER, true, true, static_cast<const char*>(from), static_cast<char*>(to), count, type, 0, stream});
}
int ncclAllReduce(const void* from, void* to, std::size_t count, int type, int operation, Communicator* c, void* stream) {
  if (operation) return refused(INVALID_ARGUMENT, "no operation but the sum is modelled");
  if (type != 8 && type != 7 && type != 4) return refused(INVALID_ARGUMENT, "no sum of that type is modelled");
  return ask({c, REDUCE, true, true, static_cast<const char*>(from), static_cast<char*>(to), count, type, 0, stream});
}

}  // extern "C"
