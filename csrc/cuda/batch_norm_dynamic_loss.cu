// batch_norm_dynamic_loss on the GPU: the statistics of relu_batch_norm, then the phases of dynamic_loss, which
// normalise what they read, then the gradient of z.
//
// Fused besides what dynamic_loss.cu names: the batch norm before the loss, and its backward pass.
// Never written to memory: the normalised map; its gradient, which is computed twice, once for the sums over channels
// that batch norm's backward pass needs and once to be written: reading it again would take longer than computing it.
// Bytes, for a map of n bytes: n read for the statistics, n for the labels, n for the sums, n read and n written for
// the gradient. Where the map of all images fits into the L2 cache, three of the readings come out of that. Besides,
// what dynamic_loss.cu names, where all that is read with the gradient is read a second time, with the sums. Tie rule:
// as there, among responses that are not rounded to the type of the map.

#include "dynamicseg/batch_norm_dynamic_loss.h"

#include "cuda/dynamic_loss_kernels.h"
#include "cuda/relu_batch_norm_phases.h"

namespace dynamicseg {
namespace {

// The call of relu_batch_norm that the statistics and the gradient of the normalisation are part of.
ReluBatchNormParams batch_norm_params(const BatchNormDynamicLossParams& params) {
  ReluBatchNormParams norm{};
  norm.x = params.loss.x;
  norm.dtype = params.loss.dtype;
  norm.format = params.loss.format;
  norm.shape = params.loss.shape;
  norm.strides = params.loss.strides;
  norm.relu = false;
  norm.eps = params.eps;
  norm.weight = params.weight;
  norm.bias = params.bias;
  norm.grad_weight = params.grad_weight;
  norm.grad_bias = params.grad_bias;
  return norm;
}

// What a call works with, all of it in the workspace.
struct Work {
  ReluBatchNormParams norm;
  double* sums_of_tiles;
  ChannelFactors factors, gradient_factors;
  DynamicLossParams loss;
  DynamicLossPlan plan;

  Work(const BatchNormDynamicLossParams& params, const Device& device, Carver& workspace)
      : norm(batch_norm_params(params)),
        sums_of_tiles(take_sums_of_tiles(workspace, norm)),
        factors(take_channel_factors(workspace, norm)),
        gradient_factors(take_channel_factors(workspace, norm)),
        loss(params.loss),
        plan(dynamic_loss_plan(loss, device, false, workspace)) {
    const std::int64_t channels = loss.shape.channels;
    norm.mean = workspace.take<double>(channels);
    norm.rstd = workspace.take<double>(channels);
    loss.mean = factors.mean;
    loss.scale = factors.scale;
    loss.offset = factors.offset;
    plan.grad_sums = workspace.take<double>(loss.shape.batch * plan.tiles * 2 * channels);
    plan.gradient_offset = gradient_factors.offset;
    plan.gradient_slope = gradient_factors.slope;
  }
};

}  // namespace

std::int64_t batch_norm_dynamic_loss_workspace_bytes(const BatchNormDynamicLossParams& params) {
  Carver workspace(nullptr);
  const Work work(params, current_device(), workspace);
  return workspace.bytes();
}

void launch_batch_norm_dynamic_loss(const BatchNormDynamicLossParams& params, const CudaLaunch& where) {
  const Device device = current_device();
  Carver workspace(where.workspace);
  const Work work(params, device, workspace);
  with_storage_of(work.loss.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    with_access(access_of(work.loss), [&](auto access) {
      with_options(work.loss, [&](auto options) {
        constexpr Access kAccess = decltype(access)::value;
        constexpr bool kOptions = decltype(options)::value;
        launch_statistics(work.norm, work.sums_of_tiles, work.factors, where);
        launch_preparation<Storage>(work.loss, work.plan, device, where);
        for_images_together(work.loss, device, [&](const Images& images) {
          launch_labels<Storage, kAccess, true>(work.loss, work.plan, where, images);
          launch_measure<Storage, kAccess, Measure::gradient_sums, kOptions>(work.loss, work.plan, where, images);
        });
        launch_gradient_factors(work.norm, work.plan.grad_sums, work.loss.shape.batch * work.plan.tiles,
                                work.gradient_factors, where);
        launch_measure<Storage, kAccess, Measure::batch_norm_gradient, kOptions>(work.loss, work.plan, where,
                                                                                 Images{0, work.loss.shape.batch});
      });
    });
  });
}

}  // namespace dynamicseg
