// dynamic_loss on the CPU, one tile at a time. Compiled once for each instruction set.
//
// Fused: argmax, logsumexp, label bitmap, similarity and both continuity terms in one reading of the map; then softmax,
// one-hot label and the signs of four differences in a second reading that writes the gradient. The label count of a
// whole image lies between the two, for it decides the weight.
// Never written to memory: softmax, differences, signs, one-hot labels; nothing of the map's size but the gradient.
// Bytes, for a map of n bytes: forward n read, backward n read and n written; labels and logsumexp are 1/C of that.
// Tie rule: the lowest channel wins the label; a NaN wins over every number, the first one over later ones.

#include "cpu/dynamic_loss_kernels.h"

#include "cpu/simd.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// What is valid of a pixel of a contiguous map under a mask.
enum PixelFlag : int { kValid = 1, kUp = 2, kDown = 4, kLeft = 8, kRight = 16 };

// One image of the batch.
template <class Storage>
struct Image {
  const Storage* x;          // [C, H, W] with the map's strides
  const std::uint8_t* mask;  // [H, W], or null
  std::int64_t* labels;      // [H, W]
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

// ---- channels last: the channels of one pixel fill the lanes ---------------------------------------------------------

// The row below is what a tile reads first; it is asked for this many pixels ahead, because the processor's own
// prefetching stops at the end of each memory page.
constexpr std::int64_t kPixelsAhead = 8;

template <class Value>
struct Winner {
  Value value;
  std::int64_t label;
};

template <int kBy, class Value>
DYNAMICSEG_INLINE void fold_winners(Values<Value>& value, Integers<Value>& label) {
  if constexpr (kBy < kLanes<Value>) {
    const Values<Value> other_value = rotate<kBy>(value);
    const Integers<Value> other_label = rotate<kBy>(label);
    const Integers<Value> other_wins = takes_label<Value>(other_value, value) |
                                       (~takes_label<Value>(value, other_value) & (other_label < label));
    value = other_wins ? other_value : value;
    label = other_wins ? other_label : label;
    fold_winners<kBy * 2, Value>(value, label);
  }
}

template <class Storage, class Value = Compute<Storage>>
DYNAMICSEG_INLINE Winner<Value> winner_of_channels(const Storage* pixel, std::int64_t channels) {
  const Values<Value> lowest = broadcast<Value>(-std::numeric_limits<Value>::infinity());
  Values<Value> best = lowest;
  Integers<Value> label = lane_numbers<Value>();
  Integers<Value> channel = label;
  for_lanes<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
    const Values<Value> value = load(pixel + begin, count, lowest);
    const Integers<Value> takes = takes_label<Value>(value, best);
    best = takes ? value : best;
    label = takes ? channel : label;
    channel += kLanes<Value>;
  });
  fold_winners<1, Value>(best, label);
  return {best[0], label[0]};
}

