// Phase `measure` of dynamic_loss: the sums and the gradient of a tile whose labels and logsumexp are known. Part of
// dynamic_loss.cu and batch_norm_dynamic_loss.cu.
//
// A thread has one pack of channels and one column, and goes down the rows of the tile: the row below becomes the row
// itself, and the sign of its difference is used again from the other side. The neighbours to the left and right are
// what other threads of the block read in the same moment, from the first-level cache. Where there is no valid
// neighbour the pixel stands in for it: their difference is 0, and so is its sign.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block.h"
#include "cuda/dynamic_loss_image.h"
#include "cuda/exponential.h"

namespace dynamicseg {

// What a call of the phase is for.
enum class Measure {
  sums,                // of differences
  gradient,            // the same, and the gradient of the responses written
  gradient_sums,       // the same, and the sums that the backward pass of batch norm needs of it, in place of itself
  batch_norm_gradient  // nothing but the gradient of z, from those sums
};

template <Measure kMeasure>
constexpr bool kIsNormalised = kMeasure == Measure::gradient_sums || kMeasure == Measure::batch_norm_gradient;
template <Measure kMeasure>
constexpr bool kWritesGradient = kMeasure == Measure::gradient || kMeasure == Measure::batch_norm_gradient;

// What a term counts in the gradient of one element.
template <class Value>
struct GradientScales {
  Value similarity, vertical, horizontal;
};

struct ValidCounts {
  std::int64_t pixels, vertical_pairs, horizontal_pairs;
};

__device__ __forceinline__ ValidCounts valid_counts(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                                    std::int64_t image) {
  if (p.mask != nullptr) {
    const unsigned long long* counts = plan.valid + 3 * image;
    return {static_cast<std::int64_t>(counts[0]), static_cast<std::int64_t>(counts[1]),
            static_cast<std::int64_t>(counts[2])};
  }
  const std::int64_t height = p.shape.height, width = p.shape.width;
  return {height * width, height > 0 ? (height - 1) * width : 0, width > 0 ? height * (width - 1) : 0};
}

__device__ __forceinline__ std::int64_t count_alive(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                                    std::int64_t image) {
  const std::int64_t words = (p.shape.channels + 31) / 32;
  int label_count = 0;
#pragma unroll 1
  for (std::int64_t word = 0; word < words; ++word) label_count += __popc(plan.alive[image * words + word]);
  return label_count;
}

template <class Value>
__device__ __forceinline__ GradientScales<Value> gradient_scales(const DynamicLossParams& p,
                                                                 const DynamicLossPlan& plan, std::int64_t image) {
  const ValidCounts counts = valid_counts(p, plan, image);
  const double weight = plan.labels_are_given ? static_cast<double>(static_cast<const Value*>(p.weight)[image])
                                              : static_cast<double>(static_cast<Value>(dynamic_weight(
                                                    p.weighting, p.mu, p.label_floor, count_alive(p, plan, image))));
  const auto grad_loss = static_cast<double>(static_cast<const Value*>(p.grad_loss)[image]);
  return {static_cast<Value>(grad_loss * share_of_mean(counts.pixels)),
          static_cast<Value>(grad_loss * weight * share_of_mean(counts.vertical_pairs * p.shape.channels)),
          static_cast<Value>(grad_loss * weight * share_of_mean(counts.horizontal_pairs * p.shape.channels))};
}

// The sums of all tiles of an image, in their order, and what comes of them. All threads of one block call it.
template <class Value>
__device__ __forceinline__ void write_loss(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                           std::int64_t image) {
  double of_labels = 0, of_targets = 0, vertical = 0, horizontal = 0;
#pragma unroll 1
  for (std::int64_t run = threadIdx.x; run < plan.runs; run += kThreads) {
    of_labels += plan.similarity[image * plan.runs + run];
  }
#pragma unroll 1
  for (std::int64_t tile = threadIdx.x; tile < plan.tiles; tile += kThreads) {
    const double* differences = plan.differences + (image * plan.tiles + tile) * 3;
    of_targets += differences[0];
    vertical += differences[1];
    horizontal += differences[2];
  }
  const double similarity_sum = sum_of_block(p.superpixels == nullptr ? of_labels : of_targets);
  vertical = sum_of_block(vertical);
  horizontal = sum_of_block(horizontal);
  if (threadIdx.x != 0) return;
  const ValidCounts counts = valid_counts(p, plan, image);
  const std::int64_t label_count = count_alive(p, plan, image);
  const double similarity = mean_or_zero(similarity_sum, counts.pixels);
  const double continuity = mean_or_zero(vertical, counts.vertical_pairs * p.shape.channels) +
                            mean_or_zero(horizontal, counts.horizontal_pairs * p.shape.channels);
  const double weight = dynamic_weight(p.weighting, p.mu, p.label_floor, label_count);
  p.label_counts[image] = label_count;
  static_cast<Value*>(p.similarity)[image] = static_cast<Value>(similarity);
  static_cast<Value*>(p.continuity)[image] = static_cast<Value>(continuity);
  static_cast<Value*>(p.weight)[image] = static_cast<Value>(weight);
  static_cast<Value*>(p.loss)[image] = static_cast<Value>(similarity + weight * continuity);
  static_cast<Value*>(p.scribble_cross_entropy)[image] = 0;
  static_cast<Value*>(p.guide_cross_entropy)[image] = 0;
}

// Differences of responses from those of x.
template <class Storage, bool kNormalised>
struct DifferenceScales {
  __device__ __forceinline__ DifferenceScales(const DynamicLossParams&, int) {}
  __device__ __forceinline__ Compute<Storage> operator()(Compute<Storage> of_x, int) const { return of_x; }
};
template <class Storage>
struct DifferenceScales<Storage, true> {
  ChannelNumbers<Storage> scale;

