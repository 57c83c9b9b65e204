// CUDA on the host: runs the threads of a block as fibers, each with a stack of its own, on one thread of the system.
//
// A fiber runs until it waits for others, so a block is as fast as a loop over its threads but for switches of a few
// nanoseconds. Where none can go on and not all have ended, the launch fails with the list of who waits where.

#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace cuda_on_host {
namespace {

// What a shuffle gives from a lane that is not in its mask; NaN as a float and as a double.
constexpr std::uint64_t kPoison = 0xfffa5a5affa5a5a5u;
constexpr unsigned char kPoisonByte = 0xff;
constexpr unsigned kMaxThreads = 1024;
constexpr std::size_t kDefaultSharedBytes = 48 << 10, kMaxSharedBytes = 227 << 10;

std::mutex settings_mutex;
Device settings_device;
std::uint64_t settings_seed = 0;
std::map<const void*, std::size_t> shared_bytes_allowed;

thread_local std::string last_message;
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t failed(cudaError_t error, std::string message) {
  last_message = std::move(message);
  return last_error = error;
}

Device device() {
  const std::lock_guard lock(settings_mutex);
  return settings_device;
}

std::size_t most_shared_bytes(const void* kernel) {
  const std::lock_guard lock(settings_mutex);
  const auto found = shared_bytes_allowed.find(kernel);
  return found == shared_bytes_allowed.end() ? kDefaultSharedBytes : std::max(kDefaultSharedBytes, found->second);
}

// A launch that cannot go on. An empty message: another block says why.
struct Failure {
  std::string message;
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  template <class Array>
  void shuffle(Array& array) {
    for (std::size_t i = array.size(); i > 1; --i) std::swap(array[i - 1], array[next() % i]);
  }

