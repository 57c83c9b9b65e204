#include "cuda/dynamic_loss_plan.h"

#include <algorithm>

namespace dynamicseg {
namespace {

// Blocks that share a multiprocessor, see dynamic_loss_kernels.h.
constexpr std::int64_t kBlocksTogether = 2;

// The size of the parts of `total` units that are done soonest by blocks of which `resident` run at a time, where
// `copies` such totals are to be done and a part costs its size and `overhead` units. A last wave of blocks that is
// nearly empty costs as much as a full one.
std::int64_t best_part(std::int64_t total, std::int64_t copies, std::int64_t resident, std::int64_t overhead,
                       std::int64_t most) {
  std::int64_t best = 1, least_cost = INT64_MAX;
  for (std::int64_t size = 1; size <= std::min(std::max<std::int64_t>(total, 1), most); ++size) {
    const std::int64_t waves = ceil_div(ceil_div(total, size) * copies, resident);
    const std::int64_t cost = waves * (size + overhead);
    if (cost <= least_cost) {
      best = size;
      least_cost = cost;
    }
  }
  return best;
}

int lanes_of_pixel(MemoryFormat format, std::int64_t packs) {
  int lanes = 1;
  while (format == MemoryFormat::channels_last && lanes < packs && lanes < kWarp) lanes *= 2;
  return lanes;
}

}  // namespace

std::int64_t images_together(const DynamicLossParams& params, const Device& device) {
  const MapShape& shape = params.shape;
  const std::int64_t image_bytes =
      std::max<std::int64_t>(shape.channels * shape.height * shape.width * bytes_of(params.dtype), 1);
  // Half of the cache: what is written goes through it as well.
  return std::clamp<std::int64_t>(device.l2_bytes / 2 / image_bytes, 1, std::max<std::int64_t>(shape.batch, 1));
}

DynamicLossPlan dynamic_loss_plan(const DynamicLossParams& params, const Device& device, bool labels_are_given,
                                  Carver& workspace) {
  const MapShape& shape = params.shape;
  const std::int64_t packs = ceil_div(shape.channels, 16 / bytes_of(params.dtype));
  const std::int64_t together = images_together(params, device);
  const std::int64_t resident = kBlocksTogether * device.multiprocessors;

  DynamicLossPlan plan{};
  plan.labels_are_given = labels_are_given;
  plan.lanes = lanes_of_pixel(params.format, packs);
  plan.equal_distances = params.strides.height == shape.width * params.strides.width || shape.height <= 1;
  const std::int64_t pixels = shape.height * shape.width;
  const std::int64_t least_run = 4 * kThreads / plan.lanes;  // pixels that a block works on at a time, once or twice
  plan.run_pixels = least_run * best_part(ceil_div(pixels, least_run), together, resident, 1, 64);
  plan.runs = ceil_div(pixels, plan.run_pixels);

  plan.threads = thread_layout(params.format, packs, std::max<std::int64_t>(shape.width, 1));
  plan.across = std::max<std::int64_t>(ceil_div(shape.width, plan.threads.pixels), 1);
  // A tile reads two rows besides its own.
  plan.tile_rows = best_part(shape.height, plan.across * together, resident, 2, 32);
  // At least one, which writes the loss of an image without a pixel.
  plan.tiles = plan.across * std::max<std::int64_t>(ceil_div(shape.height, plan.tile_rows), 1);

  const std::int64_t begin = workspace.bytes();
  plan.alive = workspace.take<std::uint32_t>(shape.batch * ceil_div(shape.channels, 32));
  plan.counts = workspace.take<unsigned long long>(has_counts(params) ? shape.batch * kAllTerms : 0);
  plan.measured = workspace.take<unsigned>(shape.batch);
  const std::int64_t superpixels = params.superpixels == nullptr ? 0 : shape.batch * params.superpixel_count;
  plan.histograms = workspace.take<int>(superpixels * shape.channels);
  plan.bytes_to_zero = workspace.bytes() - begin;

  plan.targets = workspace.take<int>(superpixels);
  plan.similarity = workspace.take<double>(shape.batch * plan.runs);
  plan.sums = workspace.take<double>(shape.batch * plan.tiles * kAllTerms);
  return plan;
}

}  // namespace dynamicseg
