// The dynamically weighted loss: the interface of its kernels.
//
//   labels      l[b,h,w] = argmax_c x[b,c,h,w]                       the lowest channel on a tie; NaN wins
//   similarity  S[b] = mean over pixels of (logsumexp_c x - x[l])
//   continuity  T[b] = mean |x[:,:,1:,:] - x[:,:,:-1,:]| + mean |x[:,:,:,1:] - x[:,:,:,:-1]|
//   loss        L[b] = S[b] + weight[b] * T[b]                        weight: see Weighting in types.h
//
// Masked pixels enter no term, and a neighbour pair counts only where both ends are valid. With superpixels, the label
// of a pixel is the most frequent argmax among the valid pixels of its superpixel, the lowest on a tie.
#pragma once

#include <cstdint>

#include "dynamicseg/types.h"

namespace dynamicseg {

// `Statistic` arrays are float64 if the map is, else float32.
struct DynamicLossParams {
  // The map of responses (logits).
  const void* x;  // [B, C, H, W], `dtype`, `strides`
  DType dtype;
  MemoryFormat format;
  MapShape shape;
  MapStrides strides;

  // The responses are (x - mean) * scale + offset, channel by channel, in place of x; all null: they are x itself.
  // The gradient is that of the responses all the same. Each [C], Statistic, and room for one vector behind it.
  const void* mean;
  const void* scale;
  const void* offset;

  const std::uint8_t* mask;  // [B, H, W] dense, nonzero: data, zero: not data; null: all are data

  const std::int32_t* superpixels;  // [B, H, W] dense, 0 .. superpixel_count - 1; null: none
  std::int64_t superpixel_count;    // of the image that has most

  Weighting weighting;
  double mu;

  // Written by the forward pass; labels, logsumexp and weight are read by the backward pass.
  std::int64_t* labels;        // [B, H, W] dense; -1 where masked
  void* logsumexp;             // [B, H, W] dense, Statistic
  std::int64_t* label_counts;  // [B], number of distinct labels K
  void* similarity;            // [B], Statistic
  void* continuity;            // [B], Statistic
  void* weight;                // [B], Statistic
  void* loss;                  // [B], Statistic

  // Written by the backward pass; null: not wanted.
  void* grad_x;  // [B, C, H, W], `dtype`, `grad_strides`, same format as x
  MapStrides grad_strides;
  const void* grad_loss;  // [B], Statistic: the gradient that arrives for each image's loss
};

// Forward, and backward as well where `grad_x` is given.
void dynamic_loss_cpu(const DynamicLossParams& params);

// Backward alone, from the labels, logsumexp and weight that a forward pass has written.
void dynamic_loss_backward_cpu(const DynamicLossParams& params);

// The same on the GPU. All pointers are to its memory; nothing is waited for.
std::int64_t dynamic_loss_workspace_bytes(const DynamicLossParams& params);
void launch_dynamic_loss(const DynamicLossParams& params, const CudaLaunch& where);
void launch_dynamic_loss_backward(const DynamicLossParams& params, const CudaLaunch& where);

}  // namespace dynamicseg
