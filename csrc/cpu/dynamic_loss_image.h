// What the kernels of both memory formats know of an image. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_kernels.h"
#include "cpu/simd.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// What is valid of a pixel: itself, and its pair with each of its neighbours.
enum PixelFlag : int { kValid = 1, kUp = 2, kDown = 4, kLeft = 8, kRight = 16 };

// One image of the batch.
template <class Storage>
struct Image {
  const Storage* x;             // [C, H, W] with the map's strides
  const std::uint8_t* mask;     // [H, W], or null
  std::int64_t* labels;         // [H, W]
  Compute<Storage>* logsumexp;  // [H, W]
  std::int64_t height, width, channels;
  MapStrides strides;

  Image(const DynamicLossParams& p, std::int64_t image)
      : x(static_cast<const Storage*>(p.x) + image * p.strides.batch),
        mask(p.mask ? p.mask + image * p.shape.height * p.shape.width : nullptr),
        labels(p.labels + image * p.shape.height * p.shape.width),
        logsumexp(static_cast<Compute<Storage>*>(p.logsumexp) + image * p.shape.height * p.shape.width),
        height(p.shape.height),
        width(p.shape.width),
        channels(p.shape.channels),
        strides(p.strides) {}

  const Storage* pixel(std::int64_t row, std::int64_t column) const {
    return x + row * strides.height + column * strides.width;
  }
  bool valid(std::int64_t row, std::int64_t column) const { return mask == nullptr || mask[row * width + column] != 0; }

  // Which of a pixel's neighbours form a valid pair with it.
  int flags(std::int64_t row, std::int64_t column) const {
    if (!valid(row, column)) return 0;
    return kValid | (row > 0 && valid(row - 1, column) ? kUp : 0) |
           (row + 1 < height && valid(row + 1, column) ? kDown : 0) |
           (column > 0 && valid(row, column - 1) ? kLeft : 0) |
           (column + 1 < width && valid(row, column + 1) ? kRight : 0);
  }
};

template <class Integer, class Count>
DYNAMICSEG_INLINE auto has_flag(const Integer* flags, Count count, int flag) {
  return (load_integers(flags, count) & flag) != 0;
}

DYNAMICSEG_INLINE void mark_alive(std::uint64_t* alive, std::int64_t label) {
  alive[label >> 6] |= std::uint64_t{1} << (label & 63);
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
