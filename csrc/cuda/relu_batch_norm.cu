// relu_batch_norm on the GPU.
//
// Fused: ReLU with the statistics in one reading of the map; ReLU, normalisation and affine map in a second one that
// writes the result. Backward: ReLU and both sums of a channel in one reading of map and gradient; ReLU, its mask and
// the gradient of the normalisation in a second one.
// Never written to memory: the result of the ReLU, its mask, the normalised map before the affine map.
//
// Launches and bytes, for maps of n bytes cut into t tiles (about 4 to a multiprocessor) of c channels:
//   moments            n read                 16tc written
//   statistics         16tc read              factors of c channels
//   normalise          n read, n written
//   gradient sums      2n read                16tc written
//   gradient factors   16tc read              factors of c channels
//   gradient           2n read, n written
// The second reading of a map goes backwards through every tile: the ends of the tiles are what the first one has left
// in L2. A map of 1x100x321x481 bfloat16 (31 MB) stays there whole on an H100 (50 MB).
//
// Sums: float32 (for float64 maps float64) over the at most 1024 values of a thread, float64 beyond them. The moments
// of a thread are taken around the mean of its first values, so that neither a mean far from 0 nor a few values far
// from all others cost digits of the variance. All sums are added up in an order that follows from the shape of the map
// and the number of multiprocessors.

#include "dynamicseg/relu_batch_norm.h"

#include <cstdint>
#include <limits>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/packs.h"
#include "cuda/relu_batch_norm_kernels.h"
#include "cuda/relu_batch_norm_phases.h"
#include "cuda/relu_batch_norm_plan.h"

