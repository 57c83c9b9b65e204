// dynamic_loss on the CPU: tiles, threads, and the sums that need a whole image. The arithmetic of a tile is in
// dynamic_loss_kernels.cpp.

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <vector>

#include "core/arithmetic.h"
#include "cpu/dynamic_loss_kernels.h"
#include "cpu/dynamic_loss_phases.h"
#include "cpu/instruction_set.h"
#include "cpu/parallel.h"
#include "cpu/statistic.h"
#include "cpu/superpixels.h"
#include "dynamicseg/dynamic_loss.h"

namespace dynamicseg {
namespace {

DynamicLossKernels kernels_of_active_instruction_set(const DynamicLossParams& params) {
  const bool normalised = params.scale != nullptr;
  switch (active_instruction_set()) {
#if defined(DYNAMICSEG_X86_64)
    case InstructionSet::avx512:
      return normalised ? avx512::batch_norm_dynamic_loss_kernels(params) : avx512::dynamic_loss_kernels(params);
    case InstructionSet::avx2:
      return normalised ? avx2::batch_norm_dynamic_loss_kernels(params) : avx2::dynamic_loss_kernels(params);
#endif
    default:
      return normalised ? baseline::batch_norm_dynamic_loss_kernels(params) : baseline::dynamic_loss_kernels(params);
  }
}

// All images of a batch cut into tiles, image after image, row after row.
class Tiling {
 public:
  explicit Tiling(const MapShape& shape)
      : shape_(shape),
        columns_(std::clamp<std::int64_t>(shape.width, 1, kTileColumns)),
        rows_(std::clamp<std::int64_t>(shape.height, 1, std::min(kTilePixels / columns_, kTileRows))),
        across_(ceil_div(shape.width, columns_)),
        per_image_(across_ * ceil_div(shape.height, rows_)) {}

  std::int64_t per_image() const { return per_image_; }
  std::int64_t count() const { return shape_.batch * per_image_; }

  Tile operator[](std::int64_t index) const {
    const std::int64_t in_image = index % per_image_;
    const std::int64_t row = in_image / across_ * rows_;
    const std::int64_t column = in_image % across_ * columns_;
    return {index / per_image_, row, std::min(row + rows_, shape_.height), column,
            std::min(column + columns_, shape_.width)};
  }

 private:
  // Few enough that a photo gives work to many threads, many enough that the rows a tile shares with the next one
  // are a small part of what it reads.
  static constexpr std::int64_t kTileRows = 8;

  MapShape shape_;
  std::int64_t columns_, rows_, across_, per_image_;
};

// Calls body(index) for the tile of each index.
template <class Body>
void for_tiles(const Tiling& tiling, const MapShape& shape, Body body) {
  for_parts(tiling.count(), shape, body);
}

void add(TileSums& total, const TileSums& tile) {
  total.similarity += tile.similarity;
  total.vertical += tile.vertical;
  total.horizontal += tile.horizontal;
  total.pixels += tile.pixels;
  total.vertical_pairs += tile.vertical_pairs;
  total.horizontal_pairs += tile.horizontal_pairs;
}

// Valid pixels and pairs of one image, from its mask.
TileSums count_valid(const DynamicLossParams& params, std::int64_t image) {
  const std::int64_t height = params.shape.height;
  const std::int64_t width = params.shape.width;
  TileSums counts{};
  if (params.mask == nullptr) {
    counts.pixels = height * width;
    counts.vertical_pairs = std::max<std::int64_t>(height - 1, 0) * width;
    counts.horizontal_pairs = height * std::max<std::int64_t>(width - 1, 0);
    return counts;
  }
  const std::uint8_t* mask = params.mask + image * height * width;
  for (std::int64_t row = 0; row < height; ++row) {
    for (std::int64_t column = 0; column < width; ++column) {
      const std::uint8_t* here = mask + row * width + column;
      if (*here == 0) continue;
      counts.pixels += 1;
      counts.vertical_pairs += row + 1 < height && here[width] != 0;
      counts.horizontal_pairs += column + 1 < width && here[1] != 0;
    }
  }
  return counts;
}

// The labels that are alive in each tile: one bit a label.
class AliveLabels {
 public:
  AliveLabels(const Tiling& tiling, std::int64_t channels)
      : words_(ceil_div(channels, 64)), bits_(static_cast<std::size_t>(tiling.count() * words_)) {}

  std::uint64_t* of_tile(std::int64_t index) { return bits_.data() + index * words_; }

