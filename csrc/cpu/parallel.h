// Work shared between threads.
#pragma once

#include <cstdint>

namespace dynamicseg {

// Calls task(context, index) for all of 0..count, each index once, on the threads of cpu_runtime.h, in any order.
void parallel_for(std::int64_t count, void (*task)(void* context, std::int64_t index), void* context);

template <class Body>
void parallel_for(std::int64_t count, Body body) {
  parallel_for(count, [](void* context, std::int64_t index) { (*static_cast<Body*>(context))(index); }, &body);
}

}  // namespace dynamicseg