template <class Storage>
TileSums forward_channels_last(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive) {
  using Value = Compute<Storage>;
  const Image<Storage> image(params, tile.image);
  const std::int64_t channels = image.channels;
  const std::int64_t columns = tile.column_end - tile.column_begin;
  const Values<Value> lowest = broadcast<Value>(-std::numeric_limits<Value>::infinity());
  const std::int64_t ahead = image.strides.height + kPixelsAhead * image.strides.width;
  const Integers<Value> none = Integers<Value>{} + std::numeric_limits<typename VectorOf<Value>::Integer>::max();
  TileSums sums{};
  LongSum<Value> similarity, vertical, horizontal;
  Value best[kTileColumns];
  Value exp_sum[kTileColumns];

  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    std::int64_t* labels = image.labels + row * image.width + tile.column_begin;
    for (std::int64_t i = 0; i < columns; ++i) {
      const int flags = image.flags(row, tile.column_begin + i);
      if (!(flags & kValid)) {
        labels[i] = -1;
        best[i] = 0;
        exp_sum[i] = 1;  // its logarithm, 0, adds nothing to the similarity
        continue;
      }
      const Storage* pixel = image.pixel(row, tile.column_begin + i);
      Values<Value> tops = lowest;
      for_lanes<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
        __builtin_prefetch(pixel + ahead + begin);
        tops = greater(load(pixel + begin, count, lowest), tops);
      });
      const Value top = max_of_lanes(tops);

      Values<Value> exp_sums{};
      Integers<Value> label = none, channel = lane_numbers<Value>();
        for_lanes<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          const Values<Value> x = load(pixel + begin, count, lowest);
          const Values<Value> below_top = x - top;
          exp_sums += exp_nonpositive(below_top);
          const Integers<Value> candidate = below_top == 0 ? channel : none;
          label = candidate < label ? candidate : label;
          channel += kLanes<Value>;
        });
      best[i] = top;
      exp_sum[i] = static_cast<Value>(sum_of_lanes(exp_sums));
      labels[i] = min_of_lanes(label);
      if (!(exp_sum[i] == exp_sum[i])) {
        // An infinity or a NaN among the channels: the rule that orders these costs more than the maximum of numbers.
        const Winner<Value> winner = winner_of_channels(pixel, channels);
        best[i] = winner.value;
        labels[i] = winner.label;
      }
      mark_alive(alive, labels[i]);
      const auto add_differences = [&](LongSum<Value>& total, std::int64_t stride) __attribute__((always_inline)) {
        Values<Value> differences{};
        for_lanes<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          differences += absolute<Value>(load(pixel + stride + begin, count, Values<Value>{}) -
                                         load(pixel + begin, count, Values<Value>{}));
        });
        total.add(differences);
      };
      if (flags & kDown) add_differences(vertical, image.strides.height);
      if (flags & kRight) add_differences(horizontal, image.strides.width);
      sums.pixels += 1;
      sums.vertical_pairs += (flags & kDown) != 0;
      sums.horizontal_pairs += (flags & kRight) != 0;
    }
    Value* logsumexp = image.logsumexp + row * image.width + tile.column_begin;
    for_lanes<Value>(columns, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
      const Values<Value> top = load(best + begin, count, Values<Value>{});
      const Values<Value> log_sum = log_positive(load(exp_sum + begin, count, broadcast<Value>(1)));
      similarity.add(log_sum + (top - top));  // NaN where the top is infinite
      store(logsumexp + begin, count, top + log_sum);
    });
  }
  sums.similarity = similarity.total();
  sums.vertical = vertical.total();
  sums.horizontal = horizontal.total();
  return sums;
}

template <class Storage>
void backward_channels_last(const DynamicLossParams& params, const Tile& tile, const GradientScales& scales,
                            bool stream) {
  using Value = Compute<Storage>;
  const Image<Storage> image(params, tile.image);
  const std::int64_t channels = image.channels;
  const std::int64_t columns = tile.column_end - tile.column_begin;
  const auto similarity = static_cast<Value>(scales.similarity);
  const auto vertical = static_cast<Value>(scales.vertical);
  const auto horizontal = static_cast<Value>(scales.horizontal);
  auto* grad_image = static_cast<Storage*>(params.grad_x) + tile.image * params.grad_strides.batch;

  const std::int64_t ahead = image.strides.height + kPixelsAhead * image.strides.width;
  // Pixels are gathered here, a few at a time, before they are streamed out together.
  constexpr std::int64_t kGathered = 4096;
  Storage gathered[kGathered];
  const std::int64_t block = channels < kGathered ? kGathered / channels : 1;
  stream = stream && channels <= kGathered && params.grad_strides.width == channels;

  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    for (std::int64_t first = 0; first < columns; first += block) {
      const std::int64_t last = first + block < columns ? first + block : columns;
      Storage* grad_block =
          grad_image + row * params.grad_strides.height + (tile.column_begin + first) * params.grad_strides.width;
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t column = tile.column_begin + i;
        Storage* grad =
            stream ? gathered + (i - first) * channels : grad_block + (i - first) * params.grad_strides.width;
        const int flags = image.flags(row, column);
        if (!(flags & kValid)) {
          for (std::int64_t c = 0; c < channels; ++c) grad[c] = Storage{};
          continue;
        }
        // Where there is no valid neighbour the pixel stands in for it: the sign of their difference is 0.
        const Storage* pixel = image.pixel(row, column);
        const Storage* up = flags & kUp ? pixel - image.strides.height : pixel;
        const Storage* down = flags & kDown ? pixel + image.strides.height : pixel;
        const Storage* left = flags & kLeft ? pixel - image.strides.width : pixel;
        const Storage* right = flags & kRight ? pixel + image.strides.width : pixel;
        const Value logsumexp = image.logsumexp[row * image.width + column];
        const auto label = static_cast<typename VectorOf<Value>::Integer>(image.labels[row * image.width + column]);
        Integers<Value> channel = lane_numbers<Value>();
        for_lanes<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          const Values<Value> rest{};
          __builtin_prefetch(pixel + ahead + begin);
          const Values<Value> x = load(pixel + begin, count, rest);
          const Values<Value> vertical_sign = sign_of_difference<Value>(x, load(up + begin, count, rest)) +
                                                sign_of_difference<Value>(x, load(down + begin, count, rest));
          const Values<Value> horizontal_sign = sign_of_difference<Value>(x, load(left + begin, count, rest)) +
                                                  sign_of_difference<Value>(x, load(right + begin, count, rest));
          const Values<Value> softmax = exp_nonpositive(x - logsumexp);
          const Values<Value> one_hot = channel == label ? broadcast<Value>(1) : rest;
          store(grad + begin, count,
                (softmax - one_hot) * similarity + vertical_sign * vertical +
                    horizontal_sign * horizontal);
          channel += kLanes<Value>;
        });
      }
      if (stream) stream_copy(grad_block, gathered, (last - first) * channels * static_cast<int>(sizeof(Storage)));
    }
  }
  if (stream) finish_stream();
}

