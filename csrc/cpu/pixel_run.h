// How the kernels of relu_batch_norm walk through a run of pixels. Part of relu_batch_norm_kernels.cpp.
#pragma once

#include "cpu/relu_batch_norm_kernels.h"
#include "cpu/simd.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// Calls body(pixel, count) for pieces of a run whose pixels lie at equal distances, of at most `most` pixels; `pixel`
// is the first one, as row and column.
template <class Body>
DYNAMICSEG_INLINE void for_pieces(const PixelRun& run, std::int64_t most, Body body) {
  for (std::int64_t pixel = run.begin; pixel < run.end;) {
    const std::int64_t column = pixel % run.row_length;
    const std::int64_t count = smaller(smaller(run.end - pixel, run.row_length - column), most);
    body(pixel / run.row_length, column, count);
    pixel += count;
  }
}

// A pixel's first channel in a map.
template <class Storage>
DYNAMICSEG_INLINE Storage* pixel_of(Storage* map, const MapStrides& strides, const PixelRun& run, std::int64_t row,
                                    std::int64_t column) {
  return map + run.image * strides.batch + row * strides.height + column * strides.width;
}

template <class Value>
DYNAMICSEG_INLINE const Value* factors_of(const void* array) {
  return static_cast<const Value*>(array);
}

template <bool kRelu, class Vector>
DYNAMICSEG_INLINE Vector rectified(Vector x) {
  if constexpr (kRelu) {
    const Vector zero{};
    return zero > x ? zero : x;  // a NaN stays one
  }
  return x;
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
