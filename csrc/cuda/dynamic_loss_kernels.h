// The phases of dynamic_loss as kernels, and the launching of them.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/dynamic_loss_label.h"
#include "cuda/dynamic_loss_measure.h"
#include "cuda/dynamic_loss_plan.h"
#include "cuda/dynamic_loss_superpixels.h"
#include "cuda/launch.h"

namespace dynamicseg {

// Blocks that share a multiprocessor: as many as the registers allow without spilling any.
template <class Storage, bool kNormalised>
constexpr int kLabelBlocks = kNormalised || sizeof(Storage) == 8 ? 2 : 3;
template <class Storage>
constexpr int kMeasureBlocks = sizeof(Storage) == 8 ? 1 : 2;
template <class Storage, Access kAccess, bool kOptions>
constexpr int kCooperativeBlocks =
    kAccess == Access::by_element || (kOptions && sizeof(Storage) == 2) ? 1 : kMeasureBlocks<Storage>;

template <class Storage, Access kAccess, bool kNormalised>
__global__ void __launch_bounds__(kThreads, kLabelBlocks<Storage, kNormalised>)
    label_kernel(const __grid_constant__ DynamicLossParams p, const __grid_constant__ DynamicLossPlan plan,
                 std::int64_t first_image) {
  label_run<Storage, kAccess, kNormalised>(p, plan, first_image + blockIdx.x / plan.runs, blockIdx.x % plan.runs,
                                           dynamic_shared<std::uint32_t>());
}

template <class Storage>
__global__ void __launch_bounds__(kThreads)
    count_valid_kernel(const __grid_constant__ DynamicLossParams p, const __grid_constant__ DynamicLossPlan plan,
                       std::int64_t blocks_of_image) {
  count_valid<Storage>(p, plan, blockIdx.x / blocks_of_image, blockIdx.x % blocks_of_image * kThreads + threadIdx.x,
                       blocks_of_image * kThreads);
}

template <class Storage>
__global__ void __launch_bounds__(kThreads)
    count_labels_kernel(const __grid_constant__ DynamicLossParams p, const __grid_constant__ DynamicLossPlan plan,
                        std::int64_t first_image, std::int64_t blocks_of_image) {
  count_labels<Storage>(p, plan, first_image + blockIdx.x / blocks_of_image,
                        blockIdx.x % blocks_of_image * kThreads + threadIdx.x, blocks_of_image * kThreads);
}

template <class Storage>
__global__ void __launch_bounds__(kThreads)
    unite_labels_kernel(const __grid_constant__ DynamicLossParams p, const __grid_constant__ DynamicLossPlan plan,
                        std::int64_t first_image, std::int64_t blocks_of_image) {
  constexpr int kWarps = kThreads / kWarp;
  unite_labels<Storage>(p, plan, first_image + blockIdx.x / blocks_of_image,
                        blockIdx.x % blocks_of_image * kWarps + threadIdx.x / kWarp, blocks_of_image * kWarps);
}

// From the last tile to the first: the end of the map is what phase `label` has left in the caches.
template <class Storage, Access kAccess, Measure kMeasure, bool kOptions>
__global__ void __launch_bounds__(kThreads, kMeasureBlocks<Storage>)
    measure_kernel(const __grid_constant__ DynamicLossParams p, const __grid_constant__ DynamicLossPlan plan,
                   std::int64_t first_image) {
  const std::int64_t index = gridDim.x - 1 - blockIdx.x;
  measure_tile<Storage, kAccess, kMeasure, kOptions>(p, plan, first_image + index / plan.tiles, index % plan.tiles);
}

// All phases in one, a few images together; the blocks, which are on the device together, wait for one another between
// the phases. Writes the gradient.
template <class Storage, Access kAccess, bool kOptions>
__global__ void __launch_bounds__(kThreads, kCooperativeBlocks<Storage, kAccess, kOptions>)
    dynamic_loss_kernel(const __grid_constant__ DynamicLossParams p, const __grid_constant__ DynamicLossPlan plan,
                        std::int64_t images_together) {
  const auto grid = cooperative_groups::this_grid();
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
#pragma unroll 1
  for (std::int64_t first = 0; first < p.shape.batch; first += images_together) {
    const std::int64_t end = first + images_together < p.shape.batch ? first + images_together : p.shape.batch;
#pragma unroll 1
    for (std::int64_t index = blockIdx.x; index < (end - first) * plan.runs; index += gridDim.x) {
      label_run<Storage, kAccess, false>(p, plan, first + index / plan.runs, index % plan.runs,
                                         dynamic_shared<std::uint32_t>());
    }
    grid.sync();
    if (p.superpixels != nullptr) {
      for (std::int64_t image = first; image < end; ++image) count_labels<Storage>(p, plan, image, thread, threads);
      grid.sync();
      for (std::int64_t image = first; image < end; ++image) {
        unite_labels<Storage>(p, plan, image, thread / kWarp, threads / kWarp);
      }
      grid.sync();
    }
#pragma unroll 1
    for (std::int64_t index = (end - first) * plan.tiles - 1 - blockIdx.x; index >= 0; index -= gridDim.x) {
      measure_tile<Storage, kAccess, Measure::gradient, kOptions>(p, plan, first + index / plan.tiles,
                                                                  index % plan.tiles);
    }
  }
}

// ---- launching ---------------------------------------------------------------------------------------------------

// Which of the images, from the first one on.
struct Images {
  std::int64_t first, count;
};

// Calls body(images) for all images of a batch, a few together.
template <class Body>
void for_images_together(const DynamicLossParams& p, const Device& device, Body body) {
  const std::int64_t together = images_together(p, device);
  for (std::int64_t first = 0; first < p.shape.batch; first += together) {
    body(Images{first, std::min(together, p.shape.batch - first)});
  }
}

// Calls body(std::bool_constant<...>{}) with whether kernels with options are needed.
template <class Body>
void with_options(const DynamicLossParams& p, Body body) {
  return has_options(p) ? body(std::true_type{}) : body(std::false_type{});
}

// The access to the map and to its gradient.
inline Access access_of(const DynamicLossParams& p) {
  const Access x = access_to(p.x, p.dtype, p.format, p.shape, p.strides);
  if (p.grad_x == nullptr) return x;
  return narrower(x, access_to(p.grad_x, p.dtype, p.format, p.shape, p.grad_strides));
}

inline std::size_t alive_bytes(const DynamicLossParams& p) {
  return static_cast<std::size_t>(ceil_div(p.shape.channels, 32)) * sizeof(std::uint32_t);
}

// What comes before the first image.
template <class Storage>
void launch_preparation(const DynamicLossParams& p, const DynamicLossPlan& plan, const Device& device,
                        const CudaLaunch& where) {
  set_to_zero(plan.alive, plan.bytes_to_zero, where);
  if (!has_counts(p)) return;
  const std::int64_t blocks =
      std::min<std::int64_t>(ceil_div(p.shape.height * p.shape.width, kThreads), 2 * device.multiprocessors);
  launch("count_valid_kernel", &count_valid_kernel<Storage>, p.shape.batch * blocks, 0, where, false, p, plan, blocks);
}

// Labels, logsumexp and what is alive; with superpixels, targets as well.
template <class Storage, Access kAccess, bool kNormalised>
void launch_labels(const DynamicLossParams& p, const DynamicLossPlan& plan, const CudaLaunch& where,
                   const Images& images) {
  launch("label_kernel", &label_kernel<Storage, kAccess, kNormalised>, images.count * plan.runs, alive_bytes(p), where,
         false, p, plan, images.first);
  if (p.superpixels == nullptr) return;
  const std::int64_t pixel_blocks = ceil_div(p.shape.height * p.shape.width, kThreads);
  launch("count_labels_kernel", &count_labels_kernel<Storage>, images.count * pixel_blocks, 0, where, false, p, plan,
         images.first, pixel_blocks);
  const std::int64_t superpixel_blocks = ceil_div(p.superpixel_count, kThreads / kWarp);
  launch("unite_labels_kernel", &unite_labels_kernel<Storage>, images.count * superpixel_blocks, 0, where, false, p,
         plan, images.first, superpixel_blocks);
}

template <class Storage, Access kAccess, Measure kMeasure, bool kOptions>
void launch_measure(const DynamicLossParams& p, const DynamicLossPlan& plan, const CudaLaunch& where,
                    const Images& images) {
  // Packs of 2-byte numbers, read by 16 bytes at once, leave the kernels with options too few registers.
  constexpr bool kByHalves = kOptions && sizeof(Storage) == 2 && kAccess == Access::by_16_bytes;
  constexpr Access kReads = kByHalves ? Access::by_8_bytes : kAccess;
  launch("measure_kernel", &measure_kernel<Storage, kReads, kMeasure, kOptions>, images.count * plan.tiles, 0, where,
         false, p, plan, images.first);
}

}  // namespace dynamicseg
