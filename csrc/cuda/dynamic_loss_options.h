// One pack of channels and one column of a tile, see dynamic_loss_column.h, with all that is optional in the loss.
//
// Which options are on is the same for all threads of a launch, so that asking costs next to nothing; one kernel for
// each combination would be compiled 16 times. What they share is what the kernels without options do not have: both
// neighbours of the row below are read together with it, one row ahead, and are those of the row itself in the next
// turn. So diagonals read nothing twice. A pair that does not count has a scale of 0.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/differences.h"
#include "cuda/dynamic_loss_column.h"

namespace dynamicseg {

template <class Storage, Access kAccess, Measure kMeasure>
class ColumnWithOptions : public PixelTerms<Storage, kAccess, kMeasure, true> {
  using Base = PixelTerms<Storage, kAccess, kMeasure, true>;
  using Base::kElements, Base::kNormalised, Base::kGradient;
  using Base::p_, Base::image_, Base::column_, Base::channel_, Base::scales_;
  using typename Base::Value;

 public:
  using Base::Base, Base::sums;

  __device__ __forceinline__ void measure(std::int64_t row_begin, std::int64_t row_end) {
    // From the row above on, of which only what its pairs add to the gradient of the first row is wanted.
    const std::int64_t first = kGradient ? row_begin - 1 : row_begin;
    Row here = row_at(first);
    Value from_above[kElements]{};
#pragma unroll 1
    for (std::int64_t row = first; row < row_end; ++row) {
      const Row below = row_at(row + 1);
      const bool in_tile = row >= row_begin;
      Value gradient[kElements];
      if (p_.continuity_kind == Continuity::huber) {
        add_pairs<Continuity::huber>(here, below, in_tile, gradient, from_above);
      } else {
        add_pairs<Continuity::l1>(here, below, in_tile, gradient, from_above);
      }
      if (in_tile) {
        Value x[kElements];
        numbers_of(here.centre, x);
        this->finish_pixel(row, (here.valid & kCentre) != 0, x, gradient);
      }
      here = below;
    }
  }

 private:
  // A pixel of the column, and its neighbours in the row; those that are not valid are any numbers.
  struct Row {
    Pack<Storage> centre, left, right;
    unsigned valid;  // a bit for each
  };
  static constexpr unsigned kCentre = 1, kLeft = 2, kRight = 4;

  __device__ __forceinline__ Row row_at(std::int64_t row) const {
    const std::int64_t inside = row < 0 ? 0 : row < image_.height ? row : image_.height - 1;
    const bool has_left = column_ > 0, has_right = column_ + 1 < image_.width;
    const Storage* pixel = image_.x + inside * image_.strides.height + column_ * image_.strides.width;
    Row found{};
    found.centre = this->load(pixel);
    if (has_left && (kGradient || p_.diagonals)) found.left = this->load(pixel - image_.strides.width);
    if (has_right) found.right = this->load(pixel + image_.strides.width);
    found.valid = kCentre | (has_left ? kLeft : 0) | (has_right ? kRight : 0);
    if (row != inside) found.valid = 0;
    if (p_.mask != nullptr) {
      const std::int64_t index = inside * image_.width + column_;
      if (!image_.is_data(index)) found.valid &= ~kCentre;
      if (!image_.is_data(has_left ? index - 1 : index)) found.valid &= ~kLeft;
      if (!image_.is_data(has_right ? index + 1 : index)) found.valid &= ~kRight;
    }
    return found;
  }

  __device__ __forceinline__ static Value of(const Pack<Storage>& pack, int e) { return number(pack.element(e)); }
  __device__ __forceinline__ static bool both(const Row& a, unsigned of_a, const Row& b, unsigned of_b) {
    return (a.valid & of_a) != 0 && (b.valid & of_b) != 0;
  }
  __device__ __forceinline__ Value scale_if(bool counts, Term term) const { return counts ? scales_[term] : Value(0); }

  // All pairs of a pixel but those with the row above, which `from_above` has; it becomes that of the pixel below.
  // Those of a pixel that is not in the tile are summed up elsewhere.
  template <Continuity kContinuity>
  __device__ __forceinline__ void add_pairs(const Row& here, const Row& below, bool in_tile, Value* gradient,
                                            Value* from_above) {
    add_straight<kContinuity>(here, below, in_tile, gradient, from_above);
    if (p_.diagonals) add_diagonals<kContinuity>(here, below, in_tile, gradient, from_above);
  }

  // Those with the pixels to the left, to the right and below.
  template <Continuity kContinuity>
  __device__ __forceinline__ void add_straight(const Row& here, const Row& below, bool in_tile, Value* gradient,
                                               Value* from_above) {
    const DifferenceScales<Storage, kNormalised> scaled(p_, channel_);
    const bool has_below = both(here, kCentre, below, kCentre), has_right = both(here, kCentre, here, kRight);
    const Value vertical = scale_if(has_below, kVertical), to_right_scale = scale_if(has_right, kHorizontal);
    const Value to_left_scale = scale_if(both(here, kCentre, here, kLeft), kHorizontal);
    Value below_sizes = 0, right_sizes = 0;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const Value x = of(here.centre, e);
      const Value to_below = scaled(of(below.centre, e) - x, e), to_right = scaled(of(here.right, e) - x, e);
      below_sizes += size_counted<kContinuity>(to_below);
      right_sizes += size_counted<kContinuity>(to_right);
      if constexpr (kGradient) {
        const Value slope_below = slope_counted<kContinuity>(to_below) * vertical;
        gradient[e] = from_above[e] - slope_below - slope_counted<kContinuity>(to_right) * to_right_scale +
                      slope_counted<kContinuity>(scaled(x - of(here.left, e), e)) * to_left_scale;
        from_above[e] = slope_below;
      }
    }
    if (in_tile && has_below) sums[kVertical] += below_sizes;
    if (in_tile && has_right) sums[kHorizontal] += right_sizes;
  }

  // Those with the two diagonal neighbours below, and those of the pixel below with the two beside this one, which are
  // from above for it.
  template <Continuity kContinuity>
  __device__ __forceinline__ void add_diagonals(const Row& here, const Row& below, bool in_tile, Value* gradient,
                                                Value* from_above) {
    const DifferenceScales<Storage, kNormalised> scaled(p_, channel_);
    const bool has_falling = both(here, kCentre, below, kRight), has_rising = both(here, kCentre, below, kLeft);
    const Value falling = scale_if(has_falling, kFalling), rising = scale_if(has_rising, kRising);
    const Value falling_below = scale_if(both(here, kLeft, below, kCentre), kFalling);
    const Value rising_below = scale_if(both(here, kRight, below, kCentre), kRising);
    Value falling_sizes = 0, rising_sizes = 0;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const Value x = of(here.centre, e), x_below = of(below.centre, e);
      const Value to_right = scaled(of(below.right, e) - x, e), to_left = scaled(of(below.left, e) - x, e);
      falling_sizes += size_counted<kContinuity>(to_right);
      rising_sizes += size_counted<kContinuity>(to_left);
      if constexpr (kGradient) {
        gradient[e] -= slope_counted<kContinuity>(to_right) * falling + slope_counted<kContinuity>(to_left) * rising;
        from_above[e] += slope_counted<kContinuity>(scaled(x_below - of(here.left, e), e)) * falling_below +
                         slope_counted<kContinuity>(scaled(x_below - of(here.right, e), e)) * rising_below;
      }
    }
    if (in_tile && has_falling) sums[kFalling] += falling_sizes;
    if (in_tile && has_rising) sums[kRising] += rising_sizes;
  }
};

}  // namespace dynamicseg
