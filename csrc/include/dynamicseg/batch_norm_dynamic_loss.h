// The last batch norm of a network and the dynamically weighted loss of what it gives, in one: the interface.
//
//   x = weight[c] * (z - mean[c]) * rstd[c] + bias[c]     as in relu_batch_norm.h, without ReLU; over all pixels
//   loss and its gradient as in dynamic_loss.h            masked pixels enter no term of it
//
// x is never written: the loss reads z and normalises as it reads.
#pragma once

#include "dynamicseg/dynamic_loss.h"

namespace dynamicseg {

struct BatchNormDynamicLossParams {
  // Its `x` is z, and its `grad_x`, which must be there, the gradient of z.
  DynamicLossParams loss;
  double eps;

  const void* weight;  // [C], Statistic
  const void* bias;    // [C], Statistic

  void* grad_weight;  // [C], Statistic
  void* grad_bias;    // [C], Statistic
};

// Forward and backward.
void batch_norm_dynamic_loss_cpu(const BatchNormDynamicLossParams& params);

// The same on the GPU. All pointers are to its memory; nothing is waited for.
std::int64_t batch_norm_dynamic_loss_workspace_bytes(const BatchNormDynamicLossParams& params);
void launch_batch_norm_dynamic_loss(const BatchNormDynamicLossParams& params, const CudaLaunch& where);

}  // namespace dynamicseg