namespace dynamicseg {
namespace {

template <class Storage>
Compute<Storage> lowest_of(const ReluBatchNormParams& params) {
  return params.relu ? 0 : -std::numeric_limits<Compute<Storage>>::infinity();
}

// Calls body(element, count, plain): an element of the map, and as types the channels of a pack and what is_plain says.
template <class Body>
void with_packs(const ReluBatchNormParams& params, const NormPlan& plan, bool plain, Body body) {
  with_storage_of(params.dtype, [&](auto element) {
    constexpr int kWhole = kPack<decltype(element)>;
    const auto with_count = [&](auto count) {
      if (plain) {
        body(element, count, std::true_type{});
      } else {
        body(element, count, std::false_type{});
      }
    };
    if (plan.count == kWhole) return with_count(std::integral_constant<int, kWhole>{});
    if constexpr (kWhole > 2) {
      if (plan.count == kWhole / 2) return with_count(std::integral_constant<int, kWhole / 2>{});
    }
    with_count(std::integral_constant<int, 1>{});
  });
}

// Whether the pixels of a map lie at equal distances, and its packs at addresses that allow to read them at once. What
// does not is a view of a larger map: it is read element by element.
bool is_plain(const ReluBatchNormParams& params, const NormPlan& plan, const void* map, const MapStrides& strides) {
  return strides.height == params.shape.width * strides.width &&
         (plan.count == 1 ||
          begins_at_multiples(map, params.dtype, params.shape, strides, plan.count * bytes_of(params.dtype)));
}

template <class Body>
void with_statistic_of(DType dtype, Body body) {
  if (dtype == DType::float64) return body(double{});
  body(float{});
}

std::int64_t blocks_for_channels(std::int64_t channels) { return padded_channels(channels) / kChannelsTogether; }

void launch_moments(const ReluBatchNormParams& params, const NormPlan& plan, double* moments, const CudaLaunch& where) {
  const bool plain = is_plain(params, plan, params.x, params.strides);
  const TileWalk walk = tile_walk(plan, params.shape, plain);
  with_packs(params, plan, plain, [&](auto element, auto count, auto as_is) {
    using Storage = decltype(element);
    launch("moments", moments_kernel<Storage, count.value, as_is.value>, plan.blocks, 0, where, false, walk,
           walk_of(static_cast<const Storage*>(params.x), params.strides, walk), lowest_of<Storage>(params), moments);
  });
}

void launch_normalise(const ReluBatchNormParams& params, const NormPlan& plan, const ChannelFactors& factors,
                      const CudaLaunch& where) {
  const bool plain =
      is_plain(params, plan, params.x, params.strides) && is_plain(params, plan, params.y, params.y_strides);
  const TileWalk walk = tile_walk(plan, params.shape, plain);
  with_packs(params, plan, plain, [&](auto element, auto count, auto as_is) {
    using Storage = decltype(element);
    launch("normalise", normalise_kernel<Storage, count.value, as_is.value>, plan.blocks, 0, where, false, walk,
           walk_of(static_cast<const Storage*>(params.x), params.strides, walk),
           walk_of(static_cast<Storage*>(params.y), params.y_strides, walk), lowest_of<Storage>(params), factors);
  });
}

void launch_gradient_sums(const ReluBatchNormParams& params, const NormPlan& plan, double* sums,
                          const CudaLaunch& where) {
  const bool plain =
      is_plain(params, plan, params.x, params.strides) && is_plain(params, plan, params.grad_y, params.grad_y_strides);
  const TileWalk walk = tile_walk(plan, params.shape, plain);
  with_packs(params, plan, plain, [&](auto element, auto count, auto as_is) {
    using Storage = decltype(element);
    launch("gradient sums", gradient_sums_kernel<Storage, count.value, as_is.value>, plan.blocks, 0, where, false, walk,
           walk_of(static_cast<const Storage*>(params.x), params.strides, walk),
           walk_of(static_cast<const Storage*>(params.grad_y), params.grad_y_strides, walk), lowest_of<Storage>(params),
           static_cast<const Compute<Storage>*>(params.mean), sums);
  });
}

void launch_gradient(const ReluBatchNormParams& params, const NormPlan& plan, const ChannelFactors& factors,
                     const CudaLaunch& where) {
  const bool plain = is_plain(params, plan, params.x, params.strides) &&
                     is_plain(params, plan, params.grad_y, params.grad_y_strides) &&
                     is_plain(params, plan, params.grad_x, params.grad_x_strides);
  const TileWalk walk = tile_walk(plan, params.shape, plain);
  with_packs(params, plan, plain, [&](auto element, auto count, auto as_is) {
    using Storage = decltype(element);
    launch("gradient", gradient_kernel<Storage, count.value, as_is.value>, plan.blocks, 0, where, false, walk,
           walk_of(static_cast<const Storage*>(params.x), params.strides, walk),
           walk_of(static_cast<const Storage*>(params.grad_y), params.grad_y_strides, walk),
           walk_of(static_cast<Storage*>(params.grad_x), params.grad_x_strides, walk), params.relu,
           lowest_of<Storage>(params), factors);
  });
}

}  // namespace

ChannelFactors take_channel_factors(Carver& carver, const ReluBatchNormParams& params) {
  const std::int64_t bytes = padded_channels(params.shape.channels) * (params.dtype == DType::float64 ? 8 : 4);
  const auto take = [&] { return carver.take<unsigned char>(bytes); };
  ChannelFactors factors{};
  factors.mean = take();
  factors.scale = take();
  factors.offset = take();
  factors.slope = take();
  return factors;
}

double* take_sums_of_tiles(Carver& carver, const ReluBatchNormParams& params) {
  return carver.take<double>(params.shape.batch * norm_plan(params).tiles * 2 * params.shape.channels);
}

void launch_statistics(const ReluBatchNormParams& params, double* sums_of_tiles, const ChannelFactors& factors,
                       const CudaLaunch& where) {
  const NormPlan plan = norm_plan(params);
  launch_moments(params, plan, sums_of_tiles, where);
  with_statistic_of(params.dtype, [&](auto statistic) {
    using Value = decltype(statistic);
    launch("statistics", statistics_kernel<Value>, blocks_for_channels(params.shape.channels), 0, where, false,
           tile_walk(plan, params.shape, true), params.shape.batch, params.eps, sums_of_tiles,
           static_cast<const Value*>(params.weight), static_cast<const Value*>(params.bias),
           static_cast<Value*>(params.mean), static_cast<Value*>(params.rstd), factors);
  });
}

void launch_gradient_factors(const ReluBatchNormParams& params, const double* sums, std::int64_t parts,
                             const ChannelFactors& factors, const CudaLaunch& where) {
  const MapShape& shape = params.shape;
  const auto count = static_cast<double>(shape.batch * shape.height * shape.width);
  with_statistic_of(params.dtype, [&](auto statistic) {
    using Value = decltype(statistic);
    launch("gradient factors", gradient_factors_kernel<Value>, blocks_for_channels(shape.channels), 0, where, false,
           shape.channels, parts, count, sums, static_cast<const Value*>(params.weight),
           static_cast<const Value*>(params.mean), static_cast<const Value*>(params.rstd),
           static_cast<Value*>(params.grad_weight), static_cast<Value*>(params.grad_bias), factors);
  });
}

std::int64_t relu_batch_norm_workspace_bytes(const ReluBatchNormParams& params) {
  Carver carver(nullptr);
  take_channel_factors(carver, params);
  take_sums_of_tiles(carver, params);
  return carver.bytes();
}

void launch_relu_batch_norm(const ReluBatchNormParams& params, const CudaLaunch& where) {
  Carver carver(where.workspace);
  const ChannelFactors factors = take_channel_factors(carver, params);
  launch_statistics(params, take_sums_of_tiles(carver, params), factors, where);
  launch_normalise(params, norm_plan(params), factors, where);
}

void launch_relu_batch_norm_backward(const ReluBatchNormParams& params, const CudaLaunch& where) {
  const NormPlan plan = norm_plan(params);
  Carver carver(where.workspace);
  const ChannelFactors factors = take_channel_factors(carver, params);
  double* sums = take_sums_of_tiles(carver, params);
  launch_gradient_sums(params, plan, sums, where);
  launch_gradient_factors(params, sums, params.shape.batch * plan.tiles, factors, where);
  launch_gradient(params, plan, factors, where);
}

}  // namespace dynamicseg
