// batch_norm_dynamic_loss on the CPU: the statistics of relu_batch_norm, then dynamic_loss, which normalises what it
// reads and leaves the gradient of the normalised map where the gradient of z belongs, and then, in place, the gradient
// of the normalisation.

#include "dynamicseg/batch_norm_dynamic_loss.h"

#include "cpu/dynamic_loss_phases.h"
#include "cpu/relu_batch_norm_phases.h"
#include "cpu/statistic.h"

namespace dynamicseg {

void batch_norm_dynamic_loss_cpu(const BatchNormDynamicLossParams& params) {
  DynamicLossParams loss = params.loss;
  const std::int64_t channels = loss.shape.channels;
  ChannelArray mean(loss.dtype, channels), rstd(loss.dtype, channels);
  ChannelArray scale(loss.dtype, channels), offset(loss.dtype, channels);

  ReluBatchNormParams norm{};
  norm.x = loss.x;
  norm.dtype = loss.dtype;
  norm.format = loss.format;
  norm.shape = loss.shape;
  norm.strides = loss.strides;
  norm.relu = false;
  norm.eps = params.eps;
  norm.weight = params.weight;
  norm.bias = params.bias;
  norm.mean = mean.data();
  norm.rstd = rstd.data();
  write_statistics(norm);

  for (std::int64_t c = 0; c < channels; ++c) {
    scale.set(c, read_statistic(params.weight, loss.dtype, c) * read_statistic(rstd.data(), loss.dtype, c));
    offset.set(c, read_statistic(params.bias, loss.dtype, c));
  }
  loss.mean = mean.data();
  loss.scale = scale.data();
  loss.offset = offset.data();
  const GradientSums sums = dynamic_loss_with_grad_sums(loss);

  norm.grad_y = norm.grad_x = loss.grad_x;
  norm.grad_y_strides = norm.grad_x_strides = loss.grad_strides;
  norm.grad_weight = params.grad_weight;
  norm.grad_bias = params.grad_bias;
  write_gradients(norm, sums);
}

}  // namespace dynamicseg
