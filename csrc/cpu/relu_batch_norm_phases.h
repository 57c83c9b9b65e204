// The parts of relu_batch_norm that are also parts of another op.
#pragma once

#include "cpu/gradient_sums.h"
#include "dynamicseg/relu_batch_norm.h"

namespace dynamicseg {

// Reads x, writes mean and rstd.
void write_statistics(const ReluBatchNormParams& params);

// Reads x, grad_y, weight, mean and rstd; writes grad_x, grad_weight and grad_bias.
void write_gradients(const ReluBatchNormParams& params, const GradientSums& sums);

}  // namespace dynamicseg
