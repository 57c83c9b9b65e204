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
  total.scribble += tile.scribble;
  total.guide += tile.guide;
  for (int d = 0; d < kDirections; ++d) total.differences[d] += tile.differences[d];
}

// How many pixels, and pairs of pixels, there are to a mean.
struct Counts {
  std::int64_t pixels, scribbled, guided;  // valid ones; scribbled and guided are among the pixels
  std::int64_t pairs[kDirections];
};

// Pixels and pairs of an image without a mask.
Counts counts_of_whole_image(const MapShape& shape) {
  const std::int64_t height = shape.height, width = shape.width;
  const std::int64_t above = std::max<std::int64_t>(height - 1, 0), left = std::max<std::int64_t>(width - 1, 0);
  return {height * width, 0, 0, {above * width, height * left, above * left, above * left}};
}

// Those of one row under a mask.
void count_masked_row(const std::uint8_t* mask, const MapShape& shape, std::int64_t row, Counts& counts) {
  const std::uint8_t* here = mask + row * shape.width;
  const std::uint8_t* below = row + 1 < shape.height ? here + shape.width : nullptr;
  for (std::int64_t column = 0; column < shape.width; ++column) {
    if (here[column] == 0) continue;
    const bool at_right = column + 1 == shape.width;
    counts.pixels += 1;
    counts.pairs[kHorizontal] += !at_right && here[column + 1] != 0;
    if (below == nullptr) continue;
    counts.pairs[kVertical] += below[column] != 0;
    counts.pairs[kFalling] += !at_right && below[column + 1] != 0;
    counts.pairs[kRising] += column > 0 && below[column - 1] != 0;
  }
}

// How many of the pixels of a row have one of the labels.
std::int64_t count_labelled(const std::int64_t* labels, const std::uint8_t* mask, std::int64_t pixels,
                            std::int64_t channels) {
  std::int64_t labelled = 0;
  for (std::int64_t i = 0; labels != nullptr && i < pixels; ++i) {
    labelled += label_or_none(labels[i], channels) >= 0 && (mask == nullptr || mask[i] != 0);
  }
  return labelled;
}

// Of one image.
Counts count(const DynamicLossParams& params, std::int64_t image) {
  const std::int64_t height = params.shape.height, width = params.shape.width;
  const auto row_of = [&](const auto* map, std::int64_t row) {
    return map == nullptr ? nullptr : map + (image * height + row) * width;
  };
  Counts total = params.mask == nullptr ? counts_of_whole_image(params.shape) : Counts{};
  std::vector<Counts> of_rows(static_cast<std::size_t>(height));
  for_parts(height, params.shape, [&](std::int64_t row) {
    Counts& counts = of_rows[static_cast<std::size_t>(row)];
    const std::uint8_t* mask = row_of(params.mask, row);
    if (mask != nullptr) count_masked_row(row_of(params.mask, 0), params.shape, row, counts);
    counts.scribbled = count_labelled(row_of(params.scribbles, row), mask, width, params.shape.channels);
    counts.guided = count_labelled(row_of(params.guide, row), mask, width, params.shape.channels);
  });
  for (const Counts& counts : of_rows) {
    total.pixels += counts.pixels;
    total.scribbled += counts.scribbled;
    total.guided += counts.guided;
    for (int d = 0; d < kDirections; ++d) total.pairs[d] += counts.pairs[d];
  }
  return total;
}

