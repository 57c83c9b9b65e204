// Work shared between threads.
#pragma once

#include <cstdint>

#include "cpu/statistic.h"

namespace dynamicseg {

// Calls task(context, index) for all of 0..count, each index once, on the threads of cpu_runtime.h, in any order.
void parallel_for(std::int64_t count, void (*task)(void* context, std::int64_t index), void* context);

template <class Body>
void parallel_for(std::int64_t count, Body body) {
  parallel_for(count, [](void* context, std::int64_t index) { (*static_cast<Body*>(context))(index); }, &body);
}

// A map below this many elements is done by one thread: waking others would take longer, above all where cores are
// busy.
constexpr std::int64_t kElementsWorthThreads = 8192;

// Calls body(index) for each of the `count` parts of a map of this shape.
template <class Body>
void for_parts(std::int64_t count, const MapShape& shape, Body body) {
  if (elements_of(shape) >= kElementsWorthThreads) {
    parallel_for(count, body);
  } else {
    for (std::int64_t index = 0; index < count; ++index) body(index);
  }
}

}  // namespace dynamicseg
