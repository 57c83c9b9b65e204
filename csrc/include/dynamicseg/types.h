// The plain values that every kernel interface is made of. No torch, no Python.
#pragma once

#include <cstdint>

namespace dynamicseg {

// float16 is for CUDA alone.
enum class DType : int { float32, float64, bfloat16, float16 };

// A bfloat16 number: the upper half of a float32.
struct BFloat16 {
  std::uint16_t bits;
};

// A float16 number: IEEE 754 half precision.
struct Float16 {
  std::uint16_t bits;
};

// How much the continuity of an image counts, given its number of labels K (design: dynamic weights).
//   fsf    feature similarity focus      K / mu    as labels merge, continuity fades
//   scf    spatial continuity focus      mu / K    as labels merge, continuity grows
//   fixed  Kim, Kanezaki, Tanaka 2020    mu
// The first published script had fsf and scf swapped; its authors corrected them in October 2024.
enum class Weighting : int { fsf, scf, fixed };

// What the difference t of two neighbours counts in the continuity.
//   l1     |t|
//   huber  t^2 / 2 where |t| < 1, |t| - 1/2 beyond (DynaGuide, arXiv 2602.13020)
enum class Continuity : int { l1, huber };

// Which dimension of a map lies densely in memory; the other strides are free, so that a crop is no copy.
enum class MemoryFormat : int {
  contiguous,    // stride_width == 1: rows of pixels, one channel after another
  channels_last  // stride_channel == 1: all channels of a pixel together
};

struct MapShape {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
};

// In elements, not bytes.
struct MapStrides {
  std::int64_t batch;
  std::int64_t channel;
  std::int64_t height;
  std::int64_t width;
};

// Where CUDA kernels run, and memory of the device that is theirs until they are done: of the size that the op's
// `..._workspace_bytes` gives, at an address divisible by 256; what is in it does not matter.
struct CudaLaunch {
  void* stream;
  void* workspace;
  bool cooperative;  // one kernel whose blocks wait for one another in place of several, where an op has one
};

}  // namespace dynamicseg
