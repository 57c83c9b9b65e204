// What the lanes of a warp do together: shuffles, votes, reductions.

#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "fibers.h"

namespace cuda_on_host {

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

const char* name_of(WarpOperation operation);

// Gives each lane of the mask its result, and lets it go on. ``lanes``: the fibers of the warp, all in the operation.
void complete(Fiber* lanes, WarpOperation operation, unsigned mask);

}  // namespace cuda_on_host
