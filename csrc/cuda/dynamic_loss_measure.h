// Phase `measure` of dynamic_loss: the sums and the gradient of a tile whose labels and logsumexp are known. Part of
// dynamic_loss.cu and batch_norm_dynamic_loss.cu.
//
// A thread has one pack of channels and one column at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "cuda/block.h"
#include "cuda/dynamic_loss_column.h"
#include "cuda/dynamic_loss_options.h"

namespace dynamicseg {

// Sums over the pixels of a tile, channel by channel: of the gradient and of the gradient times (x - mean), each [C].
// `sums`: those of the thread, 2 * kElements. All threads of the block call it.
template <class Storage>
__device__ __forceinline__ void write_channel_sums(const ThreadLayout& layout, const Compute<Storage>* sums,
                                                   int first_pack, int channels, double* total) {
  using Value = Compute<Storage>;
  constexpr int kElements = kPack<Storage>;
  __shared__ Value shared[2 * kElements][kThreads];  // neighbouring threads in neighbouring banks
  __syncthreads();                                   // those of earlier packs have been read
#pragma unroll
  for (int i = 0; i < 2 * kElements; ++i) shared[i][threadIdx.x] = sums[i];
  __syncthreads();
  const int numbers = layout.packs * 2 * kElements;
  const auto add_up = [&](int i, int first_pixel, int step) {
    const int pack = i % layout.packs, which = i / layout.packs;
    double sum = 0;
    for (int pixel = first_pixel; pixel < layout.pixels; pixel += step) {
      sum += shared[which][thread_of(layout, pixel, pack)];
    }
    if (step > 1) sum = sum_of_warp(sum);
    const int channel = (first_pack + pack) * kElements + which % kElements;
    if (channel < channels && (step == 1 || first_pixel == 0)) total[which / kElements * channels + channel] = sum;
  };
  // Many packs of a few pixels: a thread for each number. Many pixels of a few packs: a warp.
  const int thread = static_cast<int>(threadIdx.x);
  if (layout.packs_first) {
    for (int i = thread; i < numbers; i += kThreads) add_up(i, 0, 1);
  } else {
    for (int i = thread / kWarp; i < numbers; i += kThreads / kWarp) add_up(i, thread % kWarp, kWarp);
  }
}

// What all threads of a block know of the tile that they work on; in shared memory, for registers are short.
template <class Value, bool kOptions>
struct SharedTile {
  std::int64_t image, number;  // of the tile, among those of the image
  std::int64_t row_begin, row_end, first_column;
  Value scales[kTerms<kOptions>];  // what the terms count in the gradient
};

// Tile `number` of an image.
template <class Storage, Access kAccess, Measure kMeasure, bool kOptions>
__device__ __forceinline__ void measure_tile(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                             std::int64_t image, std::int64_t number) {
  using Value = Compute<Storage>;
  using ColumnOfTile =
      std::conditional_t<kOptions, ColumnWithOptions<Storage, kAccess, kMeasure>, Column<Storage, kAccess, kMeasure>>;
  constexpr int kElements = kPack<Storage>;
  const unsigned thread = threadIdx.x;
  const int channels = static_cast<int>(p.shape.channels);
  __shared__ SharedTile<Value, kOptions> tile;
  // Each thread's own; volatile, for the compiler would hold them in registers.
  __shared__ volatile double sums[kTerms<kOptions>][kThreads];
  __syncthreads();                                      // those of an earlier tile have been read
  const int scaled = static_cast<int>(thread) - kWarp;  // a term for each lane of the second warp
  if (kMeasure != Measure::sums && scaled >= 0 && scaled < kTerms<kOptions>) {
    tile.scales[scaled] = scale_of_term<Value>(p, plan, image, scaled);
  }
  if (thread == 0) {
    const std::int64_t begin = number / plan.across * plan.tile_rows, end = begin + plan.tile_rows;
    tile.image = image;
    tile.number = number;
    tile.row_begin = begin;
    tile.row_end = end < p.shape.height ? end : p.shape.height;
    tile.first_column = number % plan.across * plan.threads.pixels;
  }
#pragma unroll
  for (auto& sum : sums) sum[thread] = 0;
  __syncthreads();

  int pack = pack_of_thread(plan.threads);
  for (int first = 0; first * kElements < channels; first += plan.threads.packs, pack += plan.threads.packs) {
    const std::int64_t column = tile.first_column + pixel_of_thread(plan.threads);
    const bool in_tile = static_cast<int>(thread) < plan.threads.pixels * plan.threads.packs &&
                         column < p.shape.width && tile.row_begin < tile.row_end;
    Value channel_sums[2 * kElements]{};
    if (in_tile && pack * kElements < channels) {
      ColumnOfTile mine(p, plan, tile.image, column, pack * kElements, tile.scales);
      mine.measure(tile.row_begin, tile.row_end);
#pragma unroll
      for (int term = 0; term < kTerms<kOptions>; ++term) sums[term][thread] = sums[term][thread] + mine.sums[term];
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        channel_sums[e] = mine.grad_sum[e];
        channel_sums[kElements + e] = mine.grad_centred_sum[e];
      }
    }
    if constexpr (kMeasure == Measure::gradient_sums) {
      write_channel_sums<Storage>(plan.threads, channel_sums, first, channels,
                                  plan.grad_sums + (tile.image * plan.tiles + tile.number) * 2 * channels);
    }
  }
  if constexpr (kMeasure != Measure::batch_norm_gradient) {
    if (p.loss == nullptr) return;
#pragma unroll
    for (int term = 0; term < kTerms<kOptions>; ++term) {
      const double sum = sum_of_block(sums[term][thread]);
      if (thread == 0) plan.sums[(tile.image * plan.tiles + tile.number) * kAllTerms + term] = sum;
    }
    if (is_last_to_arrive(plan.measured + tile.image, plan.tiles)) write_loss<Value, kOptions>(p, plan, tile.image);
  }
}

}  // namespace dynamicseg
