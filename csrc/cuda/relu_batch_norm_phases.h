// The parts of relu_batch_norm on the GPU that are also parts of another op. Nothing is waited for.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "dynamicseg/relu_batch_norm.h"

namespace dynamicseg {

// Arrays of one element a channel have room for a whole pack behind the last channel; 0 stands there.
constexpr std::int64_t padded_channels(std::int64_t channels) { return (channels + 15) / 16 * 16; }

// What each channel is computed with: Statistic arrays of padded_channels(C) elements.
//   normalise   (r - mean) * scale + offset                          scale = weight * rstd, offset = bias
//   gradient    grad_y * scale + offset + (r - mean) * slope         scale = weight * rstd
struct ChannelFactors {
  void* mean;
  void* scale;
  void* offset;
  void* slope;  // of the gradient alone
};

// A part of the workspace of `where`.
ChannelFactors take_channel_factors(Carver& carver, const ReluBatchNormParams& params);

// [B * tiles, 2, C]: what the tiles of a map sum up, in the order of tiles. A part of the workspace.
double* take_sums_of_tiles(Carver& carver, const ReluBatchNormParams& params);

// Reads x, weight and bias; writes mean, rstd and the factors of `normalise`.
void launch_statistics(const ReluBatchNormParams& params, double* sums_of_tiles, const ChannelFactors& factors,
                       const CudaLaunch& where);

// Adds up [parts, 2, C], of the gradient and of the gradient times (r - mean), part after part. Reads weight, mean and
// rstd; writes grad_weight, grad_bias and the factors of `gradient`.
void launch_gradient_factors(const ReluBatchNormParams& params, const double* sums, std::int64_t parts,
                             const ChannelFactors& factors, const CudaLaunch& where);

}  // namespace dynamicseg
