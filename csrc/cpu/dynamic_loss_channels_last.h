// dynamic_loss of channels-last maps: the channels of one pixel fill the lanes. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_pixels_channels_last.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals>
TileSums forward_channels_last(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive) {
  using Value = Compute<Storage>;
  const Image<Storage, kNormalised> image(params, tile.image);
  const Values<Value> lowest = broadcast<Value>(-std::numeric_limits<Value>::infinity());
  const std::int64_t ahead = image.strides.height + kPixelsAhead * image.strides.width;
  const bool has_targets = image.has_targets();
  CrossEntropies<Value> entropies;
  GrowingDifferences<Value, kDiagonals> all_differences;
  PixelEntropies<Value, kTileColumns> of_pixels;

  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    label_row<Storage, kNormalised>(image, tile, row, ahead, alive, nullptr);
    const std::int64_t row_begin = row * image.width + tile.column_begin;
    for (std::int64_t i = 0; i < tile.column_end - tile.column_begin; ++i) {
      const Neighbourhood<Storage, kDiagonals> pixel(image, row, tile.column_begin + i);
      of_pixels.set_masked(i);
      if (!(pixel.flags & kValid)) continue;
      const Value top = of_pixels.top[i] = image.response(pixel.here, image.labels[row_begin + i]);
      if (has_targets) of_pixels.set_targets(i, image, pixel.here, image.targets(row_begin + i), entropies);
      Values<Value> exp_sums{};
      Values<Value> differences[kDirectionsOf<kDiagonals>]{};
      for_lanes<Value>(image.channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
        const Values<Value> rest{};
        const Values<Value> x = load(pixel.here + begin, count, rest);
        exp_sums += exp_nonpositive(image.load_responses(pixel.here, begin, count, lowest) - top);
        // What is added to all responses of a channel drops out of their differences.
        for_directions<kDiagonals>([&](auto direction) __attribute__((always_inline)) {
          const Values<Value> neighbour = load(pixel.after[direction] + begin, count, rest);
          differences[direction] += size_of<kKind, Value>(image.differences(neighbour - x, begin));
        });
      });
      of_pixels.exp_sum[i] = static_cast<Value>(sum_of_lanes(exp_sums));
      all_differences.add(pixel.flags, differences);
    }
    of_pixels.add_to(entropies, tile.column_end - tile.column_begin, has_targets, image.logsumexp + row_begin);
  }
  TileSums sums{};
  entropies.write(sums);
  all_differences.write(sums);
  return sums;
}

template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals>
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
        const Neighbourhood<Storage, kDiagonals> pixel(image, row, first + i);
        Storage* grad = block.pixels() + i * block.step();
        if (!(pixel.flags & kValid)) {
          write_zero(grad, image.channels);
          continue;
        }
        const Value logsumexp = image.logsumexp[row * image.width + first + i];
        const PixelTargets targets = image.targets(row * image.width + first + i);
        const Value of_label = scales.of_label(targets);
        const auto write = [&](auto guided) __attribute__((always_inline)) {
          Integers<Value> channel = lane_numbers<Value>();
          for_lanes<Value>(image.channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
            __builtin_prefetch(pixel.here + ahead + begin);
            const Values<Value> rest{};
            const Values<Value> x = load(pixel.here + begin, count, rest);
            const auto slope_to = [&](const Storage* neighbour) __attribute__((always_inline)) {
              const Values<Value> other = load(neighbour + begin, count, rest);
              if constexpr (kKind == Continuity::l1) return sign_of_difference<Value>(x, other);
              return slope_of<kKind, Value>(image.differences(x - other, begin));
            };
            Values<Value> of_differences{};
            for_directions<kDiagonals>([&](auto direction) __attribute__((always_inline)) {
              of_differences += (slope_to(pixel.before[direction]) + slope_to(pixel.after[direction])) *
                                scales.differences[direction];
            });
            if constexpr (kKind == Continuity::l1) of_differences = image.signs(of_differences, begin);
            const Values<Value> softmax = exp_nonpositive(image.responses(x, begin, count, rest) - logsumexp);
            const auto one_hot = [&](std::int64_t label) __attribute__((always_inline)) {
              return channel == static_cast<Integer>(label) ? broadcast<Value>(1) : rest;
            };
            Values<Value> result = (softmax - one_hot(targets.label)) * of_label + of_differences;
            if constexpr (decltype(guided)::value) result += (softmax - one_hot(targets.guide)) * scales.guide;
            store(grad + begin, count, result);
            channel += kLanes<Value>;
          });
        };
        if (targets.guide >= 0) {
          write(std::true_type{});
        } else {
          write(std::false_type{});
        }
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

