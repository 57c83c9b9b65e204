// dynamic_loss of channels-last maps: the channels of one pixel fill the lanes. Part of dynamic_loss_kernels.cpp.
#pragma once

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

// A pixel and its neighbours. Where there is no valid neighbour the pixel stands in for it: the sign of their
// difference is 0, and their difference is not added.
template <class Storage>
struct Neighbourhood {
  const Storage *here, *up, *down, *left, *right;
  int flags;

  template <bool kNormalised>
  __attribute__((always_inline)) Neighbourhood(const Image<Storage, kNormalised>& image, std::int64_t row,
                                               std::int64_t column)
      : here(image.pixel(row, column)), flags(image.flags(row, column)) {
    up = flags & kUp ? here - image.strides.height : here;
    down = flags & kDown ? here + image.strides.height : here;
    left = flags & kLeft ? here - image.strides.width : here;
    right = flags & kRight ? here + image.strides.width : here;
  }
};

// The gradient's scales, as they are computed with.
template <class Value>
struct Scales {
  Value similarity, vertical, horizontal;

  explicit Scales(const GradientScales& s)
      : similarity(static_cast<Value>(s.similarity)),
        vertical(static_cast<Value>(s.vertical)),
        horizontal(static_cast<Value>(s.horizontal)) {}
};

// What differences of x count in the differences of responses, channel by channel.
template <class Storage, bool kNormalised>
class ChannelScales {
  using Value = Compute<Storage>;

 public:
  __attribute__((always_inline)) ChannelScales(const Image<Storage, kNormalised>& image, const Scales<Value>& scales)
      : scales_(scales) {
    for (std::int64_t c = 0; kNormalised && c < image.channels; ++c) {
      const Value scale = image.scale[c];
      const Value sign = static_cast<Value>((scale > 0) - (scale < 0));
      sizes_[c] = scale * sign;
      vertical_[c] = scales.vertical * sign;
      horizontal_[c] = scales.horizontal * sign;
    }
  }

  __attribute__((always_inline)) Values<Value> sizes(Values<Value> of_x, std::int64_t begin) const {
    if constexpr (kNormalised) return of_x * load(sizes_ + begin);
    return of_x;
  }
  __attribute__((always_inline)) Values<Value> vertical(std::int64_t begin) const {
    if constexpr (kNormalised) return load(vertical_ + begin);
    return broadcast<Value>(scales_.vertical);
  }
  __attribute__((always_inline)) Values<Value> horizontal(std::int64_t begin) const {
    if constexpr (kNormalised) return load(horizontal_ + begin);
    return broadcast<Value>(scales_.horizontal);
  }

 private:
  static constexpr std::int64_t kRoom = kNormalised ? kBlock + kLanes<Value> : 1;

  Scales<Value> scales_;
  alignas(kVectorBytes) Value sizes_[kRoom]{}, vertical_[kRoom]{}, horizontal_[kRoom]{};
};

// The sums over one tile, while they grow.
template <class Value>
struct GrowingSums {
  LongSum<Value> similarity, vertical, horizontal;
  double below_top = 0;  // how far the responses to the labels are below the greatest ones
  std::int64_t pixels = 0, vertical_pairs = 0, horizontal_pairs = 0;

  __attribute__((always_inline)) void add_pixel(int flags, Values<Value> down_differences,
                                                Values<Value> right_differences) {
    if (flags & kDown) vertical.add(down_differences);
    if (flags & kRight) horizontal.add(right_differences);
    pixels += 1;
    vertical_pairs += (flags & kDown) != 0;
    horizontal_pairs += (flags & kRight) != 0;
  }

