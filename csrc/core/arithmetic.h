// Arithmetic of the dynamically weighted loss that host and device share: one definition, compiled for both.
//
// Everything has internal linkage. The CPU kernels are compiled once for each instruction set, and a function with
// external linkage could be merged with its AVX-512 twin and then crash a processor that has none.
#pragma once

#include <cstdint>
#include <cstring>

#include "dynamicseg/types.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>

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

DYNAMICSEG_HOST_DEVICE float number(Float16 element) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(element.bits));
#else
  const std::uint32_t magnitude = element.bits & 0x7fffu;
  std::uint32_t word = magnitude << 13;  // exponent and mantissa where those of a float32 are; the bias is 112 short
  constexpr std::uint32_t kInfinity = 0x7c00u << 13;
  float value;
  if (word >= kInfinity) {
    word += std::uint32_t{224} << 23;
    std::memcpy(&value, &word, sizeof value);
  } else {
    std::memcpy(&value, &word, sizeof value);
    value *= 0x1p112f;  // also of subnormal numbers
  }
  return (element.bits & 0x8000u) != 0 ? -value : value;
#endif
}

// Rounded to the nearest, ties to even.
DYNAMICSEG_HOST_DEVICE BFloat16 rounded_to_bfloat16(float value) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  std::uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  if (value != value) return {static_cast<std::uint16_t>((word >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16)};
#endif
}
DYNAMICSEG_HOST_DEVICE Float16 rounded_to_float16(float value) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  std::uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const std::uint32_t sign = word >> 16 & 0x8000u;
  word &= 0x7fffffffu;
  if (value != value) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (word >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds beyond the greatest number
  float magnitude;
  std::memcpy(&magnitude, &word, sizeof magnitude);
  if (word < 0x38800000u) {  // subnormal: adding a number whose last bit counts 2^-24 rounds to a multiple of that
    magnitude += 0.5f;
    std::memcpy(&word, &magnitude, sizeof word);
    return {static_cast<std::uint16_t>(sign | (word - 0x3f000000u))};
  }
  word += 0xfffu + (word >> 13 & 1u);
  return {static_cast<std::uint16_t>(sign | ((word >> 13) - (std::uint32_t{112} << 10)))};
#endif
}

DYNAMICSEG_HOST_DEVICE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The sign of a difference: 0 for 0 and for a NaN.
template <class Value>
DYNAMICSEG_HOST_DEVICE Value sign_of(Value difference) {
  return static_cast<Value>(difference > 0) - static_cast<Value>(difference < 0);
}

// Whether `value` is the greater response: NaN counts as the greatest number, and the first of two equals stays.
template <class Value>
DYNAMICSEG_HOST_DEVICE bool takes_label(Value value, Value best) {
  return value > best || (value != value && best == best);
}

// A number from a map of scribbles or from a guide: -1, no label, where it is out of range.
DYNAMICSEG_HOST_DEVICE std::int64_t label_or_none(std::int64_t number, std::int64_t channels) {
  return number >= 0 && number < channels ? number : -1;
}

// Weight on continuity of an image with `label_count` labels; one with fewer than the floor is taken to have as many.
// An image without one valid pixel has no label; its terms are 0, and the floor, at least 1, keeps the weight finite.
DYNAMICSEG_HOST_DEVICE double dynamic_weight(Weighting weighting, double mu, std::int64_t label_floor,
                                             std::int64_t label_count) {
  const double labels = static_cast<double>(label_count > label_floor ? label_count : label_floor);
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
