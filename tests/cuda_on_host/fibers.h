// Fibers: stacks, and switching from one to another, which takes a few nanoseconds.

#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_host {

constexpr unsigned kMaxThreads = 1024;  // of a block

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 256 << 10;
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif

// Stacks of the threads of one block; below each lies a page that nobody may touch.
class Stacks {
 public:
  Stacks() : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    void* memory =
        mmap(nullptr, kMaxThreads * kStackBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<unsigned char*>(memory);
  }
  ~Stacks() { munmap(base_, kMaxThreads * kStackBytes); }
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  void provide(unsigned count) {
    for (; provided_ < count; ++provided_) {
      if (mprotect(bottom(provided_), size(), PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    }
  }
  unsigned char* bottom(unsigned thread) const { return base_ + thread * kStackBytes + page_; }
  std::size_t size() const { return kStackBytes - page_; }

 private:
  std::size_t page_;
  unsigned char* base_;
  unsigned provided_ = 0;
};

// Stacks are kept for the next block.
std::unique_ptr<Stacks> take_stacks();
void give_back_stacks(std::unique_ptr<Stacks> stacks);

#if defined(__x86_64__)
// swapcontext would ask the system for the mask of signals at each switch, which takes a hundred times as long.
using Context = void*;
extern "C" void cuda_on_host_switch(Context* from, Context to);

inline void switch_context(Context& from, Context& to) { cuda_on_host_switch(&from, to); }
inline void begin_context(Context& context, unsigned char* bottom, std::size_t size, void (*entry)()) {
  auto* top = reinterpret_cast<std::uint64_t*>(bottom + size);  // divisible by 16
  top[-1] = 0;                                                  // where entry would return to: it never does
  top[-2] = reinterpret_cast<std::uint64_t>(entry);
  for (int saved_register = 3; saved_register <= 8; ++saved_register) top[-saved_register] = 0;
  context = top - 8;
}
#else
using Context = ucontext_t;
inline void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
inline void begin_context(Context& context, unsigned char* bottom, std::size_t size, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = bottom;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

}  // namespace cuda_on_host