  TileSums total() const {
    return {
        similarity.total() + below_top, vertical.total(), horizontal.total(), pixels, vertical_pairs, horizontal_pairs};
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

// Adds the similarity of `count` pixels, from their greatest response and their sum of exponentials below it; returns
// nothing but writes logsumexp where it is wanted.
template <class Value>
DYNAMICSEG_INLINE void add_similarity(GrowingSums<Value>& sums, const Value* top, const Value* exp_sum,
                                      std::int64_t count, Value* logsumexp) {
  for_lanes<Value>(count, [&](std::int64_t begin, auto lanes) __attribute__((always_inline)) {
    const Values<Value> tops = load(top + begin, lanes, Values<Value>{});
    const Values<Value> log_sum = log_positive(load(exp_sum + begin, lanes, broadcast<Value>(1)));
    sums.similarity.add(log_sum + (tops - tops));  // NaN where the top is infinite
    if (logsumexp != nullptr) store(logsumexp + begin, lanes, tops + log_sum);
  });
}

template <class Storage, bool kNormalised>
TileSums forward_channels_last(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive) {
  using Value = Compute<Storage>;
  const Image<Storage, kNormalised> image(params, tile.image);
  const Values<Value> lowest = broadcast<Value>(-std::numeric_limits<Value>::infinity());
  const std::int64_t ahead = image.strides.height + kPixelsAhead * image.strides.width;
  GrowingSums<Value> sums;
  Value top[kTileColumns];
  Value exp_sum[kTileColumns];

  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    label_row<Storage, kNormalised>(image, tile, row, ahead, alive, nullptr);
    for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column) {
      const std::int64_t i = column - tile.column_begin;
      const Neighbourhood<Storage> pixel(image, row, column);
      top[i] = 0;
      exp_sum[i] = 1;  // its logarithm, 0, adds nothing to the similarity
      if (!(pixel.flags & kValid)) continue;
      top[i] = image.response(pixel.here, image.labels[row * image.width + column]);
      Values<Value> exp_sums{}, down_differences{}, right_differences{};
      for_lanes<Value>(image.channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
        const Values<Value> rest{};
        const Values<Value> x = load(pixel.here + begin, count, rest);
        exp_sums += exp_nonpositive(image.load_responses(pixel.here, begin, count, lowest) - top[i]);
        // What is added to all responses of a channel drops out of their differences.
        down_differences += absolute<Value>(image.differences(load(pixel.down + begin, count, rest) - x, begin));
        right_differences += absolute<Value>(image.differences(load(pixel.right + begin, count, rest) - x, begin));
      });
      exp_sum[i] = static_cast<Value>(sum_of_lanes(exp_sums));
      sums.add_pixel(pixel.flags, down_differences, right_differences);
    }
    add_similarity(sums, top, exp_sum, tile.column_end - tile.column_begin,
                   image.logsumexp + row * image.width + tile.column_begin);
  }
  return sums.total();
}

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

template <class Storage, bool kNormalised>
void backward_channels_last(const DynamicLossParams& params, const Tile& tile, const GradientScales& gradient_scales,
                            bool stream, const PartialGradientSums& grad_sums) {
  using Value = Compute<Storage>;
  using Integer = typename VectorOf<Value>::Integer;
  const Image<Storage, kNormalised> image(params, tile.image);
  const Scales<Value> scales(gradient_scales);
  const std::int64_t block_pixels = pixels_in_block(image);
  const std::int64_t ahead = image.strides.height + kPixelsAhead * image.strides.width;

  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    for (std::int64_t first = tile.column_begin; first < tile.column_end; first += block_pixels) {
      const std::int64_t pixels = smaller(block_pixels, tile.column_end - first);
      GradientBlock<Storage> block(params, tile, row, first, stream);
      for (std::int64_t i = 0; i < pixels; ++i) {
        const Neighbourhood<Storage> pixel(image, row, first + i);
        Storage* grad = block.pixels() + i * block.step();
        if (!(pixel.flags & kValid)) {
          write_zero(grad, image.channels);
          continue;
        }
        const Value logsumexp = image.logsumexp[row * image.width + first + i];
        const auto label = static_cast<Integer>(image.labels[row * image.width + first + i]);
        Integers<Value> channel = lane_numbers<Value>();
        for_lanes<Value>(image.channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          __builtin_prefetch(pixel.here + ahead + begin);
          const Values<Value> rest{};
          const Values<Value> x = load(pixel.here + begin, count, rest);
          const auto sign_to = [&](const Storage* neighbour) __attribute__((always_inline)) {
            return sign_of_difference<Value>(x, load(neighbour + begin, count, rest));
          };
          const Values<Value> softmax = exp_nonpositive(image.responses(x, begin, count, rest) - logsumexp);
          const Values<Value> one_hot = channel == label ? broadcast<Value>(1) : rest;
          store(grad + begin, count,
                (softmax - one_hot) * scales.similarity +
                    image.signs((sign_to(pixel.up) + sign_to(pixel.down)) * scales.vertical +
                                    (sign_to(pixel.left) + sign_to(pixel.right)) * scales.horizontal,
                                begin));
          channel += kLanes<Value>;
        });
      }
      if constexpr (kNormalised) {
        const Storage* x = image.pixel(row, first);
        for_lanes<Value>(image.channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          GrowingGradSums<Value> growing;
          for (std::int64_t i = 0; i < pixels; ++i) {
            const Values<Value> grad = load(block.pixels() + i * block.step() + begin, count, Values<Value>{});
            growing.add(grad, image.centred(x + i * image.strides.width, begin, count));
          }
          growing.add_to(grad_sums, begin, count);
        });
      }
      block.write(pixels);
    }
  }
  if (stream) finish_stream();
}

