// PTX text to a Module. What isn't understood is a Fault with the text in it, never skipped.
#include <algorithm>
#include <sstream>

#include "program.h"

namespace {

using Words = std::vector<std::string>;

bool starts(const std::string& text, const char* with) { return text.rfind(with, 0) == 0; }

std::string trimmed(const std::string& text) {
  std::size_t first = text.find_first_not_of(" \t\n\r"), last = text.find_last_not_of(" \t\n\r");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

// At commas or what else, but not within brackets.
Words split(const std::string& text, char at) {
  Words parts(1);
  int depth = 0;
  for (char c : text) {
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (c == at && !depth) parts.emplace_back();
    else parts.back() += c;
  }
  for (std::string& part : parts) part = trimmed(part);
  if (parts.back().empty()) parts.pop_back();
  return parts;
}

// Numbers as PTX writes them: whole ones, and the bits of floats.
bool number(const std::string& text, u64& value) {
  if (text.empty() || !(std::isdigit(u8(text[0])) || text[0] == '-')) return false;
  bool bits = text.size() > 2 && text[0] == '0' && std::string("fFdD").find(text[1]) != std::string::npos;
  if (bits) value = std::strtoull(text.c_str() + 2, nullptr, 16);
  else value = text[0] == '-' ? u64(std::strtoll(text.c_str(), nullptr, 0)) : std::strtoull(text.c_str(), nullptr, 0);
  return true;
}

std::size_t bytes_of(const std::string& type) {  // of .f32
  std::size_t digits = type.find_first_of("0123456789");
  return digits == std::string::npos ? 1 : std::stoul(type.substr(digits)) / 8;
}

// .visible .shared .align 16 .b8 name[64] = {1, 2}
struct Variable {
  bool external = false;
  std::string space, name;
  std::size_t alignment = 0, element = 0, count = 1;
  std::vector<u64> values;

  explicit Variable(const std::string& text) {
    std::size_t equals = text.find('=');
    std::istringstream words(text.substr(0, equals));
    for (std::string word; words >> word;) {
      if (word == ".align") words >> alignment;
      else if (word == ".extern") external = true;
      else if (word == ".shared" || word == ".global" || word == ".const" || word == ".local" || word == ".param")
        space = space.empty() ? word : space;  // of a parameter that points somewhere, where to comes second
      else if (word == ".ptr" || word == ".visible" || word == ".weak" || word == ".common" || word == ".attribute(.managed)") continue;
      else if (word[0] == '.') element = bytes_of(word);
      else name += word;
    }
    std::size_t bracket = name.find('[');
    if (equals != std::string::npos) {
      std::string all = trimmed(text.substr(equals + 1));
      if (all[0] == '{') all = all.substr(1, all.rfind('}') - 1);
      for (const std::string& each : split(all, ',')) {
        if (!number(each, values.emplace_back())) throw Fault("an initial value that is no number: " + text);
      }
    }
    if (bracket != std::string::npos) {
      count = std::strtoull(name.c_str() + bracket + 1, nullptr, 10);
      if (!count) count = values.size();  // name[] = {...}
      name.resize(bracket);
    }
    if (!element || name.empty()) throw Fault("PTX not understood: " + text);
    alignment = std::max(alignment, element);
  }
  std::size_t bytes() const { return element * count; }
};

std::size_t place(std::size_t& end, const Variable& v) {
  std::size_t at = (end + v.alignment - 1) / v.alignment * v.alignment;
  end = at + v.bytes();
  return at;
}

const std::map<std::string, Special> SPECIAL = {
    {"%tid.x", Special::TID_X},         {"%tid.y", Special::TID_Y},       {"%tid.z", Special::TID_Z},
    {"%ntid.x", Special::NTID_X},       {"%ntid.y", Special::NTID_Y},     {"%ntid.z", Special::NTID_Z},
    {"%ctaid.x", Special::CTAID_X},     {"%ctaid.y", Special::CTAID_Y},   {"%ctaid.z", Special::CTAID_Z},
    {"%nctaid.x", Special::NCTAID_X},   {"%nctaid.y", Special::NCTAID_Y}, {"%nctaid.z", Special::NCTAID_Z},
    {"%laneid", Special::LANE},         {"%warpid", Special::WARP},       {"%cluster_ctarank", Special::CLUSTER_RANK},
    {"%smid", Special::MULTIPROCESSOR}, {"%dynamic_smem_size", Special::DYNAMIC_SHARED_SIZE},
};

// Instructions whose first operand isn't a result.
bool has_result(const Opcode& op) {
  for (const char* name : {"st", "red", "bra", "bar", "barrier", "membar", "fence", "nanosleep", "prefetch", "trap"})
    if (op.base() == name) return op.base() == "bar" && op.has("red");
  return !(op.base() == "mbarrier" && op.has("init"));
}

void trap(Warp&, const Instruction&, Mask) { throw Fault("trap"); }

class Body {
 public:
  Body(Kernel& k, const Module& module, const std::map<std::string, Variable>& shared)
      : kernel(k), module(module), module_shared(shared) {}

  void parameter(const std::string& text) {
    Variable v(text);
    std::size_t at = place(kernel.parameter_bytes, v);
    kernel.parameters.push_back({at, v.bytes()});
    addresses[v.name] = constant({Special::NUMBER, at});
  }
  void open() { scopes.emplace_back(); }
  bool close() {
    scopes.pop_back();
    return scopes.empty();
  }
  void label(const std::string& name) { labels[name] = int(kernel.code.size()); }

  void statement(const std::string& text) {
    if (starts(text, ".reg")) return declare(text);
    if (starts(text, ".shared")) return shared(Variable(text));
    if (starts(text, ".local")) {
      Variable v(text);
      addresses[v.name] = constant({Special::LOCAL_ADDRESS, place(kernel.local_bytes, v)});
    } else if (!starts(text, ".pragma")) {
      instruction(text);
    }
  }

  void finish() {
    for (auto& [at, name] : branches) {
      if (!labels.count(name)) throw Fault("no label " + name);
      kernel.code[at].target = labels[name];
    }
    kernel.local_bytes = (kernel.local_bytes + 15) / 16 * 16;
    instruction("exit");
    share_rows(kernel);
  }

 private:
  Kernel& kernel;
  const Module& module;
  const std::map<std::string, Variable>& module_shared;
  std::vector<std::map<std::string, Row>> scopes;  // registers; inner ones hide outer ones
  std::map<std::string, std::size_t> ranges;       // %r<10>
  std::map<std::string, Row> ranged, addresses;
  std::map<std::string, int> labels;
  std::vector<std::pair<int, std::string>> branches;

  // Constants are negative until their rows are known.
  Row constant(Constant c) {
    auto found = std::find(kernel.constants.begin(), kernel.constants.end(), c);
    if (found == kernel.constants.end()) found = kernel.constants.insert(found, c);
    return NOWHERE - 1 - Row(found - kernel.constants.begin());
  }

  void declare(const std::string& text) {
    std::size_t names = text.find_first_of(" \t", text.find('.', 4));
    for (std::string name : split(text.substr(names), ',')) {
      std::size_t range = name.find('<');
      if (range != std::string::npos) ranges[name.substr(0, range)] = std::stoul(name.substr(range + 1));
      else scopes.back()[name] = kernel.registers++;
    }
  }

  void shared(const Variable& v) {
    kernel.shared_alignment = std::max(kernel.shared_alignment, v.alignment);
    addresses[v.name] = constant(v.external ? Constant{Special::DYNAMIC_SHARED, 0}
                                            : Constant{Special::NUMBER, place(kernel.static_shared, v)});
  }

  Row operand(const std::string& name) {
    u64 value;
    if (number(name, value)) return constant({Special::NUMBER, value});
    if (auto special = SPECIAL.find(name); special != SPECIAL.end()) return constant({special->second, 0});
    if (name == "WARP_SZ") return constant({Special::NUMBER, LANES});
    for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope)
      if (auto found = scope->find(name); found != scope->end()) return found->second;
    std::size_t digits = name.find_last_not_of("0123456789") + 1;
    if (ranges.count(name.substr(0, digits)) || name == "_") {
      auto [found, fresh] = ranged.try_emplace(name, kernel.registers);
      kernel.registers += fresh;
      return found->second;
    }
    if (auto global = module.globals.find(name); global != module.globals.end())
      return constant({Special::NUMBER, reinterpret_cast<u64>(global->second.memory)});
    if (auto found = module_shared.find(name); found != module_shared.end() && !addresses.count(name))
      shared(found->second);
    if (auto found = addresses.find(name); found != addresses.end()) return found->second;
    throw Fault("PTX not understood: operand " + name);
  }

  // {a, b}, [a+8], a|b or a.
  void operands(const std::string& text, Row* to, int most, int& count, Instruction& i) {
    Words names{text};
    if (text[0] == '{') {
      names = split(text.substr(1, text.size() - 2), ',');
    } else if (text[0] == '[') {
      std::string inside = trimmed(text.substr(1, text.size() - 2));
      std::size_t plus = inside.find('+');
      names = {trimmed(inside.substr(0, plus))};
      if (plus != std::string::npos) i.offset = std::strtoll(inside.c_str() + plus + 1, nullptr, 0);
    } else if (text.find('|') != std::string::npos) {
      names = split(text, '|');
    }
    for (const std::string& name : names) {
      if (count == most) throw Fault("PTX not understood: too many operands, " + i.text);
      to[count++] = operand(name);
    }
  }

  void instruction(std::string text) {
    Instruction i;
    i.text = text;
    auto unknown = [&] { return Fault("PTX not understood: " + i.text); };
    if (text[0] == '@') {
      std::size_t space = text.find_first_of(" \t");
      i.unless = text[1] == '!';
      i.guard = operand(text.substr(1 + i.unless, space - 1 - i.unless));
      text = trimmed(text.substr(space));
    }
    std::size_t space = text.find_first_of(" \t");
    Opcode op(text.substr(0, space));
    Words given = space == std::string::npos ? Words() : split(text.substr(space), ',');
    const std::string& name = op.base();
    if (name == "mov" && given.size() == 2 && starts(given[1], "%clock")) {
      op = Opcode("clock." + op.type());
      given.pop_back();
    }
    if (name == "bra") {
      i.kind = Kind::BRANCH;
      branches.emplace_back(int(kernel.code.size()), given.at(0));
      given.clear();
    }
    bool result = has_result(op) && !given.empty();
    if (result) operands(given[0], i.out, 4, i.outs, i);
    std::size_t next = result;
    if (name == "bar" && !op.has("warp")) {  // which barrier, how many threads of the block
      u64 value;
      if (!number(given.at(next++), value) || value > 15) throw unknown();
      i.barrier = int(value);
      if (given.size() > next + op.has("red")) {
        if (!number(given[next++], value)) throw unknown();
        i.offset = i64(value);
      }
    }
    for (; next < given.size(); ++next) operands(given[next], i.in, 12, i.ins, i);
    if (i.kind == Kind::BRANCH) {
    } else if (name == "ret" || name == "exit") {
      i.kind = Kind::EXIT;
    } else if (name == "trap") {
      i.step = trap;
    } else if (!together(op, i) && !access(op, i)) {
      for (auto makes : {arithmetic, floating, conversion})
        if (!i.step) i.step = makes(op);
      if (!i.step || i.outs != 1) throw unknown();
    }
    kernel.code.push_back(std::move(i));
  }
};

// The text, a statement at a time; comments, positions in sources and debug sections are left out.
class Reader {
 public:
  explicit Reader(const char* ptx) {
    std::istringstream lines(ptx);
    for (std::string line; std::getline(lines, line);) {
      std::string start = trimmed(line);
      if (starts(start, ".section")) break;  // the last of a text
      bool skipped = false;
      for (const char* directive : {".loc", ".file", ".version", ".target", ".address_size"})
        skipped |= starts(start, directive);
      if (skipped) continue;
      std::size_t comment = line.find("//");
      bool by_elements = comment != std::string::npos && line.find("by elements", comment) != std::string::npos;
      if (by_elements) line.insert(line.find('.'), ".elements"), comment += 9;  // ld.relaxed: ld.elements.relaxed
      text += line.substr(0, comment) + '\n';
    }
    for (std::size_t open; (open = text.find("/*")) != std::string::npos;)
      text.erase(open, text.find("*/", open) + 2 - open);
  }
  char peek() {
    while (at < text.size() && std::isspace(u8(text[at]))) ++at;
    return at < text.size() ? text[at] : '\0';
  }
  void skip() { ++at; }
  std::string until(const char* stops) {  // and leaves the stop
    std::size_t end = std::min(text.find_first_of(stops, at), text.size());
    std::string found = text.substr(at, end - at);
    at = end;
    std::replace_if(found.begin(), found.end(), [](char c) { return std::isspace(u8(c)); }, ' ');
    return trimmed(found);
  }
  std::string statement() {
    std::string found = until(";");
    skip();
    return found;
  }
  bool label(std::string& name) {
    std::size_t end = at;
    while (end < text.size() && (std::isalnum(u8(text[end])) || text[end] == '_' || text[end] == '$')) ++end;
    if (end == at || text[end] != ':') return false;
    name = text.substr(at, end - at);
    at = end + 1;
    return true;
  }

