// dynamic_loss of contiguous maps: neighbouring pixels of one channel fill the lanes. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_image.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// The flags of each pixel of a tile under a mask; nothing to do where there is none.
template <class Storage, bool kNormalised>
DYNAMICSEG_INLINE void set_tile_flags(const Image<Storage, kNormalised>& image, const Tile& tile,
                                      typename VectorOf<Compute<Storage>>::Integer* flags) {
  if (image.mask == nullptr) return;
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column) {
      *flags++ = image.flags(row, column);
    }
  }
}

// 0 for 0 and NaN.
template <class Value>
DYNAMICSEG_INLINE Value sign_of(Value value) {
  return static_cast<Value>((value > 0) - (value < 0));
}

template <class Storage, bool kNormalised, bool kMasked>
TileSums forward_contiguous(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive) {
  using Value = Compute<Storage>;
  using Integer = typename VectorOf<Value>::Integer;
  const Image<Storage, kNormalised> image(params, tile.image);
  const std::int64_t rows = tile.row_end - tile.row_begin;
  const std::int64_t columns = tile.column_end - tile.column_begin;
  const std::int64_t right_pairs = tile.column_end < image.width ? columns : columns - 1;
  constexpr Value kInfinity = std::numeric_limits<Value>::infinity();

  Value best[kTilePixels];
  Value exp_sum[kTilePixels];
  Integer label[kTilePixels];
  Integer flags[kMasked ? kTilePixels : 1];
  set_tile_flags(image, tile, flags);
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    best[i] = -kInfinity;
    exp_sum[i] = 0;
    label[i] = 0;
  }

  LongSum<Value> vertical, horizontal;
  for (std::int64_t c = 0; c < image.channels; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const Storage* x = image.pixel(tile.row_begin + r, tile.column_begin) + c * image.strides.channel;
      Value* row_best = best + r * columns;
      Value* row_sum = exp_sum + r * columns;
      Integer* row_label = label + r * columns;
      const Integer* row_flags = flags + (kMasked ? r * columns : 0);

      // Running maximum and sum of exponentials: where a new maximum comes, the sum so far is scaled down to it.
      for_lanes<Value>(columns, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
        const Values<Value> rest{};
        __builtin_prefetch(x + image.strides.channel + begin, 0, 2);
        const Values<Value> value = image.responses_to(load(x + begin, count, rest), c);
        const Values<Value> top = load(row_best + begin, count, rest);
        const Values<Value> sum = load(row_sum + begin, count, rest);
        const Integers<Value> takes = takes_label<Value>(value, top);
        const Values<Value> distance = exp_nonpositive(-absolute<Value>(value - top));
        const Values<Value> factor = value == -kInfinity ? rest : distance;  // not -inf less -inf
        store(row_sum + begin, count, takes ? sum * factor + Value(1) : sum + factor);
        store(row_best + begin, count, takes ? value : top);
        const Integers<Value> channel = Integers<Value>{} + static_cast<Integer>(c);
        store_integers(row_label + begin, count, takes ? channel : load_integers(row_label + begin, count));
      });

      const auto add_differences = [&](LongSum<Value>& total, std::int64_t pairs, std::int64_t stride,
                                       int flag) __attribute__((always_inline)) {
        Values<Value> differences{};
        for_lanes<Value>(pairs, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          const Values<Value> rest{};
          Values<Value> difference =
              absolute<Value>(load(x + stride + begin, count, rest) - load(x + begin, count, rest));
          if constexpr (kMasked) difference = has_flag(row_flags + begin, count, flag) ? difference : rest;
          differences += difference;
        });
        // What is added to all responses of a channel drops out of their differences.
        total.add(kNormalised ? differences * absolute<Value>(broadcast(image.scale[c])) : differences);
      };
      if (tile.row_begin + r + 1 < image.height) add_differences(vertical, columns, image.strides.height, kDown);
      add_differences(horizontal, right_pairs, image.strides.width, kRight);
    }
  }

  TileSums sums{};
  LongSum<Value> similarity;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t row_begin = (tile.row_begin + r) * image.width + tile.column_begin;
    for (std::int64_t i = 0; i < columns; ++i) {
      const std::int64_t at = r * columns + i;
      const int pixel_flags =
          kMasked ? static_cast<int>(flags[kMasked ? at : 0]) : image.flags(tile.row_begin + r, tile.column_begin + i);
      if (!(pixel_flags & kValid)) {
        image.labels[row_begin + i] = -1;
        best[at] = 0;
        exp_sum[at] = 1;  // its logarithm, 0, adds nothing to the similarity
        continue;
      }
      image.labels[row_begin + i] = label[at];
      mark_alive(alive, label[at]);
      sums.pixels += 1;
      sums.vertical_pairs += (pixel_flags & kDown) != 0;
      sums.horizontal_pairs += (pixel_flags & kRight) != 0;
    }
    for_lanes<Value>(columns, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
      const Values<Value> top = load(best + r * columns + begin, count, Values<Value>{});
      const Values<Value> log_sum = log_positive(load(exp_sum + r * columns + begin, count, broadcast<Value>(1)));
      similarity.add(log_sum + (top - top));  // NaN where the top is infinite
      store(image.logsumexp + row_begin + begin, count, top + log_sum);
    });
  }
  sums.similarity = similarity.total();
  sums.vertical = vertical.total();
  sums.horizontal = horizontal.total();
  return sums;
}