// Of each image.
std::vector<Counts> count(const DynamicLossParams& params) {
  const bool all_alike = params.mask == nullptr && params.scribbles == nullptr && params.guide == nullptr;
  std::vector<Counts> counts;
  for (std::int64_t image = 0; image < params.shape.batch; ++image) {
    counts.push_back(all_alike ? counts_of_whole_image(params.shape) : count(params, image));
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

double weight_of(const DynamicLossParams& params, std::int64_t label_count) {
  return dynamic_weight(params.weighting, params.mu, params.label_floor, label_count);
}

double guide_weight_of(const DynamicLossParams& params, std::int64_t image) {
  return params.guide != nullptr ? read_statistic(params.guide_weight, params.dtype, image) : 0;
}

void write_label_count(const DynamicLossParams& params, std::int64_t image, std::int64_t label_count) {
  params.label_counts[image] = label_count;
  write_statistic(params.weight, params.dtype, image, weight_of(params, label_count));
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

// Sum over the pixels of a tile without a scribble of logsumexp less the response to the label, which need not be the
// greatest.
template <class Storage, class Statistic>
double similarity_to_labels_of(const DynamicLossParams& params, const Tile& tile) {
  const auto* x = static_cast<const Storage*>(params.x) + tile.image * params.strides.batch;
  const auto* logsumexp = static_cast<const Statistic*>(params.logsumexp);
  double sum = 0;
  for (std::int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    for (std::int64_t column = tile.column_begin; column < tile.column_end; ++column) {
      const std::int64_t pixel = (tile.image * params.shape.height + row) * params.shape.width + column;
      if (params.labels[pixel] < 0) continue;
      if (params.scribbles != nullptr && label_or_none(params.scribbles[pixel], params.shape.channels) >= 0) continue;
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

void write_sums(const DynamicLossParams& params, const Tiling& tiling, const std::vector<Counts>& counts,
                const std::vector<TileSums>& sums) {
  for (std::int64_t image = 0; image < params.shape.batch; ++image) {
    const Counts& of_image = counts[static_cast<std::size_t>(image)];
    TileSums total{};
    for (std::int64_t index = image * tiling.per_image(); index < (image + 1) * tiling.per_image(); ++index) {
      add(total, sums[static_cast<std::size_t>(index)]);
    }
    const double similarity = mean_or_zero(total.similarity, of_image.pixels - of_image.scribbled);
    const double scribble = mean_or_zero(total.scribble, of_image.scribbled);
    const double guide = mean_or_zero(total.guide, of_image.guided);
    double continuity = 0;
    for (int d = 0; d < kDirections; ++d) {
      continuity += mean_or_zero(total.differences[d], of_image.pairs[d] * params.shape.channels);
    }
    const double weight = weight_of(params, params.label_counts[image]);
    const double optional = params.scribble_weight * scribble + guide_weight_of(params, image) * guide;
    write_statistic(params.similarity, params.dtype, image, similarity);
    write_statistic(params.continuity, params.dtype, image, continuity);
    write_statistic(params.scribble_cross_entropy, params.dtype, image, scribble);
    write_statistic(params.guide_cross_entropy, params.dtype, image, guide);
    write_statistic(params.loss, params.dtype, image, similarity + weight * continuity + optional);
  }
}

std::vector<GradientScales> gradient_scales(const DynamicLossParams& params, const std::vector<Counts>& counts) {
  std::vector<GradientScales> scales(static_cast<std::size_t>(params.shape.batch));
  for (std::int64_t image = 0; image < params.shape.batch; ++image) {
    const Counts& of_image = counts[static_cast<std::size_t>(image)];
    GradientScales& of_terms = scales[static_cast<std::size_t>(image)];
    const double grad_loss = read_statistic(params.grad_loss, params.dtype, image);
    const double grad_continuity = grad_loss * read_statistic(params.weight, params.dtype, image);
    of_terms.similarity = grad_loss * share_of_mean(of_image.pixels - of_image.scribbled);
    of_terms.scribble = grad_loss * params.scribble_weight * share_of_mean(of_image.scribbled);
    of_terms.guide = grad_loss * guide_weight_of(params, image) * share_of_mean(of_image.guided);
    for (int d = 0; d < kDirections; ++d) {
      of_terms.differences[d] = grad_continuity * share_of_mean(of_image.pairs[d] * params.shape.channels);
    }
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
  write_sums(params, tiling, count(params), sums);
}

// Sums of the gradient, for each tile; none where the map is not normalised as it is read.
SumsOfParts grad_sums_of_tiles(const DynamicLossParams& params, const Tiling& tiling) {
  return {tiling.count(), params.scale != nullptr ? params.shape.channels : 0};
}

GradientSums backward(const DynamicLossParams& params, const Tiling& tiling, const DynamicLossKernels& kernels) {
  const std::vector<GradientScales> scales = gradient_scales(params, count(params));
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
  const std::vector<Counts> counts = count(params);
  const std::vector<GradientScales> scales = gradient_scales(params, counts);
  const bool stream = is_streamed(params.shape, params.dtype);
  SumsOfParts grad_sums = grad_sums_of_tiles(params, tiling);
  // Backwards, as above.
  const std::int64_t last = tiling.count() - 1;
  for_tiles(tiling, params.shape, [&](std::int64_t index) {
    const Tile tile = tiling[last - index];
    sums[static_cast<std::size_t>(last - index)] = kernels.measure(
        params, tile, scales[static_cast<std::size_t>(tile.image)], stream, grad_sums.of_gradient(last - index));
  });
  write_sums(params, tiling, counts, sums);
  return grad_sums.total_of_gradient();
}

}  // namespace

GradientSums dynamic_loss_with_grad_sums(const DynamicLossParams& params) {
  const Tiling tiling(params.shape);
  const DynamicLossKernels kernels = kernels_of_active_instruction_set(params);
  if (params.grad_x != nullptr && kernels.label != nullptr) return label_and_measure(params, tiling, kernels);
  forward(params, tiling, kernels);
  return params.grad_x != nullptr ? backward(params, tiling, kernels) : GradientSums{};
}

void dynamic_loss_cpu(const DynamicLossParams& params) { dynamic_loss_with_grad_sums(params); }

void dynamic_loss_backward_cpu(const DynamicLossParams& params) {
  backward(params, Tiling(params.shape), kernels_of_active_instruction_set(params));
}

}  // namespace dynamicseg