  __device__ __forceinline__ DifferenceScales(const DynamicLossParams& p, int channel) : scale(p.scale, channel) {}
  __device__ __forceinline__ Compute<Storage> operator()(Compute<Storage> of_x, int e) const {
    return of_x * scale.of[e];
  }
};

// One column and one pack of a tile.
template <class Storage, Access kAccess, Measure kMeasure>
class Column {
  using Value = Compute<Storage>;
  static constexpr int kElements = kPack<Storage>;
  static constexpr bool kNormalised = kIsNormalised<kMeasure>;
  static constexpr bool kGradient = kMeasure != Measure::sums;

 public:
  __device__ __forceinline__ Column(const DynamicLossParams& p, const DynamicLossPlan& plan, std::int64_t image,
                                    std::int64_t column, int channel, const GradientScales<Value>& scales)
      : p_(p),
        image_(p, image),
        grad_(static_cast<Storage*>(p.grad_x) + image * p.grad_strides.batch + column * p.grad_strides.width),
        targets_(p.superpixels == nullptr || plan.labels_are_given ? nullptr
                                                                   : plan.targets + image * p.superpixel_count),
        gradient_offset_(plan.gradient_offset),
        gradient_slope_(plan.gradient_slope),
        column_(column),
        channel_(channel),
        scales_(scales) {}

  __device__ __forceinline__ void measure(std::int64_t row_begin, std::int64_t row_end) {
    const Storage* pixel = image_.x + row_begin * image_.strides.height + column_ * image_.strides.width;
    bool valid = image_.is_data(row_begin, column_);
    Value x[kElements], up_sign[kElements];
    read(pixel, x);
    if constexpr (kGradient) {
      Value up[kElements];
      read(valid && image_.is_valid(row_begin - 1, column_) ? pixel - image_.strides.height : pixel, up);
      const DifferenceScales<Storage, kNormalised> scaled(p_, channel_);
#pragma unroll
      for (int e = 0; e < kElements; ++e) up_sign[e] = sign_of(scaled(x[e] - up[e], e));
    }
#pragma unroll 1
    for (std::int64_t row = row_begin; row < row_end; ++row, pixel += image_.strides.height) {
      Value below[kElements];
      read(row + 1 < image_.height ? pixel + image_.strides.height : pixel, below);
      const bool below_valid = row + 1 < image_.height && image_.is_data(row + 1, column_);
      measure_pixel(row, pixel, valid, valid && below_valid, x, below, up_sign);
      valid = below_valid;
#pragma unroll
      for (int e = 0; e < kElements; ++e) x[e] = below[e];
    }
  }

  Value similarity = 0, vertical = 0, horizontal = 0;
  Value grad_sum[kElements]{}, grad_centred_sum[kElements]{};

