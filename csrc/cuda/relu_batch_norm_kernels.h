// The kernels of relu_batch_norm. relu_batch_norm.cu says what they read and write.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block.h"
#include "cuda/launch.h"
#include "cuda/packs.h"
#include "cuda/relu_batch_norm_phases.h"
#include "cuda/relu_batch_norm_plan.h"
#include "cuda/relu_batch_norm_tiles.h"

namespace dynamicseg {

// Packs that a thread reads before it looks at the first of them: 64 bytes, or what registers hold.
template <class Storage, int kCount, bool kPlain, int kMaps>
constexpr int kPacksAtOnce =
    kPlain ? (kCount * static_cast<int>(sizeof(Storage)) == 16 ? 4 : 8) / kMaps : (kCount == 8 ? 1 : 2);

// Channels that a block adds up the tiles of: 32 bytes of doubles that lie side by side.
constexpr int kChannelsTogether = 4;
constexpr int kTilesTogether = kThreads / kChannelsTogether;

// Views of larger maps may take the registers of two blocks.
#define DYNAMICSEG_NORM_KERNEL(plain) \
  __global__ void __launch_bounds__(kThreads, plain ? kBlocksTogether : kBlocksTogether / 2)

// ---- over the tiles of a map ----------------------------------------------------------------------------------------

// The mean of the first values of a thread, as far as there are `count` of them; where they are all the same, that one.
template <int kCount, class Storage, int kAtOnce, class Value>
__device__ __forceinline__ void mean_of_first(const Pack<Storage, kCount> (&packs)[kAtOnce], int count, Value lowest,
                                              Value (&mean)[kCount]) {
  const Value share = Value{1} / static_cast<Value>(min(count, kAtOnce));
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Value first = at_least(number(packs[0].element(i)), lowest);
    Value away = 0;
#pragma unroll
    for (int p = 1; p < kAtOnce; ++p) {
      if (p < count) away += at_least(number(packs[p].element(i)), lowest) - first;
    }
    mean[i] = first + away * share;
  }
}

// Writes, of each tile and channel, the mean and the sum of squares around it.
template <class Storage, int kCount, bool kPlain>
DYNAMICSEG_NORM_KERNEL(kPlain)
moments_kernel(TileWalk walk, MapWalk<const Storage> x, Compute<Storage> lowest,
               double* __restrict__ moments /* [B * tiles, 2, C] */) {
  using Value = Compute<Storage>;
  constexpr int kAtOnce = kPacksAtOnce<Storage, kCount, true, 1>;  // decides on the shift, and so on the bits
  __shared__ Value centres[kCount][kThreads];

  const TileShare share = share_of_thread<kCount>(walk, blockIdx.x);
  Cursor<const Storage, kPlain, false> from(x, walk, share);
  Value shift[kCount]{}, sum[kCount]{}, squares[kCount]{};
#pragma unroll 1
  for (int step = 0; step < share.steps; step += kAtOnce) {
    Pack<Storage, kCount> packs[kAtOnce];
    load_next<kCount, kPlain>(from, share.steps - step, packs);
    if (step == 0) mean_of_first<kCount>(packs, share.steps, lowest, shift);
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      if (step + p >= share.steps) break;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const Value away = at_least(number(packs[p].element(i)), lowest) - shift[i];
        sum[i] += away;
        squares[i] += away * away;
      }
    }
  }

  // Around one value for the whole tile, the sums of all threads can be added.
  if (share.pixel == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) centres[i][share.pack] = shift[i];
  }
  __syncthreads();
  double* mean = moments + share.tile * 2 * walk.channels + share.channel;
  const auto moved_to_centre = [&](int i, double& first, double& second) {
    const double count = share.steps;
    const double moved = static_cast<double>(shift[i]) - static_cast<double>(centres[i][share.pack]);
    first = static_cast<double>(sum[i]) + count * moved;
    second = static_cast<double>(squares[i]) + moved * (2 * static_cast<double>(sum[i]) + count * moved);
  };
  sum_tile<kCount>(walk, share, moved_to_centre, [&](int i, double first, double second) {
    const double away = first * (1.0 / share.tile_pixels);
    mean[i] = static_cast<double>(shift[i]) + away;
    mean[walk.channels + i] = second - away * first;
  });
}

