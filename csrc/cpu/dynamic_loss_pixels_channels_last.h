// What the kernels of channels-last maps are made of: the neighbours of a pixel, what differences count channel by
// channel, sums that grow, a block of the gradient. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_cross_entropy.h"
#include "cpu/dynamic_loss_label_channels_last.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// Elements of the map that are worked on together, in the first-level cache: a few pixels.
constexpr std::int64_t kBlock = 1024;

template <class Storage, bool kNormalised>
DYNAMICSEG_INLINE std::int64_t pixels_in_block(const Image<Storage, kNormalised>& image) {
  return image.channels < kBlock ? kBlock / image.channels : 1;
}

// A pixel and its neighbours. Where there is no valid neighbour the pixel stands in for it: the slope of their
// difference is 0, and their difference is not added.
template <class Storage, bool kDiagonals>
struct Neighbourhood {
  const Storage* here;
  const Storage* before[kDirectionsOf<kDiagonals>];
  const Storage* after[kDirectionsOf<kDiagonals>];
  int flags;

  template <bool kNormalised>
  __attribute__((always_inline)) Neighbourhood(const Image<Storage, kNormalised>& image, std::int64_t row,
                                               std::int64_t column)
      : here(image.pixel(row, column)), flags(image.template flags<kDiagonals>(row, column)) {
    for_directions<kDiagonals>([&](auto direction) __attribute__((always_inline)) {
      const std::int64_t step = step_to_neighbour<direction>(image.strides);
      before[direction] = flags & kBefore[direction] ? here - step : here;
      after[direction] = flags & kAfter[direction] ? here + step : here;
    });
  }
};

// The gradient's scales, as they are computed with.
template <class Value>
struct Scales {
  Value similarity, scribble, guide;
  Value differences[kDirections];

  explicit Scales(const GradientScales& s)
      : similarity(static_cast<Value>(s.similarity)),
        scribble(static_cast<Value>(s.scribble)),
        guide(static_cast<Value>(s.guide)) {
    for (int d = 0; d < kDirections; ++d) differences[d] = static_cast<Value>(s.differences[d]);
  }

  // Of the cross-entropy with a pixel's label, and of that and its guide together.
  Value of_label(const PixelTargets& targets) const { return targets.scribbled ? scribble : similarity; }
  Value of_both(const PixelTargets& targets) const {
    return of_label(targets) + (targets.guide >= 0 ? guide : Value(0));
  }
};

// What differences of x count, channel by channel, and in the gradient. In L1 the scale of a channel can wait until the
// differences are added, or need be known by its sign alone; in Huber it cannot.
template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals>
class ChannelDifferences {
  using Value = Compute<Storage>;

 public:
  __attribute__((always_inline)) ChannelDifferences(const Image<Storage, kNormalised>& image,
                                                    const Scales<Value>& scales)
      : image_(image), scales_(scales) {
    for (std::int64_t c = 0; kBySign && c < image.channels; ++c) {
      const Value scale = image.scale[c];
      const Value sign = static_cast<Value>((scale > 0) - (scale < 0));
      sizes_[c] = scale * sign;
      for (int d = 0; d < kDirectionsOf<kDiagonals>; ++d) of_gradient_[d][c] = scales.differences[d] * sign;
    }
  }

  __attribute__((always_inline)) Values<Value> slopes(Values<Value> x, Values<Value> neighbour,
                                                      std::int64_t begin) const {
    if constexpr (kKind == Continuity::l1) return sign_of_difference<Value>(x, neighbour);
    return slope_of<kKind, Value>(image_.differences(x - neighbour, begin));
  }
  __attribute__((always_inline)) Values<Value> sizes(Values<Value> x, Values<Value> neighbour, Values<Value> slope,
                                                     std::int64_t begin) const {
    if constexpr (kKind == Continuity::huber) {
      return size_of<kKind, Value>(image_.differences(x - neighbour, begin), slope);
    }
    const Values<Value> of_x = size_of<kKind, Value>(x - neighbour, slope);
    if constexpr (kBySign) return of_x * load(sizes_ + begin);
    return of_x;
  }
  template <int kDirection>
  __attribute__((always_inline)) Values<Value> of_gradient(std::int64_t begin) const {
    if constexpr (kBySign) return load(of_gradient_[kDirection] + begin);
    return broadcast<Value>(scales_.differences[kDirection]);
  }

 private:
  static constexpr bool kBySign = kNormalised && kKind == Continuity::l1;
  static constexpr std::int64_t kRoom = kBySign ? kBlock + kLanes<Value> : 1;

  const Image<Storage, kNormalised>& image_;
  Scales<Value> scales_;
  alignas(kVectorBytes) Value sizes_[kRoom]{};
  alignas(kVectorBytes) Value of_gradient_[kDirectionsOf<kDiagonals>][kRoom]{};
};

// The sums of differences over one tile, while they grow.
template <class Value, bool kDiagonals>
struct GrowingDifferences {
  LongSum<Value> sums[kDirectionsOf<kDiagonals>];

  __attribute__((always_inline)) void add(int flags, const Values<Value>* of_pixel) {
    for_directions<kDiagonals>([&](auto direction) __attribute__((always_inline)) {
      if (flags & kAfter[direction]) sums[direction].add(of_pixel[direction]);
    });
  }

  void write(TileSums& to) const {
    for (int d = 0; d < kDirectionsOf<kDiagonals>; ++d) to.differences[d] = sums[d].total();
  }
};

// The sums of the gradient over a few pixels.
template <class Value>
struct GrowingGradSums {
  Values<Value> grad{}, grad_centred{};

  __attribute__((always_inline)) void add(Values<Value> one, Values<Value> centred) {
    grad += one;
    grad_centred += one * centred;
  }

  template <class Count>
  __attribute__((always_inline)) void add_to(const PartialGradientSums& sums, std::int64_t begin, Count count) const {
    add_lanes<Value>(sums.grad + begin, grad, count);
    add_lanes<Value>(sums.grad_centred + begin, grad_centred, count);
  }
};

// A block of pixels of the gradient. Where it is streamed, it is gathered first, to be written out in one piece.
template <class Storage>
class GradientBlock {
 public:
  __attribute__((always_inline)) GradientBlock(const DynamicLossParams& params, const Tile& tile, std::int64_t row,
                                               std::int64_t column, bool stream)
      : target_(static_cast<Storage*>(params.grad_x) + tile.image * params.grad_strides.batch +
                row * params.grad_strides.height + column * params.grad_strides.width),
        channels_(params.shape.channels),
        stride_(params.grad_strides.width),
        stream_(stream && channels_ <= kBlock && stride_ == channels_) {}

  // Its first pixel, and how far it is from one to the next.
  __attribute__((always_inline)) Storage* pixels() { return stream_ ? gathered_ : target_; }
  __attribute__((always_inline)) std::int64_t step() const { return stream_ ? channels_ : stride_; }
  __attribute__((always_inline)) void write(std::int64_t pixels) const {
    if (stream_) stream_copy(target_, gathered_, pixels * channels_ * static_cast<int>(sizeof(Storage)));
  }

 private:
  Storage* target_;
  std::int64_t channels_, stride_;
  bool stream_;
  alignas(kVectorBytes) Storage gathered_[kBlock];
};

template <class Storage>
DYNAMICSEG_INLINE void write_zero(Storage* grad, std::int64_t channels) {
  for (std::int64_t c = 0; c < channels; ++c) grad[c] = Storage{};
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
