// The exponential function of the kernels.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

namespace dynamicseg {

// To a few units in the last place; results below 2^-126 are 0. Without the step that keeps those, it is two
// instructions in place of five.
__device__ __forceinline__ float exponential(float x) {
  constexpr float kLog2OfE = 1.4426950408889634f;
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * kLog2OfE));
  return result;
#else
  return std::exp2(x * kLog2OfE);
#endif
}
__device__ __forceinline__ double exponential(double x) { return exp(x); }

}  // namespace dynamicseg
