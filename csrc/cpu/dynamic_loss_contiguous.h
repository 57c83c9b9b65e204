// dynamic_loss of contiguous maps: neighbouring pixels of one channel fill the lanes. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_cross_entropy.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// The flags of each pixel of a tile. Not inlined: compilers make twenty kilobytes of it, in each kernel.
template <bool kDiagonals, class Storage, bool kNormalised>
__attribute__((noinline)) void set_tile_flags(const Image<Storage, kNormalised>& image, const Tile& tile,
                                              typename VectorOf<Compute<Storage>>::Integer* flags) {
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column) {
      *flags++ = image.template flags<kDiagonals>(row, column);
    }
  }
}

template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals, bool kMasked>
TileSums forward_contiguous(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive) {
  using Value = Compute<Storage>;
  using Integer = typename VectorOf<Value>::Integer;
  const Image<Storage, kNormalised> image(params, tile.image);
  const std::int64_t rows = tile.row_end - tile.row_begin;
  const std::int64_t columns = tile.column_end - tile.column_begin;
  const bool has_targets = image.has_targets();
  constexpr Value kInfinity = std::numeric_limits<Value>::infinity();

  Value best[kTilePixels];
  Value exp_sum[kTilePixels];
  Integer label[kTilePixels];
  Integer flags[kMasked ? kTilePixels : 1];
  if constexpr (kMasked) set_tile_flags<kDiagonals>(image, tile, flags);
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    best[i] = -kInfinity;
    exp_sum[i] = 0;
    label[i] = 0;
  }

  LongSum<Value> differences[kDirectionsOf<kDiagonals>];
  for (std::int64_t c = 0; c < image.channels; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const Storage* x = image.pixel(tile.row_begin + r, tile.column_begin) + c * image.strides.channel;
      Value* row_best = best + r * columns;
      Value* row_sum = exp_sum + r * columns;
      Integer* row_label = label + r * columns;

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

      const auto add_differences = [&](auto direction) __attribute__((always_inline)) {
        if (direction != kHorizontal && tile.row_begin + r + 1 >= image.height) return;
        const std::int64_t first = direction == kRising && tile.column_begin == 0 ? 1 : 0;
        const bool to_the_right = direction == kHorizontal || direction == kFalling;
        const std::int64_t pairs = columns - first - (to_the_right && tile.column_end == image.width ? 1 : 0);
        const Storage* here = x + first * image.strides.width;
        const Storage* after = here + step_to_neighbour<direction>(image.strides);
        Values<Value> sizes{};
        for_lanes<Value>(pairs, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          const Values<Value> rest{};
          Values<Value> difference = load(after + begin, count, rest) - load(here + begin, count, rest);
          if constexpr (kKind == Continuity::huber && kNormalised) difference *= image.scale[c];
          Values<Value> size = size_of<kKind, Value>(difference);
          if constexpr (kMasked) {
            size = has_flag(flags + r * columns + first + begin, count, kAfter[direction]) ? size : rest;
          }
          sizes += size;
        });
        // What is added to all responses of a channel drops out of their differences.
        if constexpr (kKind == Continuity::l1 && kNormalised) sizes *= absolute<Value>(broadcast(image.scale[c]));
        differences[direction].add(sizes);
      };
      for_directions<kDiagonals>(add_differences);
    }
  }

  CrossEntropies<Value> entropies;
  PixelEntropies<Value, kTileColumns> of_row;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t row_begin = (tile.row_begin + r) * image.width + tile.column_begin;
    for (std::int64_t i = 0; i < columns; ++i) {
      const std::int64_t at = r * columns + i;
      of_row.set_masked(i);
      if (!image.valid(tile.row_begin + r, tile.column_begin + i)) {
        image.labels[row_begin + i] = -1;
        continue;
      }
      image.labels[row_begin + i] = label[at];
      mark_alive(alive, label[at]);
      of_row.top[i] = best[at];
      of_row.exp_sum[i] = exp_sum[at];
      if (!has_targets) continue;
      const Storage* pixel = image.pixel(tile.row_begin + r, tile.column_begin + i);
      of_row.set_targets(i, image, pixel, image.targets(row_begin + i), entropies);
    }
    of_row.add_to(entropies, columns, has_targets, image.logsumexp + row_begin);
  }

  TileSums sums{};
  entropies.write(sums);
  for (int d = 0; d < kDirectionsOf<kDiagonals>; ++d) sums.differences[d] = differences[d].total();
  return sums;
}

