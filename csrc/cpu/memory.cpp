#include "dynamicseg/memory.h"

#include <atomic>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace dynamicseg {
namespace {

constexpr std::size_t kLargePage = std::size_t{2} << 20;

struct Kept {
  std::mutex mutex;
  void* memory = nullptr;
  std::size_t bytes = 0;
};

std::mutex keepers_mutex;
std::atomic<int> keepers{0};

// Never destroyed: Python may let go of a result while the process ends.
Kept& kept() {
  static Kept& instance = *new Kept;
  return instance;
}

// What is kept outside of a training loop at the most.
constexpr std::size_t kKeptBytes = std::size_t{256} << 20;

void free_kept() {
  const std::lock_guard lock(kept().mutex);
  std::free(std::exchange(kept().memory, nullptr));
}

}  // namespace

void* take_result_memory(std::size_t bytes) {
  {
    const std::lock_guard lock(kept().mutex);
    if (kept().memory != nullptr) {
      void* memory = std::exchange(kept().memory, nullptr);
      if (kept().bytes == bytes) return memory;
      std::free(memory);
    }
  }
  void* memory = std::aligned_alloc(kLargePage, (bytes + kLargePage - 1) / kLargePage * kLargePage);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  madvise(memory, bytes, MADV_HUGEPAGE);  // only advice: where it is refused, pages are small
#endif
  return memory;
}

void give_back_result_memory(void* memory, std::size_t bytes) noexcept {
  if (bytes > kKeptBytes && keepers.load() == 0) {
    std::free(memory);
    return;
  }
  const std::lock_guard lock(kept().mutex);
  std::free(std::exchange(kept().memory, memory));
  kept().bytes = bytes;
}

void begin_keeping_freed_memory() {
  const std::lock_guard lock(keepers_mutex);
  if (keepers++ > 0) return;
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);  // no mapping of its own for any size: such memory is unmapped as soon as it is freed
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

void end_keeping_freed_memory() {
  const std::lock_guard lock(keepers_mutex);
  if (--keepers > 0) return;
  free_kept();
#if defined(__GLIBC__)
  // What glibc itself arrives at in a process that has freed large memory.
  constexpr int kLargestMapThreshold = 32 << 20;
  constexpr int kDefaultMaps = 65536;
  mallopt(M_MMAP_MAX, kDefaultMaps);
  mallopt(M_MMAP_THRESHOLD, kLargestMapThreshold);
  mallopt(M_TRIM_THRESHOLD, 2 * kLargestMapThreshold);
  malloc_trim(0);
#endif
}

}  // namespace dynamicseg
