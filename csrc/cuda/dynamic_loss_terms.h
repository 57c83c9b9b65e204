// What the terms of dynamic_loss count: their elements, their scales in the gradient, and the loss that they make up.
// Part of dynamic_loss.cu and batch_norm_dynamic_loss.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block.h"
#include "cuda/dynamic_loss_plan.h"
#include "cuda/packs.h"

namespace dynamicseg {

// Those that kernels without options know, or all.
template <bool kOptions>
constexpr int kTerms = kOptions ? kAllTerms : 3;

__device__ __forceinline__ bool is_of_neighbours(int term) { return term >= kVertical && term <= kRising; }

// Of how many elements of an image a term is the mean.
__device__ __forceinline__ std::int64_t count_of_term(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                                      std::int64_t image, int term) {
  const std::int64_t height = p.shape.height, width = p.shape.width;
  const std::int64_t above_others = height > 0 ? height - 1 : 0, beside_others = width > 0 ? width - 1 : 0;
  std::int64_t pixels = 0;
  if (has_counts(p)) {
    pixels = static_cast<std::int64_t>(plan.counts[image * kAllTerms + term]);
  } else if (term == kSimilarity) {
    pixels = height * width;
  } else if (is_of_neighbours(term)) {
    pixels = (term == kHorizontal ? height : above_others) * (term == kVertical ? width : beside_others);
  }
  return is_of_neighbours(term) ? pixels * p.shape.channels : pixels;
}

__device__ __forceinline__ std::int64_t count_alive(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                                    std::int64_t image) {
  const std::int64_t words = (p.shape.channels + 31) / 32;
  int label_count = 0;
#pragma unroll 1
  for (std::int64_t word = 0; word < words; ++word) label_count += __popc(plan.alive[image * words + word]);
  return label_count;
}

// In the loss; 0 without a guide.
template <class Value>
__device__ __forceinline__ double weight_of_guide(const DynamicLossParams& p, std::int64_t image) {
  return p.guide == nullptr ? 0.0 : static_cast<double>(static_cast<const Value*>(p.guide_weight)[image]);
}

// What a term counts in the gradient of one element.
template <class Value>
__device__ __forceinline__ Value scale_of_term(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                               std::int64_t image, int term) {
  double weight = 1;
  if (is_of_neighbours(term)) {
    weight = plan.labels_are_given ? static_cast<double>(static_cast<const Value*>(p.weight)[image])
                                   : static_cast<double>(static_cast<Value>(dynamic_weight(
                                         p.weighting, p.mu, p.label_floor, count_alive(p, plan, image))));
  } else if (term == kScribble) {
    weight = p.scribble_weight;
  } else if (term == kGuide) {
    weight = weight_of_guide<Value>(p, image);
  }
  const auto grad_loss = static_cast<double>(static_cast<const Value*>(p.grad_loss)[image]);
  return static_cast<Value>(grad_loss * weight * share_of_mean(count_of_term(p, plan, image, term)));
}

// The sums of all tiles of an image, in their order, and what comes of them. All threads of one block call it.
template <class Value, bool kOptions>
__device__ __forceinline__ void write_loss(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                           std::int64_t image) {
  double of_labels = 0, sums[kTerms<kOptions>]{};
#pragma unroll 1
  for (std::int64_t run = threadIdx.x; run < plan.runs; run += kThreads) {
    of_labels += plan.similarity[image * plan.runs + run];
  }
#pragma unroll 1
  for (std::int64_t tile = threadIdx.x; tile < plan.tiles; tile += kThreads) {
    const double* of_tile = plan.sums + (image * plan.tiles + tile) * kAllTerms;
#pragma unroll
    for (int term = 0; term < kTerms<kOptions>; ++term) sums[term] += of_tile[term];
  }
  // Phase `label` knows neither targets nor scribbles.
  if (p.superpixels == nullptr && p.scribbles == nullptr) sums[kSimilarity] = of_labels;
  double means[kAllTerms]{};
#pragma unroll
  for (int term = 0; term < kTerms<kOptions>; ++term) {
    means[term] = mean_or_zero(sum_of_block(sums[term]), count_of_term(p, plan, image, term));
  }
  if (threadIdx.x != 0) return;
  const std::int64_t label_count = count_alive(p, plan, image);
  const double continuity = means[kVertical] + means[kHorizontal] + means[kFalling] + means[kRising];
  const double weight = dynamic_weight(p.weighting, p.mu, p.label_floor, label_count);
  double loss = means[kSimilarity] + weight * continuity;
  if constexpr (kOptions) {
    loss += p.scribble_weight * means[kScribble] + weight_of_guide<Value>(p, image) * means[kGuide];
  }
  p.label_counts[image] = label_count;
  static_cast<Value*>(p.similarity)[image] = static_cast<Value>(means[kSimilarity]);
  static_cast<Value*>(p.continuity)[image] = static_cast<Value>(continuity);
  static_cast<Value*>(p.weight)[image] = static_cast<Value>(weight);
  static_cast<Value*>(p.loss)[image] = static_cast<Value>(loss);
  static_cast<Value*>(p.scribble_cross_entropy)[image] = static_cast<Value>(means[kScribble]);
  static_cast<Value*>(p.guide_cross_entropy)[image] = static_cast<Value>(means[kGuide]);
}

}  // namespace dynamicseg