  // Number of distinct labels in the tiles from `begin` to `end`.
  std::int64_t count(std::int64_t begin, std::int64_t end) const {
    std::int64_t label_count = 0;
    for (std::int64_t word = 0; word < words_; ++word) {
      std::uint64_t alive = 0;
      for (std::int64_t index = begin; index < end; ++index) {
        alive |= bits_[static_cast<std::size_t>(index * words_ + word)];
      }
      label_count += std::popcount(alive);
    }
    return label_count;
  }

 private:
  std::int64_t words_;
  std::vector<std::uint64_t> bits_;
};

void write_label_count(const DynamicLossParams& params, std::int64_t image, std::int64_t label_count) {
  params.label_counts[image] = label_count;
  write_statistic(params.weight, params.dtype, image,
                  dynamic_weight(params.weighting, params.mu, params.label_floor, label_count));
}

void write_label_counts(const DynamicLossParams& params, const Tiling& tiling, const AliveLabels& alive) {
  for (std::int64_t image = 0; image < params.shape.batch; ++image) {
    write_label_count(params, image, alive.count(image * tiling.per_image(), (image + 1) * tiling.per_image()));
  }
}

// The most frequent label of each superpixel in place of the labels of its pixels.
void unite_labels_in_superpixels(const DynamicLossParams& params) {
  const std::int64_t pixels = params.shape.height * params.shape.width;
  for (std::int64_t image = 0; image < params.shape.batch; ++image) {
    const std::int64_t label_count = unite_labels(params.superpixels + image * pixels, params.superpixel_count,
                                                  params.labels + image * pixels, pixels, params.shape.channels);
    write_label_count(params, image, label_count);
  }
}

// Sum over a tile of logsumexp less the response to the label, which need not be the greatest.
template <class Storage, class Statistic>
double similarity_to_labels_of(const DynamicLossParams& params, const Tile& tile) {
  const auto* x = static_cast<const Storage*>(params.x) + tile.image * params.strides.batch;
  const auto* logsumexp = static_cast<const Statistic*>(params.logsumexp);
  double sum = 0;
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column) {
      const std::int64_t pixel = (tile.image * params.shape.height + row) * params.shape.width + column;
      if (params.labels[pixel] < 0) continue;
      const std::int64_t label = params.labels[pixel];
      auto response =
          number(x[label * params.strides.channel + row * params.strides.height + column * params.strides.width]);
      if (params.scale != nullptr) {
        const auto factor = [label](const void* array) { return static_cast<const Statistic*>(array)[label]; };
        response = (response - factor(params.mean)) * factor(params.scale) + factor(params.offset);
      }
      sum += static_cast<double>(logsumexp[pixel]) - static_cast<double>(response);
    }
  }
  return sum;
}

double similarity_to_labels(const DynamicLossParams& params, const Tile& tile) {
  switch (params.dtype) {
    case DType::float32:
      return similarity_to_labels_of<float, float>(params, tile);
    case DType::float64:
      return similarity_to_labels_of<double, double>(params, tile);
    case DType::bfloat16:
      return similarity_to_labels_of<BFloat16, float>(params, tile);
    case DType::float16:
      break;
  }
  throw std::invalid_argument("float16 has kernels on GPUs alone");
}

void write_sums(const DynamicLossParams& params, const Tiling& tiling, const std::vector<TileSums>& sums) {
  for (std::int64_t image = 0; image < params.shape.batch; ++image) {
    TileSums total{};
    for (std::int64_t index = image * tiling.per_image(); index < (image + 1) * tiling.per_image(); ++index) {
      add(total, sums[static_cast<std::size_t>(index)]);
    }
    const double similarity = mean_or_zero(total.similarity, total.pixels);
    const double continuity = mean_or_zero(total.vertical, total.vertical_pairs * params.shape.channels) +
                              mean_or_zero(total.horizontal, total.horizontal_pairs * params.shape.channels);
    const double weight = dynamic_weight(params.weighting, params.mu, params.label_floor, params.label_counts[image]);
    write_statistic(params.similarity, params.dtype, image, similarity);
    write_statistic(params.continuity, params.dtype, image, continuity);
    write_statistic(params.loss, params.dtype, image, similarity + weight * continuity);
    write_statistic(params.scribble_cross_entropy, params.dtype, image, 0);
    write_statistic(params.guide_cross_entropy, params.dtype, image, 0);
  }
}

std::vector<GradientScales> gradient_scales(const DynamicLossParams& params) {
  std::vector<GradientScales> scales;
  for (std::int64_t image = 0; image < params.shape.batch; ++image) {
    const TileSums counts = count_valid(params, image);
    const double grad_loss = read_statistic(params.grad_loss, params.dtype, image);
    const double grad_continuity = grad_loss * read_statistic(params.weight, params.dtype, image);
    scales.push_back({grad_loss * share_of_mean(counts.pixels),
                      grad_continuity * share_of_mean(counts.vertical_pairs * params.shape.channels),
                      grad_continuity * share_of_mean(counts.horizontal_pairs * params.shape.channels)});
  }
  return scales;
}