// A row of one channel, and one pixel to each side of it.
template <class Storage>
struct RowAndSides {
  Storage all[kTileColumns + 2];

  static const Storage* copy(RowAndSides& to, const Storage* row, std::int64_t columns, Storage left, Storage right) {
    std::memcpy(to.all + 1, row, static_cast<std::size_t>(columns) * sizeof(Storage));
    to.all[0] = left;
    to.all[columns + 1] = right;
    return to.all + 1;
  }
};

// At each pixel of a tile, its guide, -1 for none, and what the cross-entropies with its label and with its guide
// count.
template <class Value>
struct TileTargets {
  typename VectorOf<Value>::Integer guide[kTilePixels];
  Value share_of_label[kTilePixels];
  Value share_of_guide[kTilePixels];
};
struct NoTargets {};

template <class Storage, bool kNormalised, class Value = Compute<Storage>>
__attribute__((noinline)) void set_tile_targets(const Image<Storage, kNormalised>& image, const Tile& tile,
                                                const GradientScales& scales, typename VectorOf<Value>::Integer* label,
                                                TileTargets<Value>& targets) {
  using Integer = typename VectorOf<Value>::Integer;
  std::int64_t i = 0;
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column, ++i) {
      const PixelTargets of_pixel = image.targets(row * image.width + column);
      label[i] = static_cast<Integer>(of_pixel.label);
      targets.guide[i] = static_cast<Integer>(of_pixel.guide);
      targets.share_of_label[i] = static_cast<Value>(of_pixel.scribbled ? scales.scribble : scales.similarity);
      targets.share_of_guide[i] = static_cast<Value>(of_pixel.guide >= 0 ? scales.guide : 0);
    }
  }
}