// Sums and gradient of a tile whose labels are known, in one reading of the map: what is not yet divided by the sum of
// exponentials waits in the first-level cache, a few pixels at a time.
template <class Storage, bool kNormalised>
TileSums measure_channels_last(const DynamicLossParams& params, const Tile& tile, const GradientScales& gradient_scales,
                               bool stream, const PartialGradientSums& grad_sums) {
  using Value = Compute<Storage>;
  using Integer = typename VectorOf<Value>::Integer;
  const Image<Storage, kNormalised> image(params, tile.image);
  const Scales<Value> scales(gradient_scales);
  const std::int64_t channels = image.channels;
  const std::int64_t block_pixels = pixels_in_block(image);
  const std::int64_t ahead = image.strides.height + kPixelsAhead * image.strides.width;
  const Values<Value> lowest = broadcast<Value>(-std::numeric_limits<Value>::infinity());
  GrowingSums<Value> sums;
  alignas(kVectorBytes) Value exponentials[kBlock];
  alignas(kVectorBytes) Value grad_continuity[kBlock];
  Value top[kBlock];
  Value exp_sum[kBlock];
  Value share[kBlock];
  const ChannelScales<Storage, kNormalised> channel_scales(image, scales);

  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    const std::int64_t* labels = image.labels + row * image.width;
    for (std::int64_t first = tile.column_begin; first < tile.column_end; first += block_pixels) {
      const std::int64_t pixels = smaller(block_pixels, tile.column_end - first);
      GradientBlock<Storage> block(params, tile, row, first, stream);
      for (std::int64_t i = 0; i < pixels; ++i) {
        const Neighbourhood<Storage> pixel(image, row, first + i);
        top[i] = 0;
        exp_sum[i] = 1;  // its logarithm, 0, adds nothing to the similarity
        if (!(pixel.flags & kValid)) continue;
        const Value response = image.response(pixel.here, labels[first + i]);
        top[i] = params.superpixels != nullptr ? image.logsumexp[row * image.width + first + i] : response;
        sums.below_top += static_cast<double>(top[i]) - static_cast<double>(response);
        const auto label = static_cast<Integer>(labels[first + i]);
        Integers<Value> channel = lane_numbers<Value>();
        Values<Value> exp_sums{}, down_differences{}, right_differences{};
        for_lanes<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          __builtin_prefetch(pixel.here + ahead + begin);
          const Values<Value> rest{};
          const Values<Value> x = load(pixel.here + begin, count, rest);
          const Values<Value> exponential =
              exp_nonpositive(image.load_responses(pixel.here, begin, count, lowest) - top[i]);
          // Not of the label itself: its gradient is the sum of the others, which is lost in a difference from 1.
          exp_sums += channel == label ? rest : exponential;
          channel += kLanes<Value>;
          store(exponentials + i * channels + begin, count, exponential);

          const Values<Value> down = load(pixel.down + begin, count, rest);
          const Values<Value> right = load(pixel.right + begin, count, rest);
          const Values<Value> down_sign = sign_of_difference<Value>(x, down);
          const Values<Value> right_sign = sign_of_difference<Value>(x, right);
          // What is added to all responses of a channel drops out of their differences.
          down_differences += channel_scales.sizes((x - down) * down_sign, begin);
          right_differences += channel_scales.sizes((x - right) * right_sign, begin);
          const Values<Value> vertical = sign_of_difference<Value>(x, load(pixel.up + begin, count, rest)) + down_sign;
          const Values<Value> horizontal =
              sign_of_difference<Value>(x, load(pixel.left + begin, count, rest)) + right_sign;
          store(grad_continuity + i * channels + begin, count,
                vertical * channel_scales.vertical(begin) + horizontal * channel_scales.horizontal(begin));
        });
        const auto others = static_cast<Value>(sum_of_lanes(exp_sums));
        Value& label_exponential = exponentials[i * channels + label];
        exp_sum[i] = others + label_exponential;
        label_exponential = -others;  // less the one-hot label
        sums.add_pixel(pixel.flags, down_differences, right_differences);
      }
      add_similarity<Value>(sums, top, exp_sum, pixels, nullptr);

      for (std::int64_t i = 0; i < pixels; ++i) {
        share[i] = scales.similarity / exp_sum[i];
        if (labels[first + i] >= 0) continue;
        // Masked: the gradient is 0.
        for (std::int64_t c = 0; c < channels; ++c)
          exponentials[i * channels + c] = grad_continuity[i * channels + c] = 0;
      }
      const Storage* x = image.pixel(row, first);
      Storage* grad_x = block.pixels();
      const std::int64_t step = block.step();
      const std::int64_t x_step = image.strides.width;
      for_lanes<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
        const Values<Value> rest{};
        [[maybe_unused]] GrowingGradSums<Value> growing;
        for (std::int64_t i = 0; i < pixels; ++i) {
          const Values<Value> grad = load(exponentials + i * channels + begin, count, rest) * share[i] +
                                     load(grad_continuity + i * channels + begin, count, rest);
          store(grad_x + i * step + begin, count, grad);
          if constexpr (kNormalised) growing.add(grad, image.centred(x + i * x_step, begin, count));
        }
        if constexpr (kNormalised) growing.add_to(grad_sums, begin, count);
      });
      block.write(pixels);
    }
  }
  if (stream) finish_stream();
  return sums.total();
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
