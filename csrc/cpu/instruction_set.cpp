#include "cpu/instruction_set.h"

#include <atomic>
#include <stdexcept>

#include "dynamicseg/cpu_runtime.h"

namespace dynamicseg {
namespace {

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::baseline:
      break;
  }
  return "baseline";
}

std::vector<InstructionSet> supported() {
  std::vector<InstructionSet> sets;
#if defined(DYNAMICSEG_X86_64)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && avx2) sets.push_back(InstructionSet::avx512);
  if (avx2) sets.push_back(InstructionSet::avx2);
#endif
  sets.push_back(InstructionSet::baseline);
  return sets;
}

std::atomic<InstructionSet>& active() {
  static std::atomic<InstructionSet> set{supported().front()};
  return set;
}

}  // namespace

InstructionSet active_instruction_set() { return active().load(std::memory_order_relaxed); }

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet set : supported()) names.emplace_back(name_of(set));
  return names;
}

std::string instruction_set() { return name_of(active_instruction_set()); }

void set_instruction_set(const std::string& name) {
  std::string known;
  for (const InstructionSet set : supported()) {
    if (name == name_of(set)) {
      active().store(set);
      return;
    }
    known += known.empty() ? name_of(set) : std::string(", ") + name_of(set);
  }
  throw std::invalid_argument("instruction set '" + name + "' is not one that this processor runs: choose from " +
                              known);
}

}  // namespace dynamicseg
