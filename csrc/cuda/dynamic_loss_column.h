// One pack of channels and one column of a tile: what phase `measure` of dynamic_loss gives a thread to do. Part of
// dynamic_loss.cu and batch_norm_dynamic_loss.cu.
//
// The thread goes down the rows of the tile: the row below becomes the row itself, and the sign of its difference is
// used again from the other side. The neighbours to the left and right are what other threads of the block read in the
// same moment, from the first-level cache. Where there is no valid neighbour the pixel stands in for it: their
// difference is 0, and so is its sign.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/dynamic_loss_image.h"
#include "cuda/dynamic_loss_terms.h"
#include "cuda/exponential.h"

namespace dynamicseg {

// What a call of the phase is for.
enum class Measure {
  sums,                // of differences
  gradient,            // the same, and the gradient of the responses written
  gradient_sums,       // the same, and the sums that the backward pass of batch norm needs of it, in place of itself
  batch_norm_gradient  // nothing but the gradient of z, from those sums
};

template <Measure kMeasure>
constexpr bool kIsNormalised = kMeasure == Measure::gradient_sums || kMeasure == Measure::batch_norm_gradient;
template <Measure kMeasure>
constexpr bool kWritesGradient = kMeasure == Measure::gradient || kMeasure == Measure::batch_norm_gradient;

// Differences of responses from those of x.
template <class Storage, bool kNormalised>
struct DifferenceScales {
  __device__ __forceinline__ DifferenceScales(const DynamicLossParams&, int) {}
  __device__ __forceinline__ Compute<Storage> operator()(Compute<Storage> of_x, int) const { return of_x; }
};
template <class Storage>
struct DifferenceScales<Storage, true> {
  ChannelNumbers<Storage> scale;

  __device__ __forceinline__ DifferenceScales(const DynamicLossParams& p, int channel) : scale(p.scale, channel) {}
  __device__ __forceinline__ Compute<Storage> operator()(Compute<Storage> of_x, int e) const {
    return of_x * scale.of[e];
  }
};

// What does not depend on neighbours. The continuity is added by what derives from it.
template <class Storage, Access kAccess, Measure kMeasure, bool kOptions>
class PixelTerms {
 protected:
  using Value = Compute<Storage>;
  static constexpr int kElements = kPack<Storage>;
  static constexpr bool kNormalised = kIsNormalised<kMeasure>;
  static constexpr bool kGradient = kMeasure != Measure::sums;

 public:
  // `scales`: what each term counts in the gradient.
  __device__ __forceinline__ PixelTerms(const DynamicLossParams& p, const DynamicLossPlan& plan, std::int64_t image,
                                        std::int64_t column, int channel, const Value* scales)
      : p_(p),
        image_(p, image),
        column_(column),
        channel_(channel),
        scales_(scales),
        grad_(static_cast<Storage*>(p.grad_x) + image * p.grad_strides.batch + column * p.grad_strides.width),
        targets_(p.superpixels == nullptr || plan.labels_are_given ? nullptr
                                                                   : plan.targets + image * p.superpixel_count),
        gradient_offset_(plan.gradient_offset),
        gradient_slope_(plan.gradient_slope) {}

  Value sums[kTerms<kOptions>]{};
  Value grad_sum[kElements]{}, grad_centred_sum[kElements]{};

 protected:
  __device__ __forceinline__ Pack<Storage> load(const Storage* pixel) const {
    return load_pack<Storage, kAccess>(pixel, image_.strides.channel, channel_, image_.channels);
  }

  // A pixel whose differences are in the gradient already.
  __device__ __forceinline__ void finish_pixel(std::int64_t row, bool valid, const Value* x, Value* gradient) {
    const bool sums_cross_entropies = kOptions && (p_.scribbles != nullptr || p_.guide != nullptr);
    if (kGradient || targets_ != nullptr || sums_cross_entropies) {
      add_cross_entropies(row * image_.width + column_, valid, x, gradient);
    }
    if constexpr (kMeasure == Measure::gradient_sums) add_to_sums(x, gradient);
    if constexpr (kWritesGradient<kMeasure>) write(row, x, gradient);
  }

