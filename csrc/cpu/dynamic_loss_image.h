// What the kernels of both memory formats know of an image. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_kernels.h"
#include "cpu/simd.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// What is valid of a pixel: itself, and its pair with each of its neighbours.
enum PixelFlag : int { kValid = 1, kUp = 2, kDown = 4, kLeft = 8, kRight = 16 };

// One image of the batch. `kNormalised`: its responses are not x itself, but computed from it.
template <class Storage, bool kNormalised>
struct Image {
  using Value = Compute<Storage>;

  const Storage* x;                    // [C, H, W] with the map's strides
  const std::uint8_t* mask;            // [H, W], or null
  std::int64_t* labels;                // [H, W]
  Value* logsumexp;                    // [H, W]
  const Value *mean, *scale, *offset;  // [C], or null
  std::int64_t height, width, channels;
  MapStrides strides;

  Image(const DynamicLossParams& p, std::int64_t image)
      : x(static_cast<const Storage*>(p.x) + image * p.strides.batch),
        mask(p.mask ? p.mask + image * p.shape.height * p.shape.width : nullptr),
        labels(p.labels + image * p.shape.height * p.shape.width),
        logsumexp(static_cast<Value*>(p.logsumexp) + image * p.shape.height * p.shape.width),
        mean(static_cast<const Value*>(p.mean)),
        scale(static_cast<const Value*>(p.scale)),
        offset(static_cast<const Value*>(p.offset)),
        height(p.shape.height),
        width(p.shape.width),
        channels(p.shape.channels),
        strides(p.strides) {}

  const Storage* pixel(std::int64_t row, std::int64_t column) const {
    return x + row * strides.height + column * strides.width;
  }

  // The response to one label.
  Value response(const Storage* pixel, std::int64_t label) const {
    const Value x = number(pixel[label * strides.channel]);
    if constexpr (kNormalised) return (x - mean[label]) * scale[label] + offset[label];
    return x;
  }
  // The responses of a channels-last pixel to the labels from `begin` on, from their x; lanes beyond them are `rest`.
  template <class Count>
  __attribute__((always_inline)) Values<Value> responses(Values<Value> x, std::int64_t begin, Count count,
                                                         Values<Value> rest) const {
    if constexpr (kNormalised) {
      x = (x - load(mean + begin)) * load(scale + begin) + load(offset + begin);
      if constexpr (std::is_same_v<Count, int>) x = lane_numbers<Value>() < count ? x : rest;
    }
    return x;
  }
  template <class Count>
  __attribute__((always_inline)) Values<Value> load_responses(const Storage* pixel, std::int64_t begin, Count count,
                                                              Values<Value> rest) const {
    return responses(load(pixel + begin, count, rest), begin, count, rest);
  }
  // Differences of responses, and signs of them, each from that of x.
  __attribute__((always_inline)) Values<Value> differences(Values<Value> of_x, std::int64_t begin) const {
    if constexpr (kNormalised) return of_x * load(scale + begin);
    return of_x;
  }
  __attribute__((always_inline)) Values<Value> signs(Values<Value> of_x, std::int64_t begin) const {
    if constexpr (kNormalised) return of_x * sign_of_difference<Value>(load(scale + begin), Values<Value>{});
    return of_x;
  }
  template <class Count>
  __attribute__((always_inline)) Values<Value> centred(const Storage* pixel, std::int64_t begin, Count count) const {
    return load(pixel + begin, count, Values<Value>{}) - load(mean + begin);
  }
  // The same of one channel at many pixels.
  __attribute__((always_inline)) Values<Value> responses_to(Values<Value> x, std::int64_t label) const {
    if constexpr (kNormalised) return (x - mean[label]) * scale[label] + offset[label];
    return x;
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
