// The dynamically weighted loss: the interface of its kernels.
//
//   labels      l[b,h,w] = argmax_c x[b,c,h,w]                       the lowest channel on a tie; NaN wins
//   similarity  S[b] = mean over pixels of (logsumexp_c x - x[l])
//   continuity  T[b] = mean |x[:,:,1:,:] - x[:,:,:-1,:]| + mean |x[:,:,:,1:] - x[:,:,:,:-1]|
//   loss        L[b] = S[b] + weight[b] * T[b]                        weight: see Weighting in types.h
//
// Optional, and off by default:
//   scribbles   S[b] is over the pixels without a scribble; L[b] += scribble_weight * mean over the others of
//               (logsumexp_c x - x[scribble])
//   guide       L[b] += guide_weight[b] * mean over the pixels that have a guide of (logsumexp_c x - x[guide])
//   diagonals   T[b] += mean |x[:,:,1:,1:] - x[:,:,:-1,:-1]| + mean |x[:,:,1:,:-1] - x[:,:,:-1,1:]|
//   Continuity  what is between the bars in T[b], see types.h
// Labels and their count stay those of the map.
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

  // Labels drawn by hand, and those of another model, 0 .. C - 1; any other number, -1 above all, is none.
  const std::int64_t* scribbles;  // [B, H, W] dense; null: none
  const std::int64_t* guide;      // [B, H, W] dense; null: none
  const void* guide_weight;       // [B], Statistic, >= 0; null where there is no guide
  double scribble_weight;

  Weighting weighting;
  double mu;
  std::int64_t label_floor;    // >= 1: the weight is that of this many labels at least
  Continuity continuity_kind;  // of the differences in T
  bool diagonals;

  // Written by the forward pass; labels, logsumexp and weight are read by the backward pass.
  std::int64_t* labels;        // [B, H, W] dense; -1 where masked
  void* logsumexp;             // [B, H, W] dense, Statistic
  std::int64_t* label_counts;  // [B], number of distinct labels K
  void* similarity;            // [B], Statistic
  void* continuity;            // [B], Statistic
  void* weight;                // [B], Statistic
  void* loss;                  // [B], Statistic
  // Means, without their weights; 0 where no pixel has a scribble, or a guide.
  void* scribble_cross_entropy;  // [B], Statistic
  void* guide_cross_entropy;     // [B], Statistic

  // Written by the backward pass; null: not wanted.
  void* grad_x;  // [B, C, H, W], `dtype`, `grad_strides`, same format as x
  MapStrides grad_strides;
  const void* grad_loss;  // [B], Statistic: the gradient that arrives for each image's loss
};

// Forward, and backward as well where `grad_x` is given.
void dynamic_loss_cpu(const DynamicLossParams& params);

// Backward alone, from the labels, logsumexp and weight that a forward pass has written; of what is optional it reads
// all but label_floor.
void dynamic_loss_backward_cpu(const DynamicLossParams& params);

// The same on the GPU. All pointers are to its memory; nothing is waited for.
std::int64_t dynamic_loss_workspace_bytes(const DynamicLossParams& params);
void launch_dynamic_loss(const DynamicLossParams& params, const CudaLaunch& where);
void launch_dynamic_loss_backward(const DynamicLossParams& params, const CudaLaunch& where);

}  // namespace dynamicseg
