// What the threads of a block do with a tile of a map: where each begins, how it walks, what it reads and sums up.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block.h"
#include "cuda/packs.h"
#include "cuda/relu_batch_norm_plan.h"

namespace dynamicseg {

// max(value, lowest), where a NaN stays a NaN. With a `lowest` of -infinity it is the value itself.
__device__ __forceinline__ float at_least(float value, float lowest) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float greater;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(greater) : "f"(value), "f"(lowest));
  return greater;
#else
  return value < lowest ? lowest : value;
#endif
}
__device__ __forceinline__ double at_least(double value, double lowest) { return value < lowest ? lowest : value; }

// A pack of more than one channel is one of a channels-last map, where channels lie side by side.
template <class Storage, int kCount, bool kPlain>
__device__ __forceinline__ Pack<Storage, kCount> load_channels(const Storage* at) {
  Pack<Storage, kCount> pack{};
  if constexpr (kPlain) {
    pack = *reinterpret_cast<const Pack<Storage, kCount>*>(at);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) pack.set_element(i, at[i]);
  }
  return pack;
}

template <class Storage, int kCount, bool kPlain>
__device__ __forceinline__ void store_channels(Storage* at, const Pack<Storage, kCount>& pack) {
  if constexpr (kPlain) {
    *reinterpret_cast<Pack<Storage, kCount>*>(at) = pack;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) at[i] = pack.element(i);
  }
}

// One of the arrays of ChannelFactors, from a channel on that is the first one of a pack.
template <class Value, int kCount>
__device__ __forceinline__ Pack<Value, kCount> factors_from(const void* array, int channel) {
  return *reinterpret_cast<const Pack<Value, kCount>*>(static_cast<const Value*>(array) + channel);
}

// A thread's share of its block's tile: every threads.pixels-th pixel, and one pack of each.
struct TileShare {
  std::int64_t image, tile;  // `tile` among those of all images
  std::int64_t begin;        // first pixel of the tile in its image
  int tile_pixels;
  int pixel, pack;  // of those that the block works on at once
  int channel;      // first one of the pack
  int steps;        // pixels of this thread; 0 where there is none left for it
};

template <int kCount>
__device__ __forceinline__ TileShare share_of_thread(const TileWalk& walk, unsigned block) {
  TileShare share;
  const unsigned tile = block % walk.tiles;
  const unsigned group = block / walk.tiles % walk.groups;
  share.image = block / walk.tiles / walk.groups;
  share.tile = share.image * walk.tiles + tile;
  share.begin = tile * walk.tile_pixels;
  share.tile_pixels = static_cast<int>(min(walk.tile_pixels, walk.pixels - share.begin));
  share.pixel = pixel_of_thread(walk.threads);
  share.pack = pack_of_thread(walk.threads);
  const std::int64_t channel = (static_cast<std::int64_t>(group) * walk.threads.packs + share.pack) * kCount;
  share.channel = static_cast<int>(channel);
  const bool works = share.pixel < walk.threads.pixels && share.pack < walk.threads.packs && channel < walk.channels;
  share.steps = works ? (share.tile_pixels - share.pixel + walk.threads.pixels - 1) / walk.threads.pixels : 0;
  return share;
}

// Where a thread is in a map. Backwards, it begins with the last of its pixels.
template <class Storage, bool kPlain, bool kBackwards>
class Cursor {
 public:
  __device__ __forceinline__ Cursor(const MapWalk<Storage>& map, const TileWalk& walk, const TileShare& share)
      : map_(map), walk_(walk) {
    std::int64_t pixel = share.begin + share.pixel;
    if constexpr (kBackwards) pixel += static_cast<std::int64_t>(share.steps - 1) * walk.threads.pixels;
    at_ = map.map + share.image * map.strides.batch + share.channel * map.strides.channel;
    if constexpr (kPlain) {
      at_ += pixel * map.strides.width;
    } else {
      column_ = pixel % walk.row_length;
      at_ += pixel / walk.row_length * map.strides.height + column_ * map.strides.width;
    }
  }

  __device__ __forceinline__ Storage* at() const { return at_; }

  __device__ __forceinline__ void next() {
    at_ += kBackwards ? -map_.step : map_.step;
    if constexpr (!kPlain) {
      column_ += kBackwards ? -walk_.step_columns : walk_.step_columns;
      if (kBackwards ? column_ >= 0 : column_ < walk_.row_length) return;
      column_ += kBackwards ? walk_.row_length : -walk_.row_length;
      at_ += kBackwards ? -map_.wrap : map_.wrap;
    }
  }

 private:
  const MapWalk<Storage>& map_;
  const TileWalk& walk_;
  std::int64_t column_ = 0;
  Storage* at_;
};

// Reads what comes next in a map: at most kAtOnce packs, and no more than the thread has left.
template <int kCount, bool kPlain, int kAtOnce, class Cursor, class Storage>
__device__ __forceinline__ void load_next(Cursor& cursor, int left, Pack<Storage, kCount> (&packs)[kAtOnce]) {
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (i < left) packs[i] = load_channels<Storage, kCount, kPlain>(cursor.at());
    cursor.next();
  }
}

// Sums over the pixels that a block works on at once, for the threads of its first pixel; always in the same order. All
// threads call it.
template <int kCount>
__device__ __forceinline__ void sum_over_pixels(const ThreadLayout& layout, int pixel, int pack,
                                                double (&first)[kCount], double (&second)[kCount]) {
  __shared__ double upper[2][kCount][kThreads / 2];
  const bool works = pixel < layout.pixels && pack < layout.packs;
  int half = 1;
  while (2 * half < layout.pixels) half *= 2;
  for (; half > 0; half /= 2) {
    __syncthreads();
    if (works && half <= pixel && pixel < 2 * half) {
      const int slot = (pixel - half) * layout.packs + pack;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        upper[0][i][slot] = first[i];
        upper[1][i][slot] = second[i];
      }
    }
    __syncthreads();
    if (works && pixel < half && pixel + half < layout.pixels) {
      const int slot = pixel * layout.packs + pack;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        first[i] += upper[0][i][slot];
        second[i] += upper[1][i][slot];
      }
    }
  }
}

// Two sums of each channel of a thread over the pixels of its tile: calls summands(i, first, second) for those of the
// thread and totals(i, first, second) for those of the block, with the threads of its first pixel. Of 8 channels two at
// a time: all of them would not fit into the registers.
template <int kCount, class Summands, class Totals>
__device__ __forceinline__ void sum_tile(const TileWalk& walk, const TileShare& share, Summands summands,
                                         Totals totals) {
  constexpr int kTogether = kCount == 8 ? 2 : kCount;
#pragma unroll
  for (int begin = 0; begin < kCount; begin += kTogether) {
    double first[kTogether]{}, second[kTogether]{};
    if (share.steps > 0) {
#pragma unroll
      for (int i = 0; i < kTogether; ++i) summands(begin + i, first[i], second[i]);
    }
    sum_over_pixels<kTogether>(walk.threads, share.pixel, share.pack, first, second);
    if (share.pixel == 0 && share.steps > 0) {
#pragma unroll
      for (int i = 0; i < kTogether; ++i) totals(begin + i, first[i], second[i]);
    }
  }
}

}  // namespace dynamicseg
