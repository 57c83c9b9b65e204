// The labels of channels-last maps. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_image.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// The row below is what a tile reads first; it is asked for this many pixels ahead, because the processor's own
// prefetching stops at the end of each memory page.
constexpr std::int64_t kPixelsAhead = 8;

template <int kBy, class Value>
DYNAMICSEG_INLINE void fold_winners(Values<Value>& value, Integers<Value>& label) {
  if constexpr (kBy < kLanes<Value>) {
    const Values<Value> other_value = rotate<kBy>(value);
    const Integers<Value> other_label = rotate<kBy>(label);
    const Integers<Value> other_wins =
        takes_label<Value>(other_value, value) | (~takes_label<Value>(value, other_value) & (other_label < label));
    value = other_wins ? other_value : value;
    label = other_wins ? other_label : label;
    fold_winners<kBy * 2, Value>(value, label);
  }
}

// The label of any pixel, infinities and NaN included; and its greatest response.
template <class Storage, bool kNormalised, class Value = Compute<Storage>>
DYNAMICSEG_INLINE std::int64_t label_of_any(const Image<Storage, kNormalised>& image, const Storage* pixel,
                                            Value& top) {
  const Values<Value> lowest = broadcast<Value>(-std::numeric_limits<Value>::infinity());
  Values<Value> best = lowest;
  Integers<Value> label = lane_numbers<Value>();
  Integers<Value> channel = label;
  for_lanes<Value>(image.channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
    const Values<Value> value = image.load_responses(pixel, begin, count, lowest);
    const Integers<Value> takes = takes_label<Value>(value, best);
    best = takes ? value : best;
    label = takes ? channel : label;
    channel += kLanes<Value>;
  });
  fold_winners<1, Value>(best, label);
  top = best[0];
  return label[0];
}

// The same of a pixel of finite numbers, with less work. `poison` becomes NaN if there is another.
template <class Storage, bool kNormalised, class Value = Compute<Storage>>
DYNAMICSEG_INLINE std::int64_t label_of_finite(const Image<Storage, kNormalised>& image, const Storage* pixel,
                                               std::int64_t ahead, Value& top, Values<Value>& poison) {
  const Values<Value> lowest = broadcast<Value>(-std::numeric_limits<Value>::infinity());
  constexpr auto kNone = std::numeric_limits<typename VectorOf<Value>::Integer>::max();
  Values<Value> best = lowest;
  Integers<Value> label = lane_numbers<Value>();
  Integers<Value> channel = label;
  for_lanes<Value>(image.channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
    __builtin_prefetch(pixel + ahead + begin);
    const Values<Value> value = image.load_responses(pixel, begin, count, lowest);
    label = value > best ? channel : label;
    best = greater(value, best);
    channel += kLanes<Value>;
    poison += image.load_responses(pixel, begin, count, Values<Value>{}) * Value(0);
  });
  top = max_of_lanes(best);
  return min_of_lanes(best == top ? label : Integers<Value>{} + kNone);
}

// `top`, if not null, is where the greatest responses go.
template <class Storage, bool kNormalised>
DYNAMICSEG_INLINE void label_row(const Image<Storage, kNormalised>& image, const Tile& tile, std::int64_t row,
                                 std::int64_t ahead, std::uint64_t* alive, Compute<Storage>* top) {
  using Value = Compute<Storage>;
  std::int64_t* labels = image.labels + row * image.width;
  Values<Value> poison{};
  Value unused;
  for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column) {
    Value& pixel_top = top != nullptr ? top[column] : unused;
    labels[column] =
        image.valid(row, column) ? label_of_finite(image, image.pixel(row, column), ahead, pixel_top, poison) : -1;
  }
  const bool again = sum_of_lanes(poison) != 0;
  for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column) {
    if (!image.valid(row, column)) {
      labels[column] = -1;
      continue;
    }
    Value& pixel_top = top != nullptr ? top[column] : unused;
    if (again) labels[column] = label_of_any(image, image.pixel(row, column), pixel_top);
    mark_alive(alive, labels[column]);
  }
}

template <class Storage, bool kNormalised>
void label_channels_last(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive) {
  const Image<Storage, kNormalised> image(params, tile.image);
  const std::int64_t ahead = kPixelsAhead * image.strides.width;
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    auto* top = params.superpixels != nullptr ? image.logsumexp + row * image.width : nullptr;
    label_row(image, tile, row, ahead, alive, top);
  }
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
