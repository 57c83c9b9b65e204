#include "warp.h"

#include <algorithm>
#include <optional>

namespace cuda_on_host {

namespace {

// What a shuffle gives from a lane that is not in its mask; NaN as a float and as a double.
constexpr std::uint64_t kPoison = 0xfffa5a5affa5a5a5u;

}  // namespace

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

void complete(Fiber* lanes, WarpOperation operation, unsigned mask) {
  const auto for_lanes = [&](const auto& body) {
    for (unsigned lane = 0; lane < warpSize; ++lane) {
      if ((mask >> lane & 1u) != 0) body(lane, lanes[lane]);
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
      fiber.result = from < warpSize && (mask >> from & 1u) != 0 ? lanes[from].given.value : kPoison;
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

}  // namespace cuda_on_host