 private:
  std::uint64_t state_;
};

// ---- stacks and switching
// --------------------------------------------------------------------------------------------

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
std::mutex stacks_mutex;
std::vector<std::unique_ptr<Stacks>> free_stacks;

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

#if defined(__x86_64__)
// swapcontext would ask the system for the mask of signals at each switch, which takes a hundred times as long.
using Context = void*;
extern "C" void cuda_on_host_switch(Context* from, Context to);
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

void switch_context(Context& from, Context& to) { cuda_on_host_switch(&from, to); }
void begin_context(Context& context, unsigned char* bottom, std::size_t size, void (*entry)()) {
  auto* top = reinterpret_cast<std::uint64_t*>(bottom + size);  // divisible by 16
  top[-1] = 0;                                                  // where entry would return to: it never does
  top[-2] = reinterpret_cast<std::uint64_t>(entry);
  for (int saved_register = 3; saved_register <= 8; ++saved_register) top[-saved_register] = 0;
  context = top - 8;
}
#else
using Context = ucontext_t;
void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
void begin_context(Context& context, unsigned char* bottom, std::size_t size, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = bottom;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

// ---- the blocks of a launch
// ------------------------------------------------------------------------------------------

class Grid {
 public:
  Grid(unsigned blocks, bool cooperative) : blocks_(blocks), cooperative_(cooperative) {}

  bool cooperative() const { return cooperative_; }

  // Of one block, all of whose threads have arrived.
  void wait(const std::string& who) {
    std::unique_lock lock(mutex_);
    who_waits_ = who;
    ++waiting_;
    if (waiting_ == blocks_) {
      waiting_ = 0;
      ++meetings_;
      changed_.notify_all();
      return;
    }
    check_for_missing_blocks();
    const auto meeting = meetings_;
    changed_.wait(lock, [&] { return meetings_ != meeting || failed_; });
    if (meetings_ == meeting) throw Failure{};
  }
  void finish() {
    const std::lock_guard lock(mutex_);
    ++finished_;
    check_for_missing_blocks();
  }
  void fail(const std::string& message) {
    const std::lock_guard lock(mutex_);
    fail_locked(message);
  }
  bool failed() {
    const std::lock_guard lock(mutex_);
    return failed_;
  }
  const std::string& message() const { return message_; }

 private:
  void fail_locked(const std::string& message) {
    failed_ = true;
    if (message_.empty()) message_ = message;
    changed_.notify_all();
  }
  void check_for_missing_blocks() {
    if (waiting_ > 0 && finished_ > 0 && waiting_ + finished_ == blocks_) {
      fail_locked(who_waits_ + ", but " + std::to_string(finished_) + " of " + std::to_string(blocks_) +
                  " blocks have ended without");
    }
  }

  const unsigned blocks_;
  const bool cooperative_;
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned waiting_ = 0, finished_ = 0;
  std::uint64_t meetings_ = 0;
  std::string who_waits_;
  bool failed_ = false;
  std::string message_;
};

enum class State { runnable, at_block, at_grid, in_warp, ended };

struct Fiber {
  Context context{};
  State state = State::runnable;
  Where where;
  // What it does together with other lanes of its warp.
  WarpOperation operation = WarpOperation::wait;
  unsigned mask = 0;
  FromLane given{};
  std::uint64_t result = 0;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
};

bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

std::string text_of(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

const char* name_of(WarpOperation operation) {
  switch (operation) {
    case WarpOperation::wait:
      return "__syncwarp";
    case WarpOperation::shuffle:
      return "a shuffle";
    case WarpOperation::ballot:
      return "a vote";
    case WarpOperation::match:
      return "__match_any_sync";
    default:
      return "a reduction";
  }
}

class Block {
 public:
  Block(Grid& grid, unsigned index, unsigned threads, std::size_t shared_bytes, const std::function<void()>& thread,
        std::uint64_t seed)
      : grid_(grid),
        index_(index),
        thread_(thread),
        random_(seed * 0x100000001b3u + index),
        in_order_(seed == 0),
        fibers_(threads),
        stacks_(take_stacks()),
        shared_(static_cast<unsigned char*>(operator new(shared_bytes, std::align_val_t{128}))) {
    std::memset(shared_, kPoisonByte, shared_bytes);
    stacks_->provide(threads);
    for (unsigned i = 0; i < threads; ++i) {
#if defined(__SANITIZE_ADDRESS__)
      __asan_unpoison_memory_region(stacks_->bottom(i), stacks_->size());
#endif
      begin_context(fibers_[i].context, stacks_->bottom(i), stacks_->size(), &Block::run_thread);
    }
  }
  ~Block() {
    give_back_stacks(std::move(stacks_));
    operator delete(shared_, std::align_val_t{128});
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void* shared() const { return shared_; }

  // Throws Failure.
  void run() {
    current = this;
    blockIdx = {index_, 0, 0};
    std::vector<unsigned> warps((fibers_.size() + warpSize - 1) / warpSize);
    std::iota(warps.begin(), warps.end(), 0u);
    std::vector<unsigned> lanes(warpSize);
    std::iota(lanes.begin(), lanes.end(), 0u);
    while (true) {
      bool moved = false;
      if (!in_order_) random_.shuffle(warps);
      for (const unsigned warp : warps) {
        if (!in_order_) random_.shuffle(lanes);
        bool again = true;
        while (again && run_warp(warp, lanes)) {
          moved = true;
          again = in_order_ || random_.next() % 4 != 0;
        }
      }
      if (!moved && !release()) return;
    }
  }

  Votes wait_for_others(State state, bool predicate, const Where& where) {
    Fiber& fiber = fibers_[threadIdx.x];
    fiber.state = state;
    fiber.given.value = predicate;
    fiber.where = where;
    leave(fiber);
    return votes_;
  }

  std::uint64_t exchange(WarpOperation operation, unsigned mask, FromLane given, const Where& where) {
    const unsigned thread = threadIdx.x, first = thread - thread % warpSize;
    Fiber& fiber = fibers_[thread];
    fiber.operation = operation;
    fiber.mask = mask;
    fiber.given = given;
    fiber.where = where;
    fiber.state = State::in_warp;
    // A lane that its own mask leaves out waits for ever, and is reported.
    if ((mask >> thread % warpSize & 1u) != 0 && all_have_arrived(first, fiber)) {
      complete(first, fiber);
    } else {
      leave(fiber);
    }
    return fiber.result;
  }

  static thread_local Block* current;

 private:
  static void run_thread() {
    Block& block = *current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_bottom_, &block.scheduler_size_);
#endif
    block.thread_();
    Fiber& fiber = block.fibers_[threadIdx.x];
    fiber.state = State::ended;
    block.leave(fiber);
  }

  void enter(unsigned thread) {
    Fiber& fiber = fibers_[thread];
    threadIdx = {thread, 0, 0};
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack_, stacks_->bottom(thread), stacks_->size());
#endif
    switch_context(scheduler_, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
  }
  void leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fiber.state == State::ended ? nullptr : &fiber.fake_stack, scheduler_bottom_,
                                   scheduler_size_);
#endif
    switch_context(fiber.context, scheduler_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
  }

  // Each lane until it waits; whether any could.
  bool run_warp(unsigned warp, const std::vector<unsigned>& lanes) {
    bool moved = false;
    for (const unsigned lane : lanes) {
      const unsigned thread = warp * warpSize + lane;
      if (thread >= fibers_.size() || fibers_[thread].state != State::runnable) continue;
      enter(thread);
      moved = true;
    }
    return moved;
  }

  bool all_have_arrived(unsigned first, const Fiber& last) const {
    for (unsigned lane = 0; lane < warpSize; ++lane) {
      if ((last.mask >> lane & 1u) == 0) continue;
      if (first + lane >= fibers_.size()) return false;
      const Fiber& fiber = fibers_[first + lane];
      if (fiber.state != State::in_warp || fiber.operation != last.operation || fiber.mask != last.mask ||
          !same_place(fiber.where, last.where)) {
        return false;
      }
    }
    return true;
  }

  void complete(unsigned first, const Fiber& last) {
    const unsigned mask = last.mask;
    const WarpOperation operation = last.operation;
    const auto for_lanes = [&](const auto& body) {
      for (unsigned lane = 0; lane < warpSize; ++lane) {
        if ((mask >> lane & 1u) != 0) body(lane, fibers_[first + lane]);
      }
    };
    std::optional<unsigned> reduced;
    if (operation == WarpOperation::ballot) reduced = 0;
    for_lanes([&](unsigned lane, const Fiber& fiber) {
      const auto value = static_cast<unsigned>(fiber.given.value);
      if (operation == WarpOperation::ballot) {
        reduced = *reduced | value << lane;
      } else if (!reduced) {
        reduced = value;
      } else if (operation == WarpOperation::reduce_add) {
        reduced = *reduced + value;
      } else if (operation == WarpOperation::reduce_min) {
        reduced = std::min(*reduced, value);
      } else if (operation == WarpOperation::reduce_max) {
        reduced = std::max(*reduced, value);
      } else if (operation == WarpOperation::reduce_and) {
        reduced = *reduced & value;
      } else if (operation == WarpOperation::reduce_or) {
        reduced = *reduced | value;
      }
    });
    for_lanes([&](unsigned, Fiber& fiber) {
      fiber.state = State::runnable;
      if (operation == WarpOperation::shuffle) {
        const auto from = static_cast<unsigned>(fiber.given.lane);
        fiber.result = from < warpSize && (mask >> from & 1u) != 0 ? fibers_[first + from].given.value : kPoison;
      } else if (operation == WarpOperation::match) {
        unsigned same = 0;
        for_lanes([&](unsigned lane, const Fiber& other) {
          if (other.given.value == fiber.given.value) same |= 1u << lane;
        });
        fiber.result = same;
      } else {
        fiber.result = *reduced;
      }
    });
  }

  // Lets go on who waits for all threads of the block or of the grid; false: all have ended.
  bool release() {
    const Fiber* first = nullptr;
    for (const Fiber& fiber : fibers_) {
      if (fiber.state == State::ended) continue;
      if (first == nullptr) first = &fiber;
      if (fiber.state == State::in_warp || fiber.state != first->state || !same_place(fiber.where, first->where)) {
        throw Failure{report()};
      }
    }
    if (first == nullptr) return false;
    if (first->state == State::at_grid) {
      if (!grid_.cooperative()) throw Failure{report() + ", but the launch is not cooperative"};
      grid_.wait(report());
      current = this;
    }
    votes_ = {};
    for (Fiber& fiber : fibers_) {
      if (fiber.state == State::ended) continue;
      fiber.state = State::runnable;
      votes_.yes += fiber.given.value != 0 ? 1 : 0;
      ++votes_.all;
    }
    return true;
  }

  static std::string text_of_wait(const Fiber& fiber) {
    char mask[16];
    switch (fiber.state) {
      case State::ended:
        return "has ended";
      case State::at_block:
        return "waits for the block at " + text_of(fiber.where);
      case State::at_grid:
        return "waits for the grid at " + text_of(fiber.where);
      case State::in_warp:
        std::snprintf(mask, sizeof mask, "%#x", fiber.mask);
        return std::string("waits in ") + name_of(fiber.operation) + " of lanes " + mask + " at " +
               text_of(fiber.where);
      case State::runnable:
        break;
    }
    return "can go on";
  }

  // Who waits where.
  std::string report() const {
    std::string text;
    int parts = 0;
    for (unsigned begin = 0; begin < fibers_.size();) {
      const std::string wait = text_of_wait(fibers_[begin]);
      unsigned end = begin + 1;
      while (end < fibers_.size() && text_of_wait(fibers_[end]) == wait) ++end;
      if (++parts > 8) {
        text += ", ...";
        break;
      }
      text += text.empty() ? "block " + std::to_string(index_) + ": " : ", ";
      text += end == begin + 1 ? "thread " + std::to_string(begin)
                               : "each of threads " + std::to_string(begin) + " to " + std::to_string(end - 1);
      text += " " + wait;
      begin = end;
    }
    return text;
  }

  Grid& grid_;
  const unsigned index_;
  const std::function<void()>& thread_;
  Random random_;
  const bool in_order_;
  std::vector<Fiber> fibers_;
  Votes votes_{};
  std::unique_ptr<Stacks> stacks_;
  unsigned char* shared_;
  Context scheduler_{};
#if defined(__SANITIZE_ADDRESS__)
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  std::size_t scheduler_size_ = 0;
#endif
};

thread_local Block* Block::current = nullptr;

void run_block(Grid& grid, unsigned index, const cudaLaunchConfig_t& config, const std::function<void()>& thread,
               std::uint64_t seed) {
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  try {
    Block(grid, index, config.blockDim.x, config.dynamicSmemBytes, thread, seed).run();
    grid.finish();
  } catch (const Failure& failure) {
    grid.fail(failure.message);
  }
  Block::current = nullptr;
}

}  // namespace

void set_device(const Device& device) {
  const std::lock_guard lock(settings_mutex);
  settings_device = device;
}

void set_seed(std::uint64_t seed) {
  const std::lock_guard lock(settings_mutex);
  settings_seed = seed;
}

void allow_shared_bytes(const void* kernel, std::size_t bytes) {
  const std::lock_guard lock(settings_mutex);
  shared_bytes_allowed[kernel] = std::min(bytes, kMaxSharedBytes);
}

cudaError_t occupancy(int* blocks, int threads, const void* kernel, std::size_t shared_bytes) {
  const bool fits = threads <= static_cast<int>(kMaxThreads) && shared_bytes <= most_shared_bytes(kernel);
  *blocks = fits ? device().blocks_per_multiprocessor : 0;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread,
                   const Where&) {
  const Device on = device();
  std::uint64_t seed;
  {
    const std::lock_guard lock(settings_mutex);
    seed = settings_seed;
  }
  bool cooperative = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) cooperative |= config.attrs[i].val.cooperative != 0;
  const unsigned blocks = config.gridDim.x, threads = config.blockDim.x;
  if (config.gridDim.y * config.gridDim.z * config.blockDim.y * config.blockDim.z != 1) {
    return failed(cudaErrorInvalidConfiguration, "grids and blocks have one dimension here");
  }
  if (blocks == 0 || blocks > 0x7fffffffu || threads == 0 || threads > kMaxThreads) {
    return failed(cudaErrorInvalidConfiguration,
                  std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads cannot be launched");
  }
  if (config.dynamicSmemBytes > most_shared_bytes(kernel)) {
    return failed(cudaErrorInvalidValue, std::to_string(config.dynamicSmemBytes) +
                                             " bytes of shared memory: more than the kernel is allowed to have");
  }
  Grid grid(blocks, cooperative);
  if (cooperative) {
    const auto resident = static_cast<unsigned>(on.multiprocessors * on.blocks_per_multiprocessor);
    if (!on.cooperative_launch || blocks > resident) {
      return failed(cudaErrorCooperativeLaunchTooLarge, std::to_string(blocks) + " blocks together: the device holds " +
                                                            std::to_string(on.cooperative_launch ? resident : 0));
    }
    std::vector<std::thread> workers;
    for (unsigned block = 0; block < blocks; ++block) {
      workers.emplace_back([&, block] { run_block(grid, block, config, thread, seed); });
    }
    for (auto& worker : workers) worker.join();
  } else {
    std::vector<unsigned> order(blocks);
    std::iota(order.begin(), order.end(), 0u);
    if (seed != 0) Random(seed).shuffle(order);
    for (const unsigned block : order) {
      run_block(grid, block, config, thread, seed);
      if (grid.failed()) break;
    }
  }
  return grid.failed() ? failed(cudaErrorLaunchFailure, grid.message()) : cudaSuccess;
}

void* dynamic_shared() { return Block::current->shared(); }
Votes wait_for_block(bool predicate, const Where& where) {
  return Block::current->wait_for_others(State::at_block, predicate, where);
}
void wait_for_grid(const Where& where) { Block::current->wait_for_others(State::at_grid, false, where); }
std::uint64_t exchange(WarpOperation operation, unsigned mask, FromLane given, const Where& where) {
  return Block::current->exchange(operation, mask, given, where);
}

}  // namespace cuda_on_host

using namespace cuda_on_host;

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaSuccess) return "no error";
  return error == last_error ? last_message.c_str() : "unknown error";
}
const char* cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaError"; }
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const Device on = device();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = on.multiprocessors;
      break;
    case cudaDevAttrL2CacheSize:
      *value = on.l2_bytes;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = on.cooperative_launch ? 1 : 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(kMaxSharedBytes);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

// For tests, which load the library that this is part of.
extern "C" __attribute__((visibility("default"))) void cuda_on_host_set_device(int multiprocessors, int l2_bytes,
                                                                               int blocks_per_multiprocessor,
                                                                               int cooperative_launch) {
  set_device({multiprocessors, l2_bytes, blocks_per_multiprocessor, cooperative_launch != 0});
}
extern "C" __attribute__((visibility("default"))) void cuda_on_host_set_seed(std::uint64_t seed) { set_seed(seed); }
