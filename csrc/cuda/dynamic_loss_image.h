// What the phases of dynamic_loss know of an image.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/dynamic_loss_plan.h"
#include "cuda/packs.h"

namespace dynamicseg {

// One image of the batch.
template <class Storage>
struct Image {
  using Value = Compute<Storage>;

  const Storage* x;                 // [C, H, W] with the map's strides
  const std::uint8_t* mask;         // [H, W], or null
  const std::int32_t* superpixels;  // [H, W], or null
  std::int64_t* labels;             // [H, W]
  Value* logsumexp;                 // [H, W]
  std::int64_t height, width;
  std::int64_t superpixel_count;
  int channels;
  MapStrides strides;

  __device__ __forceinline__ Image(const DynamicLossParams& p, std::int64_t image)
      : x(static_cast<const Storage*>(p.x) + image * p.strides.batch),
        mask(p.mask == nullptr ? nullptr : p.mask + image * p.shape.height * p.shape.width),
        superpixels(p.superpixels == nullptr ? nullptr : p.superpixels + image * p.shape.height * p.shape.width),
        labels(p.labels + image * p.shape.height * p.shape.width),
        logsumexp(static_cast<Value*>(p.logsumexp) + image * p.shape.height * p.shape.width),
        height(p.shape.height),
        width(p.shape.width),
        superpixel_count(p.superpixel_count),
        channels(static_cast<int>(p.shape.channels)),
        strides(p.strides) {}

  // Of a pixel that is in the image.
  __device__ __forceinline__ bool is_data(std::int64_t row, std::int64_t column) const {
    return mask == nullptr || mask[row * width + column] != 0;
  }
  // The number of a pixel's superpixel; one out of range is taken as the nearest that is in it.
  __device__ __forceinline__ std::int64_t superpixel(std::int64_t index) const {
    const std::int64_t number = superpixels[index];
    return number < 0 ? 0 : number < superpixel_count ? number : superpixel_count - 1;
  }
  // Of any pixel.
  __device__ __forceinline__ bool is_valid(std::int64_t row, std::int64_t column) const {
    return row >= 0 && row < height && column >= 0 && column < width && is_data(row, column);
  }
};

// One number a channel for a pack of channels, from an array with room for a whole pack behind its last.
template <class Storage>
struct ChannelNumbers {
  Compute<Storage> of[kPack<Storage>];

  __device__ __forceinline__ ChannelNumbers(const void* array, int channel) {
    constexpr int kTogether = 16 / static_cast<int>(sizeof(Compute<Storage>));
    struct alignas(16) Numbers {
      Compute<Storage> of[kTogether];
    };
    const auto* numbers = reinterpret_cast<const Numbers*>(static_cast<const Compute<Storage>*>(array) + channel);
#pragma unroll
    for (int i = 0; i < kPack<Storage> / kTogether; ++i) {
      const Numbers together = numbers[i];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) of[i * kTogether + j] = together.of[j];
    }
  }
};

// The responses of a pack: x itself, or `kNormalised` (x - mean) * scale + offset.
template <class Storage, bool kNormalised>
struct Responses {
  Compute<Storage> of[kPack<Storage>];

  __device__ __forceinline__ Responses(const DynamicLossParams& p, const Compute<Storage>* x, int channel) {
    if constexpr (kNormalised) {
      const ChannelNumbers<Storage> mean(p.mean, channel), scale(p.scale, channel), offset(p.offset, channel);
#pragma unroll
      for (int i = 0; i < kPack<Storage>; ++i) of[i] = (x[i] - mean.of[i]) * scale.of[i] + offset.of[i];
    } else {
#pragma unroll
      for (int i = 0; i < kPack<Storage>; ++i) of[i] = x[i];
    }
  }
};

}  // namespace dynamicseg
