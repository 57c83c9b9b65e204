#include "fibers.h"

#include <mutex>
#include <utility>
#include <vector>

#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl cuda_on_host_switch
.hidden cuda_on_host_switch
.type cuda_on_host_switch, @function
cuda_on_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_host_switch, .-cuda_on_host_switch
)");
#endif

namespace cuda_on_host {

namespace {

std::mutex stacks_mutex;
std::vector<std::unique_ptr<Stacks>> free_stacks;

}  // namespace

std::unique_ptr<Stacks> take_stacks() {
  const std::lock_guard lock(stacks_mutex);
  if (free_stacks.empty()) return std::make_unique<Stacks>();
  auto stacks = std::move(free_stacks.back());
  free_stacks.pop_back();
  return stacks;
}
void give_back_stacks(std::unique_ptr<Stacks> stacks) {
  const std::lock_guard lock(stacks_mutex);
  free_stacks.push_back(std::move(stacks));
}

}  // namespace cuda_on_host
