// What a difference of neighbours counts in the continuity, and the derivative of that, which is 0 for a NaN. On the
// CPU cpu/dynamic_loss_image.h has them, on vectors.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "core/arithmetic.h"

namespace dynamicseg {

// The size of a difference, but at most 1; 0 for a NaN.
__device__ __forceinline__ float at_most_1(float difference) { return __saturatef(fabsf(difference)); }
__device__ __forceinline__ double at_most_1(double difference) {
  const double size = fabs(difference);
  return size < 1 ? size : size >= 1 ? 1.0 : 0.0;
}

template <Continuity kContinuity, class Value>
__device__ __forceinline__ Value size_counted(Value difference) {
  if constexpr (kContinuity == Continuity::l1) return fabs(difference);
  const Value limited = at_most_1(difference);
  return limited * (fabs(difference) - limited / 2);
}
template <Continuity kContinuity, class Value>
__device__ __forceinline__ Value slope_counted(Value difference) {
  if constexpr (kContinuity == Continuity::l1) return sign_of(difference);
  return copysign(at_most_1(difference), difference);
}

}  // namespace dynamicseg