void forward(const DynamicLossParams& params, const Tiling& tiling, const DynamicLossKernels& kernels) {
  std::vector<TileSums> sums(static_cast<std::size_t>(tiling.count()));
  AliveLabels alive(tiling, params.shape.channels);
  for_tiles(tiling, params.shape, [&](std::int64_t index) {
    sums[static_cast<std::size_t>(index)] = kernels.forward(params, tiling[index], alive.of_tile(index));
  });
  if (params.superpixels == nullptr) {
    write_label_counts(params, tiling, alive);
  } else {
    unite_labels_in_superpixels(params);
    for_tiles(tiling, params.shape, [&](std::int64_t index) {
      sums[static_cast<std::size_t>(index)].similarity = similarity_to_labels(params, tiling[index]);
    });
  }
  write_sums(params, tiling, sums);
}

// Sums of the gradient, for each tile; none where the map is not normalised as it is read.
SumsOfParts grad_sums_of_tiles(const DynamicLossParams& params, const Tiling& tiling) {
  return {tiling.count(), params.scale != nullptr ? params.shape.channels : 0};
}

GradientSums backward(const DynamicLossParams& params, const Tiling& tiling, const DynamicLossKernels& kernels) {
  const std::vector<GradientScales> scales = gradient_scales(params);
  const bool stream = is_streamed(params.shape, params.dtype);
  SumsOfParts grad_sums = grad_sums_of_tiles(params, tiling);
  // Backwards through the map: its end is what the forward pass has left in the caches.
  const std::int64_t last = tiling.count() - 1;
  for_tiles(tiling, params.shape, [&](std::int64_t index) {
    const Tile tile = tiling[last - index];
    kernels.backward(params, tile, scales[static_cast<std::size_t>(tile.image)], stream,
                     grad_sums.of_gradient(last - index));
  });
  return grad_sums.total_of_gradient();
}

GradientSums label_and_measure(const DynamicLossParams& params, const Tiling& tiling,
                               const DynamicLossKernels& kernels) {
  AliveLabels alive(tiling, params.shape.channels);
  for_tiles(tiling, params.shape,
            [&](std::int64_t index) { kernels.label(params, tiling[index], alive.of_tile(index)); });
  if (params.superpixels == nullptr) {
    write_label_counts(params, tiling, alive);
  } else {
    unite_labels_in_superpixels(params);
  }

  std::vector<TileSums> sums(static_cast<std::size_t>(tiling.count()));
  const std::vector<GradientScales> scales = gradient_scales(params);
  const bool stream = is_streamed(params.shape, params.dtype);
  SumsOfParts grad_sums = grad_sums_of_tiles(params, tiling);
  // Backwards, as above.
  const std::int64_t last = tiling.count() - 1;
  for_tiles(tiling, params.shape, [&](std::int64_t index) {
    const Tile tile = tiling[last - index];
    sums[static_cast<std::size_t>(last - index)] = kernels.measure(
        params, tile, scales[static_cast<std::size_t>(tile.image)], stream, grad_sums.of_gradient(last - index));
  });
  write_sums(params, tiling, sums);
  return grad_sums.total_of_gradient();
}

void refuse_options(const DynamicLossParams& params) {
  if (params.scribbles != nullptr || params.guide != nullptr || params.diagonals ||
      params.continuity_kind != Continuity::l1) {
    throw std::invalid_argument("scribbles, a guide, diagonals and continuity huber have no CPU kernels");
  }
}

}  // namespace

GradientSums dynamic_loss_with_grad_sums(const DynamicLossParams& params) {
  refuse_options(params);
  const Tiling tiling(params.shape);
  const DynamicLossKernels kernels = kernels_of_active_instruction_set(params);
  if (params.grad_x != nullptr && kernels.label != nullptr) return label_and_measure(params, tiling, kernels);
  forward(params, tiling, kernels);
  return params.grad_x != nullptr ? backward(params, tiling, kernels) : GradientSums{};
}

void dynamic_loss_cpu(const DynamicLossParams& params) { dynamic_loss_with_grad_sums(params); }

void dynamic_loss_backward_cpu(const DynamicLossParams& params) {
  refuse_options(params);
  backward(params, Tiling(params.shape), kernels_of_active_instruction_set(params));
}

}  // namespace dynamicseg
