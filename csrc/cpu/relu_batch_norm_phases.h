// The parts of relu_batch_norm that are also parts of another op.
#pragma once

#include <cstdint>
#include <vector>

#include "dynamicseg/relu_batch_norm.h"

namespace dynamicseg {

// Of the gradient over all pixels, channel by channel: sum of grad_y, and of grad_y * (r - mean). Each [C].
struct GradientSums {
  std::vector<double> grad;
  std::vector<double> grad_centred;
};

// Reads x, writes mean and rstd.
void write_statistics(const ReluBatchNormParams& params);

// Reads x, grad_y, weight, mean and rstd; writes grad_x, grad_weight and grad_bias.
void write_gradients(const ReluBatchNormParams& params, const GradientSums& sums);

}  // namespace dynamicseg
