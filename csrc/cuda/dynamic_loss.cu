// dynamic_loss on the GPU.
//
// Fused: argmax, logsumexp, the label count, the dynamic weight, all differences, cross-entropies and the gradient.
// Never written to memory: softmax, one-hot labels, differences, their signs; a map of doubles or of float32.
// Bytes, for a map of n bytes: n read for the labels, n read (of which 2 rows in tile_rows twice) and n written for the
// gradient. The second reading comes out of the L2 cache where the map of one image fits into half of it; images of a
// batch follow one another for that. Besides, 12 bytes a pixel for labels and logsumexp, written once and read once.
// Scribbles and a guide are 8 bytes a pixel each, read to be counted and again with the gradient; a mask is 1, read
// with the labels as well. No other option reads or writes more. As int32 scribbles and guide would have to be
// converted at each call, which moves 12 bytes a pixel to save 8, beside the 600 of 100 channels of bfloat16.
// Tie rule: the lowest channel; a NaN counts as the greatest number.
//
// The label count decides the weight, and the weight the gradient, so that no gradient can be written before the last
// label is known. That meeting point is the end of one kernel and the beginning of the next, or, in a cooperative
// launch, a barrier of the whole grid. Which of the two is the quicker is not measured yet; the several kernels need no
// room for all blocks at once and are the default.

#include "dynamicseg/dynamic_loss.h"

#include "cuda/dynamic_loss_kernels.h"

namespace dynamicseg {
namespace {

template <class Storage, Access kAccess, bool kOptions>
void launch_cooperatively(const DynamicLossParams& params, const DynamicLossPlan& plan, const Device& device,
                          const CudaLaunch& where) {
  const auto kernel = &dynamic_loss_kernel<Storage, kAccess, kOptions>;
  const std::int64_t together = images_together(params, device);
  const std::int64_t blocks = std::min(resident_blocks(kernel, device, alive_bytes(params)),
                                       std::max<std::int64_t>(together * std::max(plan.runs, plan.tiles), 1));
  launch("dynamic_loss_kernel", kernel, blocks, alive_bytes(params), where, true, params, plan, together);
}

}  // namespace

std::int64_t dynamic_loss_workspace_bytes(const DynamicLossParams& params) {
  Carver workspace(nullptr);
  dynamic_loss_plan(params, current_device(), false, workspace);
  return workspace.bytes();
}

void launch_dynamic_loss(const DynamicLossParams& params, const CudaLaunch& where) {
  const Device device = current_device();
  Carver workspace(where.workspace);
  const DynamicLossPlan plan = dynamic_loss_plan(params, device, false, workspace);
  with_storage_of(params.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    with_access(access_of(params), [&](auto access) {
      with_options(params, [&](auto options) {
        constexpr Access kAccess = decltype(access)::value;
        constexpr bool kOptions = decltype(options)::value;
        launch_preparation<Storage>(params, plan, device, where);
        if (where.cooperative && device.cooperative_launch && params.grad_x != nullptr) {
          return launch_cooperatively<Storage, kAccess, kOptions>(params, plan, device, where);
        }
        for_images_together(params, device, [&](const Images& images) {
          launch_labels<Storage, kAccess, false>(params, plan, where, images);
          if (params.grad_x == nullptr) {
            launch_measure<Storage, kAccess, Measure::sums, kOptions>(params, plan, where, images);
          } else {
            launch_measure<Storage, kAccess, Measure::gradient, kOptions>(params, plan, where, images);
          }
        });
      });
    });
  });
}

void launch_dynamic_loss_backward(const DynamicLossParams& params, const CudaLaunch& where) {
  const Device device = current_device();
  Carver workspace(where.workspace);
  const DynamicLossPlan plan = dynamic_loss_plan(params, device, true, workspace);
  with_storage_of(params.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    with_access(access_of(params), [&](auto access) {
      with_options(params, [&](auto options) {
        launch_preparation<Storage>(params, plan, device, where);
        launch_measure<Storage, decltype(access)::value, Measure::gradient, decltype(options)::value>(
            params, plan, where, Images{0, params.shape.batch});
      });
    });
  });
}

}  // namespace dynamicseg
