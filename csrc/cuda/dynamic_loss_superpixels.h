// The phases of dynamic_loss around `label`: what masks, scribbles, a guide and superpixels ask for. They read those
// and labels, not the map. Part of dynamic_loss.cu and batch_norm_dynamic_loss.cu.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>

#include "cuda/block.h"
#include "cuda/dynamic_loss_image.h"

namespace dynamicseg {

// Valid pixels and pairs of pixels, term by term, from `first` on in steps of `step` pixels. All threads of the block
// call it.
template <class Storage>
__device__ __forceinline__ void count_valid(const DynamicLossParams& p, const DynamicLossPlan& plan, std::int64_t image,
                                            std::int64_t first, std::int64_t step) {
  const Image<Storage> map(p, image);
  double counts[kAllTerms]{};  // exact, far below 2^53
  for (std::int64_t index = first; index < map.height * map.width; index += step) {
    if (!map.is_data(index)) continue;
    const std::int64_t row = index / map.width, column = index % map.width;
    const bool scribbled = map.scribble(index) >= 0;
    counts[kSimilarity] += !scribbled;
    counts[kVertical] += map.is_valid(row + 1, column);
    counts[kHorizontal] += map.is_valid(row, column + 1);
    if (p.diagonals) {
      counts[kFalling] += map.is_valid(row + 1, column + 1);
      counts[kRising] += map.is_valid(row + 1, column - 1);
    }
    counts[kScribble] += scribbled;
    counts[kGuide] += map.guided(index) >= 0;
  }
#pragma unroll
  for (int term = 0; term < kAllTerms; ++term) {
    const double count = sum_of_block(counts[term]);
    if (threadIdx.x == 0) atomicAdd(plan.counts + kAllTerms * image + term, static_cast<unsigned long long>(count));
  }
}

// Counts the labels of pixels in the histograms of their superpixels, from `first` on in steps of `step` pixels. Lanes
// with the same label and superpixel, which neighbours mostly have, count as one.
template <class Storage>
__device__ __forceinline__ void count_labels(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                             std::int64_t image, std::int64_t first, std::int64_t step) {
  constexpr unsigned long long kNone = ULLONG_MAX;
  const Image<Storage> map(p, image);
  int* histograms = plan.histograms + image * p.superpixel_count * map.channels;
  const std::int64_t pixels = map.height * map.width;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t index = first; index - lane < pixels; index += step) {  // all lanes or none
    const std::int64_t label = index < pixels ? map.label(index) : -1;
    const unsigned long long cell =
        label < 0 ? kNone : static_cast<unsigned long long>(map.superpixel(index) * map.channels + label);
    const unsigned same = __match_any_sync(kWholeWarp, cell);
    if (cell != kNone && __ffs(static_cast<int>(same)) - 1 == lane) atomicAdd(histograms + cell, __popc(same));
  }
}

// The most frequent label of each superpixel, the lowest on a tie, -1 where it has no valid pixel; from superpixel
// `first` on in steps of `step`, a warp for each.
template <class Storage>
__device__ __forceinline__ void unite_labels(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                             std::int64_t image, std::int64_t first, std::int64_t step) {
  const int channels = static_cast<int>(p.shape.channels);
  const std::int64_t words = (p.shape.channels + 31) / 32;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t superpixel = first; superpixel < p.superpixel_count; superpixel += step) {
    const int* histogram = plan.histograms + (image * p.superpixel_count + superpixel) * channels;
    int most = 0, target = INT_MAX;
    for (int label = lane; label < channels; label += kWarp) {
      if (histogram[label] > most) {
        most = histogram[label];
        target = label;
      }
    }
    for (int by = kWarp / 2; by > 0; by /= 2) {
      const int other_most = __shfl_xor_sync(kWholeWarp, most, by);
      const int other_target = __shfl_xor_sync(kWholeWarp, target, by);
      if (other_most > most || (other_most == most && other_target < target)) {
        most = other_most;
        target = other_target;
      }
    }
    if (lane != 0) continue;
    plan.targets[image * p.superpixel_count + superpixel] = most > 0 ? target : -1;
    if (most > 0) atomicOr(plan.alive + image * words + target / 32, 1u << (target % 32));
  }
}

}  // namespace dynamicseg
