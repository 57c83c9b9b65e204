// Arithmetic of the dynamically weighted loss that host and device share: one definition, compiled for both.
//
// Everything has internal linkage. The CPU kernels are compiled once for each instruction set, and a function with
// external linkage could be merged with its AVX-512 twin and then crash a processor that has none.
#pragma once

#include <cstdint>
#include <cstring>

#include "dynamicseg/types.h"

#if defined(__CUDACC__)
#define DYNAMICSEG_HOST_DEVICE __host__ __device__ __forceinline__ static
#else
#define DYNAMICSEG_HOST_DEVICE [[maybe_unused]] static inline __attribute__((always_inline))
#endif

namespace dynamicseg {

// An element of a map as a number to compute with.
DYNAMICSEG_HOST_DEVICE float number(float element) { return element; }
DYNAMICSEG_HOST_DEVICE double number(double element) { return element; }
DYNAMICSEG_HOST_DEVICE float number(BFloat16 element) {
  const std::uint32_t word = static_cast<std::uint32_t>(element.bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Weight on continuity of an image with `label_count` labels. An image without one valid pixel has no label; its terms
// are 0, and counting one label keeps the weight finite.
DYNAMICSEG_HOST_DEVICE double dynamic_weight(Weighting weighting, double mu, std::int64_t label_count) {
  const double labels = static_cast<double>(label_count > 0 ? label_count : 1);
  switch (weighting) {
    case Weighting::fsf:
      return labels / mu;
    case Weighting::scf:
      return mu / labels;
    case Weighting::fixed:
      break;
  }
  return mu;
}

// A mean over `count` elements; a term with no element is 0.
DYNAMICSEG_HOST_DEVICE double mean_or_zero(double sum, std::int64_t count) {
  return count > 0 ? sum / static_cast<double>(count) : 0.0;
}

// What one element of a mean over `count` elements counts.
DYNAMICSEG_HOST_DEVICE double share_of_mean(std::int64_t count) {
  return count > 0 ? 1.0 / static_cast<double>(count) : 0.0;
}

}  // namespace dynamicseg
