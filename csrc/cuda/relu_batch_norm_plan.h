// How a call of relu_batch_norm is cut into tiles, one to a block, and how its threads walk through them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/block.h"
#include "cuda/launch.h"
#include "cuda/packs.h"
#include "dynamicseg/relu_batch_norm.h"

namespace dynamicseg {

// Blocks of every kernel that a multiprocessor holds at the same time: __launch_bounds__ sees to it.
constexpr int kBlocksTogether = 4;

// All follows from the shape of the map, its type and the number of multiprocessors, and so does the order of every
// sum: not from addresses or strides.
struct NormPlan {
  int count;                        // channels of a pack: 16 bytes of them, 8, or 1; it divides C. Of contiguous maps 1
  ThreadLayout threads;             // neighbouring pixels, and packs of a group
  std::int64_t groups;              // of packs
  std::int64_t pixels;              // of an image
  std::int64_t tile_pixels, tiles;  // of an image; the last tile may be shorter
  std::int64_t blocks;              // images * groups * tiles
};

// The channels that a thread reads at once.
inline int pack_count(const ReluBatchNormParams& params) {
  if (params.format == MemoryFormat::contiguous) return 1;
  const int whole = static_cast<int>(16 / bytes_of(params.dtype));
  if (params.shape.channels % whole == 0) return whole;
  return params.shape.channels % (whole / 2) == 0 ? whole / 2 : 1;
}

// The number of tiles of an image: enough to fill the device, and so many that its last wave of blocks is nearly full.
inline std::int64_t tiles_of_image(std::int64_t steps, std::int64_t images_and_groups, int multiprocessors) {
  constexpr std::int64_t kLeastSteps = 8;    // of a thread: fewer, and what a tile costs besides them shows
  constexpr std::int64_t kMostSteps = 1024;  // more, and a float32 sum of them loses digits
  constexpr double kNearlyFull = 0.95;
  const std::int64_t wave = static_cast<std::int64_t>(multiprocessors) * kBlocksTogether;
  const std::int64_t least = ceil_div(steps, kMostSteps);
  const std::int64_t most = std::max(least, steps / kLeastSteps);
  const std::int64_t first = std::clamp(wave / images_and_groups, least, most);
  const std::int64_t last = std::clamp(first + 8 * wave / images_and_groups, least, most);
  std::int64_t best = first;
  double best_use = 0;
  for (std::int64_t tiles = first; tiles <= last && best_use < kNearlyFull; ++tiles) {
    const std::int64_t blocks = images_and_groups * tiles;
    const double use = static_cast<double>(blocks) / static_cast<double>(ceil_div(blocks, wave) * wave);
    if (use > best_use) {
      best = tiles;
      best_use = use;
    }
  }
  return best;
}

inline NormPlan norm_plan(const ReluBatchNormParams& params) {
  const MapShape& shape = params.shape;
  NormPlan plan{};
  plan.count = pack_count(params);
  plan.pixels = shape.height * shape.width;
  const std::int64_t packs = shape.channels / plan.count;
  plan.threads = thread_layout(params.format, ceil_div(packs, ceil_div(packs, kThreads)), plan.pixels);
  plan.groups = ceil_div(packs, plan.threads.packs);
  const std::int64_t tiles = tiles_of_image(ceil_div(plan.pixels, plan.threads.pixels), shape.batch * plan.groups,
                                            current_device().multiprocessors);
  plan.tile_pixels = ceil_div(plan.pixels, tiles);
  plan.tiles = ceil_div(plan.pixels, plan.tile_pixels);
  plan.blocks = shape.batch * plan.groups * plan.tiles;
  return plan;
}

// One map, and how a thread gets from one of its pixels to its next one in the tile. In elements.
template <class Storage>
struct MapWalk {
  Storage* map;
  MapStrides strides;
  std::int64_t step;  // to the next pixel of the thread, where that is ...
  std::int64_t wrap;  // ... and to be added where it is beyond the end of a row
};

// The tiles of a map as the kernels know them.
struct TileWalk {
  ThreadLayout threads;
  unsigned groups, tiles;
  std::int64_t channels, pixels, tile_pixels;
  std::int64_t row_length;    // of the image if no map has gaps between its rows
  std::int64_t step_columns;  // columns from one pixel of a thread to its next
};

template <class Storage>
MapWalk<Storage> walk_of(Storage* map, const MapStrides& strides, const TileWalk& tiles) {
  const std::int64_t rows = tiles.threads.pixels / tiles.row_length;
  return {map, strides, rows * strides.height + tiles.step_columns * strides.width,
          strides.height - tiles.row_length * strides.width};
}

inline TileWalk tile_walk(const NormPlan& plan, const MapShape& shape, bool plain) {
  const std::int64_t row_length = plain ? plan.pixels : shape.width;
  return {plan.threads,
          static_cast<unsigned>(plan.groups),
          static_cast<unsigned>(plan.tiles),
          shape.channels,
          plan.pixels,
          plan.tile_pixels,
          row_length,
          plan.threads.pixels % row_length};
}

}  // namespace dynamicseg