// `kTargets`: there are scribbles or a guide.
template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals, bool kMasked, bool kTargets>
void backward_contiguous(const DynamicLossParams& params, const Tile& tile, const GradientScales& scales, bool stream,
                         const PartialGradientSums& grad_sums) {
  using Value = Compute<Storage>;
  using Integer = typename VectorOf<Value>::Integer;
  const Image<Storage, kNormalised> image(params, tile.image);
  const std::int64_t rows = tile.row_end - tile.row_begin;
  const std::int64_t columns = tile.column_end - tile.column_begin;
  const auto similarity = static_cast<Value>(scales.similarity);
  auto* grad_image = static_cast<Storage*>(params.grad_x) + tile.image * params.grad_strides.batch;
  const bool has_guide = image.guide != nullptr;

  Integer flags[kMasked ? kTilePixels : 1];
  if constexpr (kMasked) set_tile_flags<kDiagonals>(image, tile, flags);
  Integer label[kTilePixels];
  [[maybe_unused]] std::conditional_t<kTargets, TileTargets<Value>, NoTargets> targets;
  if constexpr (kTargets) {
    set_tile_targets(image, tile, scales, label, targets);
  } else {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t* labels = image.labels + (tile.row_begin + r) * image.width + tile.column_begin;
      for (std::int64_t i = 0; i < columns; ++i) label[r * columns + i] = static_cast<Integer>(labels[i]);
    }
  }

  RowAndSides<Storage> row_here, row_above, row_below;
  // The rows of a tile are gathered here before they are streamed out together.
  Storage gathered[kTilePixels];
  const bool rows_are_dense = columns == image.width && params.grad_strides.height == columns;
  const bool at_left = tile.column_begin == 0, at_right = tile.column_end == image.width;

  for (std::int64_t c = 0; c < image.channels; ++c) {
    Storage* grad_channel =
        grad_image + c * params.grad_strides.channel + tile.row_begin * params.grad_strides.height + tile.column_begin;
    // Differences of responses are those of x times the scale; in L1 its sign is enough.
    [[maybe_unused]] const Value scale = kNormalised ? image.scale[c] : Value(1);
    const Value sign = kNormalised && kKind == Continuity::l1 ? sign_of(scale) : Value(1);
    LongSum<Value> grad_sum, grad_centred_sum;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t row = tile.row_begin + r;
      const Storage* source = image.pixel(row, tile.column_begin) + c * image.strides.channel;
      // Where there is no neighbour the pixel itself stands in for it, for the slope of no difference is 0.
      const Storage left = source[at_left ? 0 : -1], right = source[at_right ? columns - 1 : columns];
      const Storage* x = RowAndSides<Storage>::copy(row_here, source, columns, left, right);
      const Storage* up = row > 0 ? source - image.strides.height : x;
      const Storage* down = row + 1 < image.height ? source + image.strides.height : x;
      const Storage *before[kDirections] = {up, x - 1, x, x}, *after[kDirections] = {down, x + 1, x, x};
      if constexpr (kDiagonals) {
        const auto sides = [&](RowAndSides<Storage>& to, const Storage* neighbours) {
          return RowAndSides<Storage>::copy(to, neighbours, columns, at_left ? x[0] : neighbours[-1],
                                            at_right ? x[columns - 1] : neighbours[columns]);
        };
        if (row > 0) {
          const Storage* above = sides(row_above, up);
          before[kFalling] = above - 1;
          before[kRising] = above + 1;
        }
        if (row + 1 < image.height) {
          const Storage* below = sides(row_below, down);
          after[kFalling] = below + 1;
          after[kRising] = below - 1;
        }
      }
      const Value* logsumexp = image.logsumexp + row * image.width + tile.column_begin;
      const Integer* row_label = label + r * columns;
      Storage* grad =
          stream ? gathered + (rows_are_dense ? r * columns : 0) : grad_channel + r * params.grad_strides.height;
      Values<Value> grads{}, grads_centred{};

      for_lanes<Value>(columns, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
        const Values<Value> rest{};
        const std::int64_t at = r * columns + begin;
        __builtin_prefetch(source + image.strides.channel + begin, 0, 2);
        const Values<Value> here = load(x + begin, count, rest);
        const auto slope_to = [&](const Storage* neighbours, [[maybe_unused]] int flag) __attribute__((always_inline)) {
          const Values<Value> neighbour = load(neighbours + begin, count, rest);
          Values<Value> slope;
          if constexpr (kKind == Continuity::l1) {
            slope = sign_of_difference<Value>(here, neighbour);
          } else {
            slope = slope_of<kKind, Value>((here - neighbour) * scale);
          }
          if constexpr (kMasked) slope = has_flag(flags + at, count, flag) ? slope : rest;
          return slope;
        };
        const Values<Value> softmax =
            exp_nonpositive(image.responses_to(here, c) - load(logsumexp + begin, count, rest));
        const auto one_hot = [&](const Integer* labels) __attribute__((always_inline)) {
          return load_integers(labels, count) == static_cast<Integer>(c) ? broadcast<Value>(1) : rest;
        };
        Values<Value> of_slopes{};
        for_directions<kDiagonals>([&](auto direction) __attribute__((always_inline)) {
          const Value of_slope = static_cast<Value>(scales.differences[direction]) * sign;
          of_slopes +=
              (slope_to(before[direction], kBefore[direction]) + slope_to(after[direction], kAfter[direction])) *
              of_slope;
        });
        Values<Value> share = broadcast<Value>(similarity);
        if constexpr (kTargets) share = load(targets.share_of_label + at, count, rest);
        Values<Value> result = (softmax - one_hot(row_label + begin)) * share + of_slopes;
        if constexpr (kTargets) {
          if (has_guide) {
            result += (softmax - one_hot(targets.guide + at)) * load(targets.share_of_guide + at, count, rest);
          }
        }
        if constexpr (kMasked) result = has_flag(flags + at, count, kValid) ? result : rest;
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
