#include "cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "dynamicseg/cpu_runtime.h"

namespace dynamicseg {
namespace {

std::atomic<int> threads_allowed{1};
std::atomic<OpenMPParallel> openmp{nullptr};

struct SharedWork {
  std::int64_t count;
  void (*task)(void*, std::int64_t);
  void* context;
  std::atomic<std::int64_t> next{0};

  void take_turns() {
    for (std::int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, index);
  }
};

void take_turns(void* work) { static_cast<SharedWork*>(work)->take_turns(); }

}  // namespace

void set_threads(int threads, OpenMPParallel openmp_parallel) {
  threads_allowed.store(std::max(threads, 1));
  openmp.store(openmp_parallel);
}

int thread_count() { return threads_allowed.load(); }

bool uses_openmp() { return openmp.load() != nullptr; }

void parallel_for(std::int64_t count, void (*task)(void*, std::int64_t), void* context) {
  SharedWork work{count, task, context};
  const auto threads = static_cast<int>(std::min<std::int64_t>(thread_count(), count));
  if (threads <= 1) {
    work.take_turns();
  } else if (const OpenMPParallel parallel = openmp.load()) {
    parallel(take_turns, &work, static_cast<unsigned>(threads), 0);
  } else {
    std::vector<std::thread> helpers;
    helpers.reserve(static_cast<std::size_t>(threads - 1));
    try {
      for (int i = 1; i < threads; ++i) helpers.emplace_back(take_turns, &work);
    } catch (...) {
      // The system gives no more threads: those that are there do the work.
    }
    work.take_turns();
    for (std::thread& helper : helpers) helper.join();
  }
}

}  // namespace dynamicseg