template <class Storage, bool kNormalised, bool kMasked>
void backward_contiguous(const DynamicLossParams& params, const Tile& tile, const GradientScales& scales, bool stream,
                         const PartialGradientSums& grad_sums) {
  using Value = Compute<Storage>;
  using Integer = typename VectorOf<Value>::Integer;
  const Image<Storage, kNormalised> image(params, tile.image);
  const std::int64_t rows = tile.row_end - tile.row_begin;
  const std::int64_t columns = tile.column_end - tile.column_begin;
  const auto similarity = static_cast<Value>(scales.similarity);
  auto* grad_image = static_cast<Storage*>(params.grad_x) + tile.image * params.grad_strides.batch;

  Integer flags[kMasked ? kTilePixels : 1];
  set_tile_flags(image, tile, flags);
  Integer label[kTilePixels];
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t* labels = image.labels + (tile.row_begin + r) * image.width + tile.column_begin;
    for (std::int64_t i = 0; i < columns; ++i) label[r * columns + i] = static_cast<Integer>(labels[i]);
  }

  // A row, and one pixel to each side of it; the border repeats itself, for the sign of no difference is 0.
  Storage row_and_sides[kTileColumns + 2];
  Storage* row_x = row_and_sides + 1;
  // The rows of a tile are gathered here before they are streamed out together.
  Storage gathered[kTilePixels];
  const bool rows_are_dense = columns == image.width && params.grad_strides.height == columns;

  for (std::int64_t c = 0; c < image.channels; ++c) {
    Storage* grad_channel =
        grad_image + c * params.grad_strides.channel + tile.row_begin * params.grad_strides.height + tile.column_begin;
    // Differences of responses have the sign of those of x where the scale is positive.
    const Value sign = kNormalised ? sign_of(image.scale[c]) : Value(1);
    const Value vertical = static_cast<Value>(scales.vertical) * sign;
    const Value horizontal = static_cast<Value>(scales.horizontal) * sign;
    LongSum<Value> grad_sum, grad_centred_sum;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t row = tile.row_begin + r;
      const Storage* x = image.pixel(row, tile.column_begin) + c * image.strides.channel;
      const Storage* up = row > 0 ? x - image.strides.height : x;
      const Storage* down = row + 1 < image.height ? x + image.strides.height : x;
      std::memcpy(row_x, x, static_cast<std::size_t>(columns) * sizeof(Storage));
      row_x[-1] = tile.column_begin > 0 ? x[-1] : x[0];
      row_x[columns] = tile.column_end < image.width ? x[columns] : x[columns - 1];
      const Value* logsumexp = image.logsumexp + row * image.width + tile.column_begin;
      const Integer* row_label = label + r * columns;
      const Integer* row_flags = flags + (kMasked ? r * columns : 0);
      Storage* grad =
          stream ? gathered + (rows_are_dense ? r * columns : 0) : grad_channel + r * params.grad_strides.height;
      Values<Value> grads{}, grads_centred{};

      for_lanes<Value>(columns, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
        const Values<Value> rest{};
        __builtin_prefetch(x + image.strides.channel + begin, 0, 2);
        const Values<Value> here = load(row_x + begin, count, rest);
        const auto sign_to = [&](const Storage* neighbour, [[maybe_unused]] int flag) __attribute__((always_inline)) {
          Values<Value> sign = sign_of_difference<Value>(here, load(neighbour + begin, count, rest));
          if constexpr (kMasked) sign = has_flag(row_flags + begin, count, flag) ? sign : rest;
          return sign;
        };
        const Values<Value> vertical_sign = sign_to(up, kUp) + sign_to(down, kDown);
        const Values<Value> horizontal_sign = sign_to(row_x - 1, kLeft) + sign_to(row_x + 1, kRight);
        const Values<Value> softmax =
            exp_nonpositive(image.responses_to(here, c) - load(logsumexp + begin, count, rest));
        const Values<Value> one_hot =
            load_integers(row_label + begin, count) == static_cast<Integer>(c) ? broadcast<Value>(1) : rest;
        Values<Value> result =
            (softmax - one_hot) * similarity + vertical_sign * vertical + horizontal_sign * horizontal;
        if constexpr (kMasked) result = has_flag(row_flags + begin, count, kValid) ? result : rest;
        store(grad + begin, count, result);
        if constexpr (kNormalised) {
          if constexpr (std::is_same_v<decltype(count), int>) result = lane_numbers<Value>() < count ? result : rest;
          grads += result;
          grads_centred += result * (here - image.mean[c]);
        }
      });
      if constexpr (kNormalised) {
        grad_sum.add(grads);
        grad_centred_sum.add(grads_centred);
      }
      if (stream && !rows_are_dense) {
        stream_copy(grad_channel + r * params.grad_strides.height, gathered,
                    columns * static_cast<int>(sizeof(Storage)));
      }
    }
    if (stream && rows_are_dense) {
      stream_copy(grad_channel, gathered, rows * columns * static_cast<int>(sizeof(Storage)));
    }
    if constexpr (kNormalised) {
      grad_sums.grad[c] = grad_sum.total();
      grad_sums.grad_centred[c] = grad_centred_sum.total();
    }
  }
  if (stream) finish_stream();
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
