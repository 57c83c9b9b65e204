// How a call of dynamic_loss is cut into tiles, and the workspace that its phases share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/block.h"
#include "cuda/launch.h"
#include "cuda/packs.h"
#include "dynamicseg/dynamic_loss.h"

namespace dynamicseg {

// Everything that the kernels know besides DynamicLossParams. Integers are sums, so that atomic additions to them may
// come in any order; floating-point sums are kept tile by tile, and added up in the order of tiles.
struct DynamicLossPlan {
  // Phase `label` works on runs of pixels: so many of an image, each pixel by so many lanes of a warp.
  std::int64_t run_pixels, runs;
  int lanes;

  // Phase `measure` works on tiles: so many rows and columns, so many tiles across and in all of an image.
  ThreadLayout threads;
  std::int64_t tile_rows, across, tiles;

  // Set to zero before the first phase.
  std::uint32_t* alive;       // [B, ceil(C / 32)], a bit for each label
  unsigned long long* valid;  // [B, 3]: valid pixels, vertical and horizontal pairs; only with a mask
  unsigned* measured;         // [B], tiles that have been measured
  int* histograms;            // [B, superpixel_count, C]; only with superpixels
  std::int64_t bytes_to_zero;

  int* targets;         // [B, superpixel_count], their most frequent label; only with superpixels
  double* similarity;   // [B, runs]
  double* differences;  // [B, tiles, 3]: similarity to targets; vertical, horizontal
  double* grad_sums;    // [B, tiles, 2, C]: of the gradient, and of the gradient times (x - mean)
};

}  // namespace dynamicseg
