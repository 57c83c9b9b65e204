// How a call of dynamic_loss is cut into pieces of work, and the workspace that its phases share.
#pragma once

#include <cstdint>

#include "cuda/block.h"
#include "cuda/launch.h"
#include "cuda/packs.h"
#include "dynamicseg/dynamic_loss.h"

namespace dynamicseg {

// The terms of the loss. Each is a mean: of the pixels without a scribble, of the differences of neighbours one below
// the other, side by side, and on the two diagonals, of the pixels with a scribble, and of those that the guide labels.
enum Term : int { kSimilarity, kVertical, kHorizontal, kFalling, kRising, kScribble, kGuide };
constexpr int kAllTerms = 7;

// Whether there is a term that only kernels with options know.
inline bool has_options(const DynamicLossParams& p) {
  return p.scribbles != nullptr || p.guide != nullptr || p.diagonals || p.continuity_kind != Continuity::l1;
}

// Whether elements of terms must be counted: their number does not follow from the size of an image.
__host__ __device__ __forceinline__ bool has_counts(const DynamicLossParams& p) {
  return p.mask != nullptr || p.scribbles != nullptr || p.guide != nullptr;
}

// Everything that the kernels know besides DynamicLossParams. Integers are counted by atomic additions, which may come
// in any order; floating-point sums are kept piece by piece, and added up in the order of pieces.
struct DynamicLossPlan {
  // Phase `label` works on runs of pixels of an image, each pixel by so many lanes of a warp.
  std::int64_t run_pixels, runs;
  int lanes;
  bool equal_distances;  // of pixels, also from one row to the next

  // Phase `measure` works on tiles of so many rows, and of as many columns as `threads` has pixels.
  ThreadLayout threads;
  std::int64_t tile_rows, across, tiles;

  bool labels_are_given;  // with logsumexp and weight, by an earlier call

  // Set to zero before the first phase.
  std::uint32_t* alive;        // [B, ceil(C / 32)], a bit for each label
  unsigned long long* counts;  // [B, kAllTerms]: valid pixels and pairs of pixels; only where has_counts()
  unsigned* measured;          // [B]: tiles that are done
  int* histograms;             // [B, superpixel_count, C]: pixels of each label; only with superpixels
  std::int64_t bytes_to_zero;

  int* targets;        // [B, superpixel_count]: their most frequent label; only with superpixels
  double* similarity;  // [B, runs]
  double* sums;        // [B, tiles, kAllTerms]; without options the first three are written

  // For the batch norm before the loss: sums over each tile of the gradient and of the gradient times (x - mean),
  // [B, tiles, 2, C]; and what comes of them, see relu_batch_norm_phases.h, each [C] and room for a pack behind it.
  double* grad_sums;
  void *gradient_offset, *gradient_slope;
};

// Images whose phases follow one another before those of the next ones begin, so that the second reading of their map
// finds it in the L2 cache.
std::int64_t images_together(const DynamicLossParams& params, const Device& device);

// Carves the workspace, which may be null to learn its size.
DynamicLossPlan dynamic_loss_plan(const DynamicLossParams& params, const Device& device, bool labels_are_given,
                                  Carver& workspace);

}  // namespace dynamicseg
