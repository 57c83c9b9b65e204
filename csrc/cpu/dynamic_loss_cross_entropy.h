// Cross-entropies of pixels with their labels, with scribbles and with a guide. Part of dynamic_loss_kernels.cpp.
#pragma once

#include "cpu/dynamic_loss_image.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// Sums over one tile, while they grow: logarithms of sums of exponentials below the greatest response, and how far the
// responses to the labels are below that.
template <class Value>
struct CrossEntropies {
  LongSum<Value> similarity, scribble, guide;
  double similarity_below_top = 0, scribble_below_top = 0, guide_below_top = 0;

  void write(TileSums& sums) const {
    sums.similarity = similarity.total() + similarity_below_top;
    sums.scribble = scribble.total() + scribble_below_top;
    sums.guide = guide.total() + guide_below_top;
  }
};

// A few pixels, while their cross-entropies wait for the logarithms.
template <class Value, std::int64_t kPixels>
struct PixelEntropies {
  using Integer = typename VectorOf<Value>::Integer;

  Value top[kPixels];      // the greatest response
  Value exp_sum[kPixels];  // of exponentials below it
  Integer scribbled[kPixels], guided[kPixels];

  // Masked: the logarithm, 0, adds nothing.
  __attribute__((always_inline)) void set_masked(std::int64_t i) {
    top[i] = 0;
    exp_sum[i] = 1;
    scribbled[i] = guided[i] = 0;
  }

  // Its top is known.
  template <class Storage, bool kNormalised>
  __attribute__((always_inline)) void set_targets(std::int64_t i, const Image<Storage, kNormalised>& image,
                                                  const Storage* pixel, const PixelTargets& targets,
                                                  CrossEntropies<Value>& sums) {
    const auto below_top = [&](std::int64_t label) {
      return static_cast<double>(top[i]) - static_cast<double>(image.response(pixel, label));
    };
    (targets.scribbled ? sums.scribble_below_top : sums.similarity_below_top) += below_top(targets.label);
    if (targets.guide >= 0) sums.guide_below_top += below_top(targets.guide);
    scribbled[i] = targets.scribbled;
    guided[i] = targets.guide >= 0;
  }

  // Adds `count` pixels; writes logsumexp where it is wanted. Without targets, all is similarity.
  __attribute__((always_inline)) void add_to(CrossEntropies<Value>& sums, std::int64_t count, bool has_targets,
                                             Value* logsumexp) const {
    for_lanes<Value>(count, [&](std::int64_t begin, auto lanes) __attribute__((always_inline)) {
      const Values<Value> none{};
      const Values<Value> tops = load(top + begin, lanes, none);
      const Values<Value> log_sum = log_positive(load(exp_sum + begin, lanes, broadcast<Value>(1)));
      const Values<Value> entropy = log_sum + (tops - tops);  // NaN where the top is infinite
      if (logsumexp != nullptr) store(logsumexp + begin, lanes, tops + log_sum);
      if (!has_targets) {
        sums.similarity.add(entropy);
        return;
      }
      const auto is_scribbled = load_integers(scribbled + begin, lanes) != 0;
      sums.similarity.add(is_scribbled ? none : entropy);
      sums.scribble.add(is_scribbled ? entropy : none);
      sums.guide.add(load_integers(guided + begin, lanes) != 0 ? entropy : none);
    });
  }
};

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
