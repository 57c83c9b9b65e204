// The threads of a block: each is a fiber that runs until it waits for others.

#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fibers.h"
#include "grid.h"
#include "random_order.h"
#include "warp.h"

namespace cuda_on_host {

class Block {
 public:
  // ``seed``: of the order in which warps and lanes run; 0: by number.
  Block(Grid& grid, unsigned index, unsigned threads, std::size_t shared_bytes, const std::function<void()>& thread,
        std::uint64_t seed);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void* shared() const { return shared_; }

  // Throws Failure.
  void run();

  // These are called by the thread that waits.
  Votes wait_for_others(State state, bool predicate, const Where& where);
  std::uint64_t exchange(WarpOperation operation, unsigned mask, FromLane given, const Where& where);

  static thread_local Block* current;

 private:
  static void run_thread();
  void enter(unsigned thread);
  void leave(Fiber& fiber);

  // Each lane until it waits; whether any could.
  bool run_warp(unsigned warp, const std::vector<unsigned>& lanes);
  bool all_have_arrived(unsigned first, const Fiber& last) const;

  // Lets go on who waits for all threads of the block or of the grid; false: all have ended.
  bool release();

  // Who waits where.
  std::string report() const;

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

}  // namespace cuda_on_host
