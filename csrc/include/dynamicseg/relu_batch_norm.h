// ReLU and batch norm in one, with the statistics of the batch at hand: the interface of its kernels.
//
//   r = max(x, 0), or x where there is no ReLU                                    a NaN stays a NaN
//   mean[c], variance[c] of r[:,c,:,:]                                            biased: over the number of values
//   rstd[c] = 1 / sqrt(variance[c] + eps)
//   y = weight[c] * (r - mean[c]) * rstd[c] + bias[c]
//
// Backward, with n values in a channel and centred = r - mean[c]:
//   grad_bias[c] = sum grad_y, grad_weight[c] = rstd[c] * sum grad_y * centred
//   grad_r = weight[c] * rstd[c] * (grad_y - grad_bias[c] / n - centred * rstd[c] * grad_weight[c] / n)
//   grad_x = grad_r where x > 0 or x is a NaN, else 0
#pragma once

#include <cstdint>

#include "dynamicseg/types.h"

namespace dynamicseg {

// `Statistic` arrays are float64 if the map is, else float32. All maps have one dtype and one format.
struct ReluBatchNormParams {
  const void* x;  // [B, C, H, W], `dtype`, `strides`; at least one value in a channel
  DType dtype;
  MemoryFormat format;
  MapShape shape;
  MapStrides strides;
  bool relu;
  double eps;

  const void* weight;  // [C], Statistic
  const void* bias;    // [C], Statistic; read by the forward pass

  void* mean;  // [C], Statistic; written by the forward pass, read by the backward pass
  void* rstd;  // [C], Statistic; the same

  void* y;  // [B, C, H, W], `dtype`, `y_strides`; written by the forward pass
  MapStrides y_strides;

  const void* grad_y;  // [B, C, H, W], `dtype`, `grad_y_strides`; read by the backward pass
  MapStrides grad_y_strides;
  void* grad_x;  // [B, C, H, W], `dtype`, `grad_x_strides`; may be `grad_y`
  MapStrides grad_x_strides;
  void* grad_weight;  // [C], Statistic
  void* grad_bias;    // [C], Statistic
};

void relu_batch_norm_cpu(const ReluBatchNormParams& params);

// From x, weight, mean and rstd alone: the result of the ReLU is computed again.
void relu_batch_norm_backward_cpu(const ReluBatchNormParams& params);

// The same on the GPU. All pointers are to its memory; nothing is waited for.
std::int64_t relu_batch_norm_workspace_bytes(const ReluBatchNormParams& params);
void launch_relu_batch_norm(const ReluBatchNormParams& params, const CudaLaunch& where);
void launch_relu_batch_norm_backward(const ReluBatchNormParams& params, const CudaLaunch& where);

}  // namespace dynamicseg