template <class Storage, int kCount, bool kPlain>
DYNAMICSEG_NORM_KERNEL(kPlain)
normalise_kernel(TileWalk walk, MapWalk<const Storage> x, MapWalk<Storage> y, Compute<Storage> lowest,
                 ChannelFactors factors) {
  using Value = Compute<Storage>;
  constexpr int kAtOnce = kPacksAtOnce<Storage, kCount, kPlain, 1>;
  const TileShare share = share_of_thread<kCount>(walk, gridDim.x - 1 - blockIdx.x);
  if (share.steps == 0) return;
  const auto mean = factors_from<Value, kCount>(factors.mean, share.channel);
  const auto scale = factors_from<Value, kCount>(factors.scale, share.channel);
  const auto offset = factors_from<Value, kCount>(factors.offset, share.channel);
  Cursor<const Storage, kPlain, true> from(x, walk, share);
  Cursor<Storage, kPlain, true> to(y, walk, share);
#pragma unroll 1
  for (int step = 0; step < share.steps; step += kAtOnce) {
    Pack<Storage, kCount> packs[kAtOnce];
    load_next<kCount, kPlain>(from, share.steps - step, packs);
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      if (step + p >= share.steps) break;
      Value result[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        result[i] =
            (at_least(number(packs[p].element(i)), lowest) - mean.element(i)) * scale.element(i) + offset.element(i);
      }
      store_channels<Storage, kCount, kPlain>(to.at(), pack_of<Storage, kCount>(result));
      to.next();
    }
  }
}

// Writes, of each tile and channel, the sums of the gradient and of the gradient times (r - mean).
template <class Storage, int kCount, bool kPlain>
DYNAMICSEG_NORM_KERNEL(kPlain)
gradient_sums_kernel(TileWalk walk, MapWalk<const Storage> x, MapWalk<const Storage> grad_y, Compute<Storage> lowest,
                     const Compute<Storage>* __restrict__ means, double* __restrict__ sums /* [B * tiles, 2, C] */) {
  using Value = Compute<Storage>;
  constexpr int kAtOnce = kPacksAtOnce<Storage, kCount, kPlain, 2>;
  const TileShare share = share_of_thread<kCount>(walk, blockIdx.x);
  Cursor<const Storage, kPlain, false> from_x(x, walk, share), from_grad(grad_y, walk, share);
  Value mean[kCount]{}, sum[kCount]{}, sum_centred[kCount]{};
  if (share.steps > 0) {
    means += share.channel;
#pragma unroll
    for (int i = 0; i < kCount; ++i) mean[i] = means[i];
  }
#pragma unroll 1
  for (int step = 0; step < share.steps; step += kAtOnce) {
    Pack<Storage, kCount> values[kAtOnce], grads[kAtOnce];
    load_next<kCount, kPlain>(from_x, share.steps - step, values);
    load_next<kCount, kPlain>(from_grad, share.steps - step, grads);
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      if (step + p >= share.steps) break;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const Value grad = number(grads[p].element(i));
        sum[i] += grad;
        sum_centred[i] += grad * (at_least(number(values[p].element(i)), lowest) - mean[i]);
      }
    }
  }
  double* total = sums + share.tile * 2 * walk.channels + share.channel;
  const auto of_thread = [&](int i, double& first, double& second) {
    first = static_cast<double>(sum[i]);
    second = static_cast<double>(sum_centred[i]);
  };
  sum_tile<kCount>(walk, share, of_thread, [&](int i, double first, double second) {
    total[i] = first;
    total[walk.channels + i] = second;
  });
}

// grad_x may be grad_y: a thread reads its pixels before it writes them.
template <class Storage, int kCount, bool kPlain>
DYNAMICSEG_NORM_KERNEL(kPlain)
gradient_kernel(TileWalk walk, MapWalk<const Storage> x, MapWalk<const Storage> grad_y, MapWalk<Storage> grad_x,
                bool relu, Compute<Storage> lowest, ChannelFactors factors) {
  using Value = Compute<Storage>;
  constexpr int kAtOnce = kCount == 8 ? 1 : kPacksAtOnce<Storage, kCount, kPlain, 2>;
  const TileShare share = share_of_thread<kCount>(walk, gridDim.x - 1 - blockIdx.x);
  if (share.steps == 0) return;
  const auto mean = factors_from<Value, kCount>(factors.mean, share.channel);
  const auto scale = factors_from<Value, kCount>(factors.scale, share.channel);
  const auto offset = factors_from<Value, kCount>(factors.offset, share.channel);
  const auto slope = factors_from<Value, kCount>(factors.slope, share.channel);
  Cursor<const Storage, kPlain, true> from_x(x, walk, share), from_grad(grad_y, walk, share);
  Cursor<Storage, kPlain, true> to(grad_x, walk, share);
#pragma unroll 1
  for (int step = 0; step < share.steps; step += kAtOnce) {
    Pack<Storage, kCount> values[kAtOnce], grads[kAtOnce];
    load_next<kCount, kPlain>(from_x, share.steps - step, values);
    load_next<kCount, kPlain>(from_grad, share.steps - step, grads);
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      if (step + p >= share.steps) break;
      Value result[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const Value value = number(values[p].element(i));
        const Value centred = at_least(value, lowest) - mean.element(i);
        const Value grad =
            number(grads[p].element(i)) * scale.element(i) + offset.element(i) + centred * slope.element(i);
        result[i] = relu && value <= 0 ? Value{0} : grad;
      }
      store_channels<Storage, kCount, kPlain>(to.at(), pack_of<Storage, kCount>(result));
      to.next();
    }
  }
}

