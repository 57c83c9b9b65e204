// What the driver of dynamic_loss asks of the code that is compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "cpu/gradient_sums.h"
#include "dynamicseg/dynamic_loss.h"

namespace dynamicseg {

// The pixels of one image that one call works on. Tiles, and with them the order of every sum, follow from the shape of
// the map alone, never from the number of threads: that is what makes results the same bits from run to run.
struct Tile {
  std::int64_t image;
  std::int64_t row_begin, row_end;
  std::int64_t column_begin, column_end;
};

// A tile has at most this many pixels and columns: the running maximum, sum and label of its pixels stay in the
// first-level cache while the channels of a contiguous map stream by.
constexpr std::int64_t kTilePixels = 4096;
constexpr std::int64_t kTileColumns = 2048;

// The pairs of neighbours in the continuity. A pair belongs to its upper pixel, or to its left one in a row.
enum Direction : int { kVertical, kHorizontal, kFalling, kRising };  // the last two: with the pixel below to the right,
constexpr int kDirections = 4;                                       // and to the left

// Sums over a tile.
struct TileSums {
  double similarity, scribble, guide;  // cross-entropies
  double differences[kDirections];
};

// What an element of the gradient is made of, for one image: grad_loss, times the weight of the term, over the number
// of pixels, or of elements, in the mean.
struct GradientScales {
  double similarity, scribble, guide;
  double differences[kDirections];
};

struct DynamicLossKernels {
  // For a call that wants the gradient as well: the labels of a tile, setting the bit of each in `alive`; and when the
  // labels of all tiles are known, its sums and gradient, in one reading of the map. Where `label` is null there is no
  // such pair, and the pair below does that as well, in as many readings but with more arithmetic. Where there are
  // superpixels, whose labels are not the argmax, `label` leaves the greatest response of each pixel in logsumexp.
  void (*label)(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive);
  TileSums (*measure)(const DynamicLossParams& params, const Tile& tile, const GradientScales& scales, bool stream,
                      const PartialGradientSums& grad_sums);
  // Labels, logsumexp and the sums of a tile; sets the bit of each label in `alive`, of ceil(C / 64) words.
  TileSums (*forward)(const DynamicLossParams& params, const Tile& tile, std::uint64_t* alive);
  // The gradient of a tile. `stream`: write past the caches.
  void (*backward)(const DynamicLossParams& params, const Tile& tile, const GradientScales& scales, bool stream,
                   const PartialGradientSums& grad_sums);
};

// The second of each pair: for maps that are normalised as they are read.
namespace baseline {
DynamicLossKernels dynamic_loss_kernels(const DynamicLossParams& params);
DynamicLossKernels batch_norm_dynamic_loss_kernels(const DynamicLossParams& params);
}  // namespace baseline
#if defined(DYNAMICSEG_X86_64)
namespace avx2 {
DynamicLossKernels dynamic_loss_kernels(const DynamicLossParams& params);
DynamicLossKernels batch_norm_dynamic_loss_kernels(const DynamicLossParams& params);
}  // namespace avx2
namespace avx512 {
DynamicLossKernels dynamic_loss_kernels(const DynamicLossParams& params);
DynamicLossKernels batch_norm_dynamic_loss_kernels(const DynamicLossParams& params);
}  // namespace avx512
#endif

}  // namespace dynamicseg