// Exponentials of one pixel, in place: its softmax less the one-hot labels of its targets, times the sum of
// exponentials, `others` of which are those of all but the label; the guide's part goes to `grad`, which is added
// later. Returns what divided by the sum of exponentials the result is to be multiplied with.
template <class Value>
DYNAMICSEG_INLINE Value subtract_labels(Value* exponentials, Value* grad, Value others, const PixelTargets& targets,
                                        const Scales<Value>& scales) {
  const Value of_label = scales.of_label(targets), of_both = scales.of_both(targets);
  const Value of_own = exponentials[targets.label];
  if (targets.guide < 0 || targets.guide == targets.label) {
    exponentials[targets.label] = -others;
    return of_both;
  }
  const Value exp_sum = others + of_own;
  const Value of_guide = exponentials[targets.guide];
  grad[targets.label] += (of_own * scales.guide - others * of_label) / exp_sum;
  grad[targets.guide] += (of_guide * of_label - (exp_sum - of_guide) * scales.guide) / exp_sum;
  exponentials[targets.label] = exponentials[targets.guide] = 0;
  return of_both;
}

// Sums and gradient of a tile whose labels are known, in one reading of the map: what is not yet divided by the sum of
// exponentials waits in the first-level cache, a few pixels at a time.
template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals>
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
  const bool has_targets = image.has_targets();
  const bool top_is_known = params.superpixels != nullptr;
  CrossEntropies<Value> entropies;
  GrowingDifferences<Value, kDiagonals> all_differences;
  PixelEntropies<Value, kBlock> of_pixels;
  alignas(kVectorBytes) Value exponentials[kBlock];
  alignas(kVectorBytes) Value grad_continuity[kBlock];
  Value share[kBlock];
  const ChannelDifferences<Storage, kNormalised, kKind, kDiagonals> of_channels(image, scales);

  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    const std::int64_t* labels = image.labels + row * image.width;
    for (std::int64_t first = tile.column_begin; first < tile.column_end; first += block_pixels) {
      const std::int64_t pixels = smaller(block_pixels, tile.column_end - first);
      GradientBlock<Storage> block(params, tile, row, first, stream);
      for (std::int64_t i = 0; i < pixels; ++i) {
        const Neighbourhood<Storage, kDiagonals> pixel(image, row, first + i);
        of_pixels.set_masked(i);
        share[i] = 0;
        if (!(pixel.flags & kValid)) continue;
        const std::int64_t index = row * image.width + first + i;
        const PixelTargets targets = image.targets(index);
        const Value top = of_pixels.top[i] =
            top_is_known ? image.logsumexp[index] : image.response(pixel.here, labels[first + i]);
        if (has_targets || top_is_known) of_pixels.set_targets(i, image, pixel.here, targets, entropies);
        const auto label = static_cast<Integer>(targets.label);
        Integers<Value> channel = lane_numbers<Value>();
        Values<Value> exp_sums{};
        Values<Value> differences[kDirectionsOf<kDiagonals>]{};
        for_lanes<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          __builtin_prefetch(pixel.here + ahead + begin);
          const Values<Value> rest{};
          const Values<Value> x = load(pixel.here + begin, count, rest);
          const Values<Value> exponential =
              exp_nonpositive(image.load_responses(pixel.here, begin, count, lowest) - top);
          // Not of the label itself: its gradient is the sum of the others, which is lost in a difference from 1.
          exp_sums += channel == label ? rest : exponential;
          channel += kLanes<Value>;
          store(exponentials + i * channels + begin, count, exponential);

          Values<Value> grad{};
          for_directions<kDiagonals>([&](auto direction) __attribute__((always_inline)) {
            const Values<Value> after = load(pixel.after[direction] + begin, count, rest);
            const Values<Value> before = load(pixel.before[direction] + begin, count, rest);
            const Values<Value> slope = of_channels.slopes(x, after, begin);
            // What is added to all responses of a channel drops out of their differences.
            differences[direction] += of_channels.sizes(x, after, slope, begin);
            grad += (of_channels.slopes(x, before, begin) + slope) * of_channels.template of_gradient<direction>(begin);
          });
          store(grad_continuity + i * channels + begin, count, grad);
        });
        const auto others = static_cast<Value>(sum_of_lanes(exp_sums));
        of_pixels.exp_sum[i] = others + exponentials[i * channels + targets.label];
        share[i] =
            subtract_labels(exponentials + i * channels, grad_continuity + i * channels, others, targets, scales);
        all_differences.add(pixel.flags, differences);
      }
      of_pixels.add_to(entropies, pixels, has_targets, nullptr);

      for (std::int64_t i = 0; i < pixels; ++i) {
        share[i] /= of_pixels.exp_sum[i];
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
  TileSums sums{};
  entropies.write(sums);
  all_differences.write(sums);
  return sums;
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
