#include "block.h"

#include <cstdio>
#include <cstring>
#include <numeric>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_host {
namespace {

constexpr unsigned char kPoisonByte = 0xff;

bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

std::string text_of(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

std::string text_of_wait(const Fiber& fiber) {
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
      return std::string("waits in ") + name_of(fiber.operation) + " of lanes " + mask + " at " + text_of(fiber.where);
    case State::runnable:
      break;
  }
  return "can go on";
}

}  // namespace

thread_local Block* Block::current = nullptr;

Block::Block(Grid& grid, unsigned index, unsigned threads, std::size_t shared_bytes,
             const std::function<void()>& thread, std::uint64_t seed)
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

Block::~Block() {
  give_back_stacks(std::move(stacks_));
  operator delete(shared_, std::align_val_t{128});
}

void Block::run() {
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

Votes Block::wait_for_others(State state, bool predicate, const Where& where) {
  Fiber& fiber = fibers_[threadIdx.x];
  fiber.state = state;
  fiber.given.value = predicate;
  fiber.where = where;
  leave(fiber);
  return votes_;
}

std::uint64_t Block::exchange(WarpOperation operation, unsigned mask, FromLane given, const Where& where) {
  const unsigned thread = threadIdx.x, first = thread - thread % warpSize;
  Fiber& fiber = fibers_[thread];
  fiber.operation = operation;
  fiber.mask = mask;
  fiber.given = given;
  fiber.where = where;
  fiber.state = State::in_warp;
  // A lane that its own mask leaves out waits for ever, and is reported.
  if ((mask >> thread % warpSize & 1u) != 0 && all_have_arrived(first, fiber)) {
    complete(&fibers_[first], operation, mask);
  } else {
    leave(fiber);
  }
  return fiber.result;
}

void Block::run_thread() {
  Block& block = *current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_bottom_, &block.scheduler_size_);
#endif
  block.thread_();
  Fiber& fiber = block.fibers_[threadIdx.x];
  fiber.state = State::ended;
  block.leave(fiber);
}

void Block::enter(unsigned thread) {
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

void Block::leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fiber.state == State::ended ? nullptr : &fiber.fake_stack, scheduler_bottom_,
                                 scheduler_size_);
#endif
  switch_context(fiber.context, scheduler_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

bool Block::run_warp(unsigned warp, const std::vector<unsigned>& lanes) {
  bool moved = false;
  for (const unsigned lane : lanes) {
    const unsigned thread = warp * warpSize + lane;
    if (thread >= fibers_.size() || fibers_[thread].state != State::runnable) continue;
    enter(thread);
    moved = true;
  }
  return moved;
}

bool Block::all_have_arrived(unsigned first, const Fiber& last) const {
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

bool Block::release() {
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

std::string Block::report() const {
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

}  // namespace cuda_on_host
