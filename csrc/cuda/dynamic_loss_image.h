// What the phases of dynamic_loss know of an image.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/dynamic_loss_plan.h"
#include "cuda/packs.h"

namespace dynamicseg {

// One image of the batch. Pixels are numbered row by row. Arrays of a number a pixel are reached from the parameters of
// the kernel each time: a pointer to each would take two registers.
template <class Storage>
class Image {
  using Value = Compute<Storage>;

 public:
  const Storage* x;  // [C, H, W] with the map's strides
  std::int64_t height, width;
  int channels;
  MapStrides strides;

  __device__ __forceinline__ Image(const DynamicLossParams& p, std::int64_t image)
      : x(static_cast<const Storage*>(p.x) + image * p.strides.batch),
        height(p.shape.height),
        width(p.shape.width),
        channels(static_cast<int>(p.shape.channels)),
        strides(p.strides),
        p_(p),
        first_(image * p.shape.height * p.shape.width) {}

  __device__ __forceinline__ std::int64_t& label(std::int64_t pixel) const { return p_.labels[first_ + pixel]; }
  __device__ __forceinline__ Value& logsumexp(std::int64_t pixel) const {
    return static_cast<Value*>(p_.logsumexp)[first_ + pixel];
  }
  __device__ __forceinline__ bool is_data(std::int64_t pixel) const {
    return p_.mask == nullptr || p_.mask[first_ + pixel] != 0;
  }
  // Of any row and column.
  __device__ __forceinline__ bool is_valid(std::int64_t row, std::int64_t column) const {
    return row >= 0 && row < height && column >= 0 && column < width && is_data(row * width + column);
  }
  // The number of a pixel's superpixel; one out of range is taken as the nearest that is in it.
  __device__ __forceinline__ std::int64_t superpixel(std::int64_t pixel) const {
    const std::int64_t number = p_.superpixels[first_ + pixel];
    return number < 0 ? 0 : number < p_.superpixel_count ? number : p_.superpixel_count - 1;
  }
  // The label drawn at a pixel, and that of the guide; -1: none.
  __device__ __forceinline__ int scribble(std::int64_t pixel) const { return label_in(p_.scribbles, pixel); }
  __device__ __forceinline__ int guided(std::int64_t pixel) const { return label_in(p_.guide, pixel); }

 private:
  __device__ __forceinline__ int label_in(const std::int64_t* map, std::int64_t pixel) const {
    return map == nullptr ? -1 : static_cast<int>(label_or_none(map[first_ + pixel], channels));
  }

  const DynamicLossParams& p_;
  std::int64_t first_;  // pixel, of those of the batch
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