 private:
  std::string text;
  std::size_t at = 0;
};

void entry(Reader& reader, const std::string& head, Module& module, const std::map<std::string, Variable>& shared) {
  auto kernel = std::make_unique<Kernel>();
  kernel->name = trimmed(head.substr(head.find(".entry") + 6));
  Body body(*kernel, module, shared);
  if (reader.peek() == '(') {
    reader.skip();
    for (const std::string& each : split(reader.until(")"), ',')) body.parameter(each);
    reader.skip();
  }
  std::istringstream attributes(reader.until("{"));
  for (std::string word; attributes >> word;) {
    if (word == ".maxntid") attributes >> kernel->most_threads;
    if (word == ".reqnctapercluster") attributes >> kernel->cluster;
  }
  bool done = false;
  while (!done) {
    std::string name;
    char c = reader.peek();
    if (!c) throw Fault("PTX ends within " + kernel->name);
    if (c == '{') reader.skip(), body.open();
    else if (c == '}') reader.skip(), done = body.close();
    else if (c == ';') reader.skip();
    else if (reader.label(name)) body.label(name);
    else body.statement(reader.statement());
  }
  body.finish();
  std::string key = kernel->name;
  module.kernels[key] = std::move(kernel);
}

Global made(const Variable& v) {
  std::size_t bytes = std::max(v.bytes(), v.element * v.values.size());
  char* memory = static_cast<char*>(std::calloc(1, bytes + 64));
  for (std::size_t n = 0; n < v.values.size(); ++n) std::memcpy(memory + n * v.element, &v.values[n], v.element);
  return {memory, bytes};
}

}  // namespace

Opcode::Opcode(const std::string& name) : whole(name), parts(split(name, '.')) {}
bool Opcode::has(const char* part) const { return std::find(parts.begin(), parts.end(), part) != parts.end(); }

std::unique_ptr<Module> parse(const char* text) {
  auto module = std::make_unique<Module>();
  std::map<std::string, Variable> shared;
  Reader reader(text);
  while (reader.peek()) {
    std::string head = reader.until("(;{=");
    if (head.find(".entry") != std::string::npos) {
      entry(reader, head, *module, shared);
    } else if (head.find(".func") != std::string::npos) {
      throw Fault("PTX not understood: a function that isn't inlined, " + head);
    } else {
      Variable v(head + reader.statement());
      if (v.space == ".shared") shared.emplace(v.name, v);
      else module->globals[v.name] = made(v);
    }
  }
  return module;
}