// ---- contiguous: neighbouring pixels of one channel fill the lanes ---------------------------------------------------

// The flags of each pixel of a tile under a mask; nothing to do where there is none.
template <class Storage>
DYNAMICSEG_INLINE void set_tile_flags(const Image<Storage>& image, const Tile& tile,
                                      typename VectorOf<Compute<Storage>>::Integer* flags) {
  if (image.mask == nullptr) return;
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column) {
      *flags++ = image.flags(row, column);
    }
  }
}

template <class Storage, bool kMasked>
TileSums forward_contiguous(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive) {
  using Value = Compute<Storage>;
  using Integer = typename VectorOf<Value>::Integer;
  const Image<Storage> image(params, tile.image);
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
        const Values<Value> value = load(x + begin, count, rest);
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
          Values<Value> difference = absolute<Value>(load(x + stride + begin, count, rest) - load(x + begin, count, rest));
          if constexpr (kMasked) difference = has_flag(row_flags + begin, count, flag) ? difference : rest;
          differences += difference;
        });
        total.add(differences);
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

template <class Storage, bool kMasked>
void backward_contiguous(const DynamicLossParams& params, const Tile& tile, const GradientScales& scales, bool stream) {
  using Value = Compute<Storage>;
  using Integer = typename VectorOf<Value>::Integer;
  const Image<Storage> image(params, tile.image);
  const std::int64_t rows = tile.row_end - tile.row_begin;
  const std::int64_t columns = tile.column_end - tile.column_begin;
  const auto similarity = static_cast<Value>(scales.similarity);
  const auto vertical = static_cast<Value>(scales.vertical);
  const auto horizontal = static_cast<Value>(scales.horizontal);
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
    Storage* grad_channel = grad_image + c * params.grad_strides.channel +
                            tile.row_begin * params.grad_strides.height + tile.column_begin;
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
      Storage* grad = stream ? gathered + (rows_are_dense ? r * columns : 0)
                             : grad_channel + r * params.grad_strides.height;

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
        const Values<Value> softmax = exp_nonpositive(here - load(logsumexp + begin, count, rest));
        const Values<Value> one_hot =
            load_integers(row_label + begin, count) == static_cast<Integer>(c) ? broadcast<Value>(1) : rest;
        Values<Value> result = (softmax - one_hot) * similarity +
                               vertical_sign * vertical +
                               horizontal_sign * horizontal;
        if constexpr (kMasked) result = has_flag(row_flags + begin, count, kValid) ? result : rest;
        store(grad + begin, count, result);
      });
      if (stream && !rows_are_dense) {
        stream_copy(grad_channel + r * params.grad_strides.height, gathered, columns * static_cast<int>(sizeof(Storage)));
      }
    }
    if (stream && rows_are_dense) {
      stream_copy(grad_channel, gathered, rows * columns * static_cast<int>(sizeof(Storage)));
    }
  }
  if (stream) finish_stream();
}

// ---- choice ---------------------------------------------------------------------------------------------------------

template <class Storage>
DynamicLossKernels kernels_for(MemoryFormat format, bool masked) {
  if (format == MemoryFormat::channels_last) return {forward_channels_last<Storage>, backward_channels_last<Storage>};
  if (masked) return {forward_contiguous<Storage, true>, backward_contiguous<Storage, true>};
  return {forward_contiguous<Storage, false>, backward_contiguous<Storage, false>};
}

}  // namespace

DynamicLossKernels dynamic_loss_kernels(const DynamicLossParams& params) {
  const bool masked = params.mask != nullptr;
  switch (params.dtype) {
    case DType::float32:
      return kernels_for<float>(params.format, masked);
    case DType::float64:
      return kernels_for<double>(params.format, masked);
    case DType::bfloat16:
      break;
  }
  return kernels_for<BFloat16>(params.format, masked);
}

}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
