// What the kernels of both memory formats know of an image. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_kernels.h"
#include "cpu/simd.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// What is valid of a pixel: itself, and in each direction its pair with the neighbour before it and the one after it.
constexpr int kValid = 1;
constexpr int kBefore[kDirections] = {2, 8, 32, 128};
constexpr int kAfter[kDirections] = {4, 16, 64, 256};

template <bool kDiagonals>
constexpr int kDirectionsOf = kDiagonals ? 4 : 2;

// Calls body(direction) with each direction as a constant.
template <bool kDiagonals, class Body>
DYNAMICSEG_INLINE void for_directions(Body body) {
  body(std::integral_constant<int, kVertical>{});
  body(std::integral_constant<int, kHorizontal>{});
  if constexpr (kDiagonals) {
    body(std::integral_constant<int, kFalling>{});
    body(std::integral_constant<int, kRising>{});
  }
}

// How far the neighbour after a pixel is from it.
template <int kDirection>
DYNAMICSEG_INLINE std::int64_t step_to_neighbour(const MapStrides& strides) {
  if constexpr (kDirection == kVertical) return strides.height;
  if constexpr (kDirection == kHorizontal) return strides.width;
  return strides.height + (kDirection == kFalling ? strides.width : -strides.width);
}

// The derivative of what the difference of two responses counts; and what it counts, from both.
template <Continuity kKind, class Value>
DYNAMICSEG_INLINE Values<Value> slope_of(Values<Value> difference) {
  if constexpr (kKind == Continuity::l1) return sign_of_difference<Value>(difference, Values<Value>{});
  return greater(lesser(difference, broadcast<Value>(1)), broadcast<Value>(-1));
}
template <Continuity kKind, class Value>
DYNAMICSEG_INLINE Values<Value> size_of(Values<Value> difference, Values<Value> slope) {
  if constexpr (kKind == Continuity::l1) return difference * slope;
  return slope * (difference - slope * Value(0.5));
}
template <Continuity kKind, class Value>
DYNAMICSEG_INLINE Values<Value> size_of(Values<Value> difference) {
  const Values<Value> size = absolute<Value>(difference);
  if constexpr (kKind == Continuity::l1) return size;
  return size_of<kKind, Value>(size, lesser(size, broadcast<Value>(1)));
}

// The labels that the cross-entropies of a pixel are with.
struct PixelTargets {
  std::int64_t label;  // drawn, or else the pixel's own
  std::int64_t guide;  // -1: none
  bool scribbled;
};

// One image of the batch. `kNormalised`: its responses are not x itself, but computed from it.
template <class Storage, bool kNormalised>
struct Image {
  using Value = Compute<Storage>;

  const Storage* x;                    // [C, H, W] with the map's strides
  const std::uint8_t* mask;            // [H, W], or null
  const std::int64_t* scribbles;       // [H, W], or null
  const std::int64_t* guide;           // [H, W], or null
  std::int64_t* labels;                // [H, W]
  Value* logsumexp;                    // [H, W]
  const Value *mean, *scale, *offset;  // [C], or null
  std::int64_t height, width, channels;
  MapStrides strides;

  Image(const DynamicLossParams& p, std::int64_t image)
      : x(static_cast<const Storage*>(p.x) + image * p.strides.batch),
        mask(p.mask ? p.mask + image * p.shape.height * p.shape.width : nullptr),
        scribbles(p.scribbles ? p.scribbles + image * p.shape.height * p.shape.width : nullptr),
        guide(p.guide ? p.guide + image * p.shape.height * p.shape.width : nullptr),
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
  template <bool kDiagonals>
  int flags(std::int64_t row, std::int64_t column) const {
    if (!valid(row, column)) return 0;
    const bool up = row > 0, down = row + 1 < height, left = column > 0, right = column + 1 < width;
    int found = kValid | (up && valid(row - 1, column) ? kBefore[kVertical] : 0) |
                (down && valid(row + 1, column) ? kAfter[kVertical] : 0) |
                (left && valid(row, column - 1) ? kBefore[kHorizontal] : 0) |
                (right && valid(row, column + 1) ? kAfter[kHorizontal] : 0);
    if constexpr (kDiagonals) {
      found |= (up && left && valid(row - 1, column - 1) ? kBefore[kFalling] : 0) |
               (down && right && valid(row + 1, column + 1) ? kAfter[kFalling] : 0) |
               (up && right && valid(row - 1, column + 1) ? kBefore[kRising] : 0) |
               (down && left && valid(row + 1, column - 1) ? kAfter[kRising] : 0);
    }
    return found;
  }

  // Whether there is anything but the pixels' own labels.
  bool has_targets() const { return scribbles != nullptr || guide != nullptr; }
  // Of a valid pixel, by its index in the image.
  PixelTargets targets(std::int64_t index) const {
    const std::int64_t drawn = scribbles != nullptr ? label_or_none(scribbles[index], channels) : -1;
    return {drawn >= 0 ? drawn : labels[index], guide != nullptr ? label_or_none(guide[index], channels) : -1,
            drawn >= 0};
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