  const DynamicLossParams& p_;
  Image<Storage> image_;
  std::int64_t column_;
  int channel_;
  const Value* scales_;

 private:
  // To the gradient, and to the sums; that of the similarity is only used where phase `label` does not know it.
  __device__ __forceinline__ void add_cross_entropies(std::int64_t index, bool valid, const Value* x, Value* gradient) {
    if (!valid) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) gradient[e] = 0;
      return;
    }
    const Value logsumexp = image_.logsumexp(index);
    const Responses<Storage, kNormalised> responses(p_, x, channel_);
    const int label = targets_ == nullptr ? static_cast<int>(image_.label(index)) : targets_[image_.superpixel(index)];
    if (targets_ != nullptr && channel_ == 0) image_.label(index) = label;
    if constexpr (kOptions) {
      const int scribble = image_.scribble(index), guided = image_.guided(index);
      const bool is_scribbled = scribble >= 0;
      const Value scale = is_scribbled ? scales_[kScribble] : scales_[kSimilarity];
      const Value guide_scale = guided >= 0 ? scales_[kGuide] : Value(0);
      add_softmax(logsumexp, responses, scale + guide_scale, gradient);
      Value own = 0, of_guide = 0;
      take_targets(is_scribbled ? scribble : label, scale, own, guided, guide_scale, of_guide, logsumexp, responses,
                   gradient);
      sums[kSimilarity] += is_scribbled ? Value(0) : own;
      sums[kScribble] += is_scribbled ? own : Value(0);
      sums[kGuide] += of_guide;
    } else {
      Value own = 0, of_guide = 0;
      add_softmax(logsumexp, responses, scales_[kSimilarity], gradient);
      take_targets(label, scales_[kSimilarity], own, label, Value(0), of_guide, logsumexp, responses, gradient);
      sums[kSimilarity] += own;
    }
  }

  __device__ __forceinline__ void add_softmax(Value logsumexp, const Responses<Storage, kNormalised>& responses,
                                              Value scale, Value* gradient) const {
    if constexpr (kGradient) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) gradient[e] += exponential(responses.of[e] - logsumexp) * scale;
    }
  }

  // The other part of the gradient of the cross-entropies with two labels, of which -1 is none, and those themselves
  // where the label is one of this pack. Of the same label both are taken at once, as its softmax was added at once:
  // with one channel, nothing is left.
  __device__ __forceinline__ void take_targets(int label, Value scale, Value& cross_entropy, int guided,
                                               Value guide_scale, Value& of_guide, Value logsumexp,
                                               const Responses<Storage, kNormalised>& responses,
                                               Value* gradient) const {
    if (!is_of_pack(label) && !is_of_pack(guided)) return;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const bool is_label = channel_ + e == label, is_guided = channel_ + e == guided;
      if (is_label) cross_entropy = logsumexp - responses.of[e];
      if (is_guided) of_guide = logsumexp - responses.of[e];
      if constexpr (kGradient) gradient[e] -= (is_label ? scale : Value(0)) + (is_guided ? guide_scale : Value(0));
    }
  }
  __device__ __forceinline__ bool is_of_pack(int label) const {
    return label >= channel_ && label < channel_ + kElements;
  }

  __device__ __forceinline__ void add_to_sums(const Value* x, const Value* gradient) {
    const ChannelNumbers<Storage> mean(p_.mean, channel_);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      grad_sum[e] += gradient[e];
      grad_centred_sum[e] += gradient[e] * (x[e] - mean.of[e]);
    }
  }

  __device__ __forceinline__ void write(std::int64_t row, const Value* x, Value* gradient) const {
    if constexpr (kMeasure == Measure::batch_norm_gradient) {
      const ChannelNumbers<Storage> mean(p_.mean, channel_), scale(p_.scale, channel_);
      const ChannelNumbers<Storage> offset(gradient_offset_, channel_), slope(gradient_slope_, channel_);
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        gradient[e] = gradient[e] * scale.of[e] + offset.of[e] + (x[e] - mean.of[e]) * slope.of[e];
      }
    }
    store_pack<Storage, kAccess>(grad_ + row * p_.grad_strides.height, p_.grad_strides.channel, channel_,
                                 image_.channels, pack_of<Storage>(gradient));
  }

  Storage* grad_;
  const int* targets_;
  const void *gradient_offset_, *gradient_slope_;
};