 private:
  __device__ __forceinline__ void read(const Storage* pixel, Value* x) const {
    numbers_of(load_pack<Storage, kAccess>(pixel, image_.strides.channel, channel_, image_.channels), x);
  }

  // `up_sign` becomes that of the pixel below.
  __device__ __forceinline__ void measure_pixel(std::int64_t row, const Storage* pixel, bool valid, bool has_down,
                                                const Value* x, const Value* below, Value* up_sign) {
    const bool has_left = valid && image_.is_valid(row, column_ - 1);
    const bool has_right = valid && image_.is_valid(row, column_ + 1);
    Value left[kElements], right[kElements], gradient[kElements];
    if constexpr (kGradient) read(has_left ? pixel - image_.strides.width : pixel, left);
    read(has_right ? pixel + image_.strides.width : pixel, right);

    // What is added to all responses of a channel drops out of their differences.
    const DifferenceScales<Storage, kNormalised> scaled(p_, channel_);
    Value down_differences = 0, right_differences = 0;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const Value to_down = has_down ? scaled(below[e] - x[e], e) : Value(0);
      const Value to_right = scaled(right[e] - x[e], e);
      down_differences += fabs(to_down);
      right_differences += fabs(to_right);
      if constexpr (kGradient) {
        const Value down_sign = sign_of(to_down);
        gradient[e] = (up_sign[e] - down_sign) * scales_.vertical +
                      (sign_of(scaled(x[e] - left[e], e)) - sign_of(to_right)) * scales_.horizontal;
        up_sign[e] = down_sign;
      }
    }
    if (has_down) vertical += down_differences;
    if (has_right) horizontal += right_differences;
    if (kGradient || targets_ != nullptr) add_similarity(row * image_.width + column_, valid, x, gradient);
    if constexpr (kMeasure == Measure::gradient_sums) add_to_sums(x, gradient);
    if constexpr (kWritesGradient<kMeasure>) write(row, x, gradient);
  }

  // To the gradient; and to the similarity where that is to targets, which the phase before does not know.
  __device__ __forceinline__ void add_similarity(std::int64_t index, bool valid, const Value* x, Value* gradient) {
    if (!valid) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) gradient[e] = 0;
      return;
    }
    const Value logsumexp = image_.logsumexp[index];
    const Responses<Storage, kNormalised> responses(p_, x, channel_);
    if constexpr (kGradient) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        gradient[e] += exponential(responses.of[e] - logsumexp) * scales_.similarity;
      }
    }
    const int label = targets_ == nullptr ? static_cast<int>(image_.labels[index]) : targets_[image_.superpixel(index)];
    if (label >= channel_ && label < channel_ + kElements) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if (channel_ + e != label) continue;
        if constexpr (kGradient) gradient[e] -= scales_.similarity;
        similarity += logsumexp - responses.of[e];
      }
    }
    if (targets_ != nullptr && channel_ == 0) image_.labels[index] = label;
  }

  __device__ __forceinline__ void add_to_sums(const Value* x, const Value* gradient) {
    const ChannelNumbers<Storage> mean(p_.mean, channel_);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      grad_sum[e] += gradient[e];
      grad_centred_sum[e] += gradient[e] * (x[e] - mean.of[e]);
    }
  }

  __device__ __forceinline__ void write(std::int64_t row, const Value* x, Value* gradient) const {
    if constexpr (kMeasure == Measure::batch_norm_gradient) {
      const ChannelNumbers<Storage> mean(p_.mean, channel_), scale(p_.scale, channel_);
      const ChannelNumbers<Storage> offset(gradient_offset_, channel_), slope(gradient_slope_, channel_);
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        gradient[e] = gradient[e] * scale.of[e] + offset.of[e] + (x[e] - mean.of[e]) * slope.of[e];
      }
    }
    store_pack<Storage, kAccess>(grad_ + row * p_.grad_strides.height, p_.grad_strides.channel, channel_,
                                 image_.channels, pack_of<Storage>(gradient));
  }

  const DynamicLossParams& p_;
  Image<Storage> image_;
  Storage* grad_;
  const int* targets_;
  const void *gradient_offset_, *gradient_slope_;
  std::int64_t column_;
  int channel_;
  GradientScales<Value> scales_;
};

