// What the driver of relu_batch_norm asks of the code that is compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "cpu/gradient_sums.h"
#include "dynamicseg/relu_batch_norm.h"

namespace dynamicseg {

// A run of pixels of one image, counted row after row. Runs, and with them the order of every sum, follow from the
// shape of the map alone, never from the number of threads.
struct PixelRun {
  std::int64_t image;
  std::int64_t begin, end;
  // Pixels that lie at equal distances: those of a row; where nothing is summed, of the whole image if no map has gaps
  // between its rows.
  std::int64_t row_length;
};

// A run has at most this many pixels: one channel of a contiguous map then fits into the first-level cache, so that the
// mean and the squares around it are taken from there.
constexpr std::int64_t kRunPixels = 4096;

// Of the values of one run, channel by channel: their mean, and the sum of their squares around it.
struct Moments {
  double* mean;     // [C]
  double* squares;  // [C]
};

// What each channel is computed with: Statistic arrays of C elements, and room for one vector behind them.
//   normalise   (r - mean) * scale + offset
//   grad        grad_y * scale + offset + (r - mean) * slope
struct ChannelFactors {
  const void* mean;
  const void* scale;
  const void* offset;
  const void* slope;
};

struct ReluBatchNormKernels {
  void (*moments)(const ReluBatchNormParams& params, const PixelRun& run, const Moments& moments);
  void (*normalise)(const ReluBatchNormParams& params, const PixelRun& run, const ChannelFactors& factors, bool stream);
  void (*sums)(const ReluBatchNormParams& params, const PixelRun& run, const PartialGradientSums& sums);
  void (*grad)(const ReluBatchNormParams& params, const PixelRun& run, const ChannelFactors& factors, bool stream);
};

namespace baseline {
ReluBatchNormKernels relu_batch_norm_kernels(const ReluBatchNormParams& params);
}
#if defined(DYNAMICSEG_X86_64)
namespace avx2 {
ReluBatchNormKernels relu_batch_norm_kernels(const ReluBatchNormParams& params);
}
namespace avx512 {
ReluBatchNormKernels relu_batch_norm_kernels(const ReluBatchNormParams& params);
}
#endif

}  // namespace dynamicseg
