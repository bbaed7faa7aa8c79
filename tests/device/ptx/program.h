// A PTX module as it is run: instructions with what they do, registers as rows of 32 lanes.
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

constexpr int LANES = 32;
using Mask = u32;  // a bit for each lane of a warp

// A mistake of the program that runs, or PTX that isn't understood: the host gets it as an error of CUDA.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Warp;
struct Instruction;
using Step = void (*)(Warp&, const Instruction&, Mask);

enum class Kind : u8 { PLAIN, BRANCH, EXIT, WARP, BARRIER, CLUSTER_ARRIVE, CLUSTER_WAIT };
enum class Space : u8 { GENERIC, SHARED, PARAM, LOCAL };
enum class Scope : u8 { BLOCK, CLUSTER, DEVICE };

// The row of an operand: registers come first, then the constants of the kernel.
using Row = i32;
constexpr Row NOWHERE = -1;

struct Instruction {
  Kind kind = Kind::PLAIN;
  Step step = nullptr;
  Row guard = NOWHERE;
  bool unless = false;  // @!p
  Row out[4], in[12];
  int outs = 0, ins = 0;
  Row members = NOWHERE;    // of a warp's meeting: who takes part; NOWHERE: all
  int barrier = 0;          // of bar.sync
  i64 offset = 0;           // of an address
  int target = 0;           // of a branch
  Space space = Space::GENERIC;
  u8 size = 0, count = 1;   // bytes of an element, elements of a vector
  bool extends = false;     // loads of signed numbers
  bool strong = false, acquires = false, releases = false, sequential = false;  // in the memory model
  bool loads = false;       // from shared memory
  bool elements = false;    // a wide access that promises nothing of more than one of the numbers in it
  Scope scope = Scope::DEVICE;
  std::string text;
};

// What a row of constants holds, lane by lane.
enum class Special : u8 {
  NUMBER, DYNAMIC_SHARED, LOCAL_ADDRESS,
  TID_X, TID_Y, TID_Z, NTID_X, NTID_Y, NTID_Z, CTAID_X, CTAID_Y, CTAID_Z, NCTAID_X, NCTAID_Y, NCTAID_Z,
  LANE, WARP, CLUSTER_RANK, DYNAMIC_SHARED_SIZE, MULTIPROCESSOR,
};

struct Constant {
  Special what;
  u64 number;
  auto operator<=>(const Constant&) const = default;
};

struct Parameter {
  std::size_t offset, size;
};

struct Kernel {
  std::string name;
  std::vector<Parameter> parameters;
  std::size_t parameter_bytes = 0, static_shared = 0, shared_alignment = 16, local_bytes = 0;
  std::vector<Instruction> code;
  std::vector<Constant> constants;
  int registers = 0;  // rows before those of the constants
  int cluster = 1, most_threads = 1024;
  int most_dynamic_shared = 48 * 1024;  // as the host allows
  int device = 0;

  std::size_t dynamic_start() const {  // static shared arrays come first
    return (static_shared + shared_alignment - 1) / shared_alignment * shared_alignment;
  }
};

struct Global {
  char* memory;
  std::size_t size;
};

struct Module {
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
  std::map<std::string, Global> globals;
};

// parser.cpp
std::unique_ptr<Module> parse(const char* text);

// registers.cpp: gives registers that are never alive at once the same row
void share_rows(Kernel& kernel);

// order.cpp: what an instruction means in the memory model
void set_order(const struct Opcode&, Instruction&);

// An instruction's name, taken apart: "ld.global.v4.f32" is {"ld", "global", "v4", "f32"}.
struct Opcode {
  std::string whole;
  std::vector<std::string> parts;

  explicit Opcode(const std::string& name);
  const std::string& base() const { return parts.front(); }
  const std::string& type() const { return parts.back(); }
  bool has(const char* part) const;
};

// What instructions do; nullptr where a name is none of theirs.
Step arithmetic(const Opcode&);   // arithmetic.cpp: integers, comparisons, moves
Step floating(const Opcode&);     // floating.cpp: float and double
Step conversion(const Opcode&);   // conversion.cpp: cvt, 16-bit numbers
bool access(const Opcode&, Instruction&);   // memory.cpp: fills in space and step
bool together(const Opcode&, Instruction&); // together.cpp: what lanes do at the same time