// Sums over the pixels of a tile, channel by channel: of the gradient and of the gradient times (x - mean), each [C].
// `sums`: those of the thread, 2 * kElements. All threads of the block call it.
template <class Storage>
__device__ __forceinline__ void write_channel_sums(const ThreadLayout& layout, const Compute<Storage>* sums,
                                                   int first_pack, int channels, double* total) {
  using Value = Compute<Storage>;
  constexpr int kElements = kPack<Storage>;
  __shared__ Value shared[2 * kElements][kThreads];  // neighbouring threads in neighbouring banks
  __syncthreads();                                   // those of earlier packs have been read
#pragma unroll
  for (int i = 0; i < 2 * kElements; ++i) shared[i][threadIdx.x] = sums[i];
  __syncthreads();
  const int numbers = layout.packs * 2 * kElements;
  const auto add_up = [&](int i, int first_pixel, int step) {
    const int pack = i % layout.packs, which = i / layout.packs;
    double sum = 0;
    for (int pixel = first_pixel; pixel < layout.pixels; pixel += step) {
      sum += shared[which][thread_of(layout, pixel, pack)];
    }
    if (step > 1) sum = sum_of_warp(sum);
    const int channel = (first_pack + pack) * kElements + which % kElements;
    if (channel < channels && (step == 1 || first_pixel == 0)) total[which / kElements * channels + channel] = sum;
  };
  // Many packs of a few pixels: a thread for each number. Many pixels of a few packs: a warp.
  const int thread = static_cast<int>(threadIdx.x);
  if (layout.packs_first) {
    for (int i = thread; i < numbers; i += kThreads) add_up(i, 0, 1);
  } else {
    for (int i = thread / kWarp; i < numbers; i += kThreads / kWarp) add_up(i, thread % kWarp, kWarp);
  }
}

// Tile `tile` of an image.
template <class Storage, Access kAccess, Measure kMeasure>
__device__ __forceinline__ void measure_tile(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                             std::int64_t image, std::int64_t tile) {
  using Value = Compute<Storage>;
  constexpr int kElements = kPack<Storage>;
  __shared__ GradientScales<Value> scales;
  if (kMeasure != Measure::sums) {
    __syncthreads();  // those of an earlier tile have been read
    if (threadIdx.x == 0) scales = gradient_scales<Value>(p, plan, image);
    __syncthreads();
  }
  const std::int64_t row_begin = tile / plan.across * plan.tile_rows;
  const std::int64_t row_end =
      row_begin + plan.tile_rows < p.shape.height ? row_begin + plan.tile_rows : p.shape.height;
  const std::int64_t column = tile % plan.across * plan.threads.pixels + pixel_of_thread(plan.threads);
  const int channels = static_cast<int>(p.shape.channels);
  const int packs = (channels + kElements - 1) / kElements;
  const bool in_tile = static_cast<int>(threadIdx.x) < plan.threads.pixels * plan.threads.packs &&
                       column < p.shape.width && row_begin < row_end;

  double similarity = 0, vertical = 0, horizontal = 0;
  for (int first = 0; first < packs; first += plan.threads.packs) {
    const int pack = first + pack_of_thread(plan.threads);
    Value sums[2 * kElements]{};
    if (in_tile && pack < packs) {
      Column<Storage, kAccess, kMeasure> mine(p, plan, image, column, pack * kElements, scales);
      mine.measure(row_begin, row_end);
      similarity += mine.similarity;
      vertical += mine.vertical;
      horizontal += mine.horizontal;
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        sums[e] = mine.grad_sum[e];
        sums[kElements + e] = mine.grad_centred_sum[e];
      }
    }
    if constexpr (kMeasure == Measure::gradient_sums) {
      write_channel_sums<Storage>(plan.threads, sums, first, channels,
                                  plan.grad_sums + (image * plan.tiles + tile) * 2 * channels);
    }
  }
  if (kMeasure == Measure::batch_norm_gradient || p.loss == nullptr) return;
  similarity = sum_of_block(similarity);
  vertical = sum_of_block(vertical);
  horizontal = sum_of_block(horizontal);
  if (threadIdx.x == 0) {
    double* differences = plan.differences + (image * plan.tiles + tile) * 3;
    differences[0] = similarity;
    differences[1] = vertical;
    differences[2] = horizontal;
  }
  if (is_last_to_arrive(plan.measured + image, plan.tiles)) write_loss<Value>(p, plan, image);
}

}  // namespace dynamicseg