// ---- over the sums of tiles -----------------------------------------------------------------------------------------

// Mean and squares of all tiles together: around the mean of the first tile, their sums can be added.
template <class Value>
__global__ void __launch_bounds__(kThreads)
    statistics_kernel(TileWalk walk, std::int64_t images, double eps,
                      const double* __restrict__ moments /* [B * tiles, 2, C] */, const Value* __restrict__ weight,
                      const Value* __restrict__ bias, Value* __restrict__ mean, Value* __restrict__ rstd,
                      ChannelFactors factors) {
  const ThreadLayout layout{kTilesTogether, kChannelsTogether, true};
  const int lane = pixel_of_thread(layout), pack = pack_of_thread(layout);
  const std::int64_t channels = walk.channels;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * kChannelsTogether + pack;
  double first[1]{}, second[1]{};
  double centre = 0;
  if (channel < channels) {
    centre = moments[channel];
    const std::int64_t tiles = images * walk.tiles;
#pragma unroll 4
    for (std::int64_t tile = lane; tile < tiles; tile += kTilesTogether) {
      const double* of_tile = moments + tile * 2 * channels + channel;
      const std::int64_t begin = static_cast<unsigned>(tile) % walk.tiles * walk.tile_pixels;
      const auto count = static_cast<double>(min(walk.tile_pixels, walk.pixels - begin));
      const double away = of_tile[0] - centre;
      first[0] += count * away;
      second[0] += of_tile[channels] + count * away * away;
    }
  }
  sum_over_pixels<1>(layout, lane, pack, first, second);
  if (lane != 0) return;
  Value factor_mean = 0, factor_scale = 0, factor_offset = 0;
  if (channel < channels) {
    const auto count = static_cast<double>(images * walk.pixels);
    const double away = first[0] / count;
    const double squares = second[0] - away * first[0];
    const double variance = squares < 0 ? 0 : squares / count;
    factor_mean = static_cast<Value>(centre + away);
    const auto deviation = static_cast<Value>(1 / sqrt(variance + eps));
    mean[channel] = factor_mean;
    rstd[channel] = deviation;
    factor_scale = weight[channel] * deviation;
    factor_offset = bias[channel];
  }
  static_cast<Value*>(factors.mean)[channel] = factor_mean;
  static_cast<Value*>(factors.scale)[channel] = factor_scale;
  static_cast<Value*>(factors.offset)[channel] = factor_offset;
}

template <class Value>
__global__ void __launch_bounds__(kThreads)
    gradient_factors_kernel(std::int64_t channels, std::int64_t parts, double count,
                            const double* __restrict__ sums /* [parts, 2, C] */, const Value* __restrict__ weight,
                            const Value* __restrict__ mean, const Value* __restrict__ rstd,
                            Value* __restrict__ grad_weight, Value* __restrict__ grad_bias, ChannelFactors factors) {
  const ThreadLayout layout{kTilesTogether, kChannelsTogether, true};
  const int lane = pixel_of_thread(layout), pack = pack_of_thread(layout);
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * kChannelsTogether + pack;
  double grad[1]{}, grad_centred[1]{};
  if (channel < channels) {
#pragma unroll 4
    for (std::int64_t part = lane; part < parts; part += kTilesTogether) {
      grad[0] += sums[part * 2 * channels + channel];
      grad_centred[0] += sums[(part * 2 + 1) * channels + channel];
    }
  }
  sum_over_pixels<1>(layout, lane, pack, grad, grad_centred);
  if (lane != 0) return;
  Value factor_mean = 0;
  double scale = 0, offset = 0, slope = 0;
  if (channel < channels) {
    const auto deviation = static_cast<double>(rstd[channel]);
    factor_mean = mean[channel];
    scale = static_cast<double>(weight[channel]) * deviation;
    offset = -scale * grad[0] / count;
    slope = -scale * deviation * deviation * grad_centred[0] / count;
    grad_bias[channel] = static_cast<Value>(grad[0]);
    grad_weight[channel] = static_cast<Value>(grad_centred[0] * deviation);
  }
  static_cast<Value*>(factors.mean)[channel] = factor_mean;
  static_cast<Value*>(factors.scale)[channel] = static_cast<Value>(scale);
  static_cast<Value*>(factors.offset)[channel] = static_cast<Value>(offset);
  static_cast<Value*>(factors.slope)[channel] = static_cast<Value>(slope);
}

#undef DYNAMICSEG_NORM_KERNEL

}  // namespace dynamicseg