// Without options: absolute differences of vertical and horizontal neighbours.
template <class Storage, Access kAccess, Measure kMeasure>
class Column : public PixelTerms<Storage, kAccess, kMeasure, false> {
  using Base = PixelTerms<Storage, kAccess, kMeasure, false>;
  using Base::kElements, Base::kNormalised, Base::kGradient;
  using Base::p_, Base::image_, Base::column_, Base::channel_, Base::scales_;
  using typename Base::Value;

 public:
  using Base::Base, Base::sums;

  __device__ __forceinline__ void measure(std::int64_t row_begin, std::int64_t row_end) {
    const Storage* pixel = image_.x + row_begin * image_.strides.height + column_ * image_.strides.width;
    bool valid = image_.is_data(row_begin * image_.width + column_);
    Value x[kElements], up_sign[kElements];
    read(pixel, x);
    if constexpr (kGradient) {
      Value up[kElements];
      read(valid && image_.is_valid(row_begin - 1, column_) ? pixel - image_.strides.height : pixel, up);
      const DifferenceScales<Storage, kNormalised> scaled(p_, channel_);
#pragma unroll
      for (int e = 0; e < kElements; ++e) up_sign[e] = sign_of(scaled(x[e] - up[e], e));
    }
#pragma unroll 1
    for (std::int64_t row = row_begin; row < row_end; ++row, pixel += image_.strides.height) {
      Value below[kElements];
      read(row + 1 < image_.height ? pixel + image_.strides.height : pixel, below);
      const bool below_valid = row + 1 < image_.height && image_.is_data((row + 1) * image_.width + column_);
      measure_pixel(row, pixel, valid, valid && below_valid, x, below, up_sign);
      valid = below_valid;
#pragma unroll
      for (int e = 0; e < kElements; ++e) x[e] = below[e];
    }
  }

 private:
  __device__ __forceinline__ void read(const Storage* pixel, Value* x) const { numbers_of(this->load(pixel), x); }

  // `up_sign` becomes that of the pixel below.
  __device__ __forceinline__ void measure_pixel(std::int64_t row, const Storage* pixel, bool valid, bool has_down,
                                                const Value* x, const Value* below, Value* up_sign) {
    const bool has_left = valid && image_.is_valid(row, column_ - 1);
    const bool has_right = valid && image_.is_valid(row, column_ + 1);
    Value left[kElements], right[kElements], gradient[kElements];
    if constexpr (kGradient) read(has_left ? pixel - image_.strides.width : pixel, left);
    read(has_right ? pixel + image_.strides.width : pixel, right);

    // What is added to all responses of a channel drops out of their differences.
    const DifferenceScales<Storage, kNormalised> scaled(p_, channel_);
    Value down_differences = 0, right_differences = 0;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const Value to_down = has_down ? scaled(below[e] - x[e], e) : Value(0);
      const Value to_right = scaled(right[e] - x[e], e);
      down_differences += fabs(to_down);
      right_differences += fabs(to_right);
      if constexpr (kGradient) {
        const Value down_sign = sign_of(to_down);
        gradient[e] = (up_sign[e] - down_sign) * scales_[kVertical] +
                      (sign_of(scaled(x[e] - left[e], e)) - sign_of(to_right)) * scales_[kHorizontal];
        up_sign[e] = down_sign;
      }
    }
    if (has_down) sums[kVertical] += down_differences;
    if (has_right) sums[kHorizontal] += right_differences;
    this->finish_pixel(row, valid, x, gradient);
  }
};

}  // namespace dynamicseg
