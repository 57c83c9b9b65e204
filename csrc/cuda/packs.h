// Packs: what one thread reads and writes at once, 16 bytes of consecutive channels of one pixel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/arithmetic.h"

namespace dynamicseg {

// What a map is computed with.
template <class Storage>
using Compute = std::conditional_t<std::is_same_v<Storage, double>, double, float>;

template <class Storage>
constexpr int kPack = 16 / static_cast<int>(sizeof(Storage));

// How the elements of a pack lie in memory. Channels-last maps are read by 16 bytes where each pixel begins at an
// address that allows it, by 8 where that is as far as it goes (100 channels of 2 bytes are 200 bytes a pixel), else
// element by element; contiguous maps always so: then neighbouring threads read neighbouring pixels of one channel.
enum class Access { by_16_bytes, by_8_bytes, by_element };

// Elements in whole registers: two of 2 bytes share one, while in an array of elements each would be given its own.
template <class Storage, int kCount = kPack<Storage>>
struct alignas(kCount * sizeof(Storage)) Pack {
  static constexpr bool kPairs = sizeof(Storage) == 2 && kCount % 2 == 0;
  static constexpr int kWords = kPairs ? kCount / 2 : kCount;
  std::conditional_t<kPairs, std::uint32_t, Storage> words[kWords];

  __device__ __forceinline__ Storage element(int i) const {
    if constexpr (kPairs) {
      return {static_cast<std::uint16_t>(words[i / 2] >> (i % 2 * 16))};
    } else {
      return words[i];
    }
  }

  __device__ __forceinline__ void set_element(int i, Storage element) {
    if constexpr (kPairs) {
      const int by = i % 2 * 16;
      words[i / 2] = (words[i / 2] & ~(0xffffu << by)) | static_cast<std::uint32_t>(element.bits) << by;
    } else {
      words[i] = element;
    }
  }
};

template <class Storage>
using HalfPack = Pack<Storage, kPack<Storage> / 2>;

// Whether element `i` of a pack that begins at a channel of the map is one as well. All are where packs are read by 16
// bytes, and half a pack is or is not where they are read by 8.
template <class Storage, Access kAccess>
__device__ __forceinline__ bool is_channel(int channel, int i, int channels) {
  if constexpr (kAccess == Access::by_16_bytes) return true;
  if constexpr (kAccess == Access::by_8_bytes) i -= i % (kPack<Storage> / 2);
  return i == 0 || channel + i < channels;
}

// The pack of a pixel that begins at `channel`; elements beyond the last channel are 0.
template <class Storage, Access kAccess>
__device__ __forceinline__ Pack<Storage> load_pack(const Storage* __restrict__ pixel, std::int64_t channel_stride,
                                                   int channel, int channels) {
  Pack<Storage> pack{};
  if constexpr (kAccess == Access::by_16_bytes) {
    if (channel < channels) pack = *reinterpret_cast<const Pack<Storage>*>(pixel + channel);
  } else if constexpr (kAccess == Access::by_8_bytes) {
    constexpr int kHalf = kPack<Storage> / 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (channel + half * kHalf >= channels) continue;
      const auto words = *reinterpret_cast<const HalfPack<Storage>*>(pixel + channel + half * kHalf);
#pragma unroll
      for (int i = 0; i < kHalf; ++i) pack.set_element(half * kHalf + i, words.element(i));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPack<Storage>; ++i) {
      if (channel + i < channels) pack.set_element(i, pixel[(channel + i) * channel_stride]);
    }
  }
  return pack;
}

template <class Storage, Access kAccess>
__device__ __forceinline__ void store_pack(Storage* __restrict__ pixel, std::int64_t channel_stride, int channel,
                                           int channels, const Pack<Storage>& pack) {
  if constexpr (kAccess == Access::by_16_bytes) {
    if (channel < channels) *reinterpret_cast<Pack<Storage>*>(pixel + channel) = pack;
  } else if constexpr (kAccess == Access::by_8_bytes) {
    constexpr int kHalf = kPack<Storage> / 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (channel + half * kHalf >= channels) continue;
      HalfPack<Storage> words{};
#pragma unroll
      for (int i = 0; i < kHalf; ++i) words.set_element(i, pack.element(half * kHalf + i));
      *reinterpret_cast<HalfPack<Storage>*>(pixel + channel + half * kHalf) = words;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPack<Storage>; ++i) {
      if (channel + i < channels) pixel[(channel + i) * channel_stride] = pack.element(i);
    }
  }
}

// A number as an element of a map, rounded to the nearest, ties to even.
template <class Storage>
__device__ __forceinline__ Storage element_of(Compute<Storage> value) {
  if constexpr (std::is_same_v<Storage, BFloat16>) {
    return rounded_to_bfloat16(value);
  } else if constexpr (std::is_same_v<Storage, Float16>) {
    return rounded_to_float16(value);
  } else {
    return value;
  }
}

// Two numbers as elements of 2 bytes, one after the other in memory.
template <class Storage>
__device__ __forceinline__ std::uint32_t two_elements_of(float first, float second) {
#if defined(__CUDA_ARCH__)
  std::uint32_t word;
  if constexpr (std::is_same_v<Storage, BFloat16>) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    std::memcpy(&word, &both, sizeof word);
  } else {
    const __half2 both = __floats2half2_rn(first, second);
    std::memcpy(&word, &both, sizeof word);
  }
  return word;
#else
  return element_of<Storage>(first).bits | static_cast<std::uint32_t>(element_of<Storage>(second).bits) << 16;
#endif
}

template <class Storage, int kCount>
__device__ __forceinline__ void numbers_of(const Pack<Storage, kCount>& pack, Compute<Storage>* numbers) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) numbers[i] = number(pack.element(i));
}

template <class Storage, int kCount = kPack<Storage>>
__device__ __forceinline__ Pack<Storage, kCount> pack_of(const Compute<Storage>* numbers) {
  Pack<Storage, kCount> pack;
#pragma unroll
  for (int i = 0; i < pack.kWords; ++i) {
    if constexpr (pack.kPairs) {
      pack.words[i] = two_elements_of<Storage>(numbers[2 * i], numbers[2 * i + 1]);
    } else {
      pack.words[i] = element_of<Storage>(numbers[i]);
    }
  }
  return pack;
}

constexpr std::int64_t bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// Whether all pixels of a map, and all its packs, begin at addresses divisible by `bytes`.
inline bool begins_at_multiples(const void* map, DType dtype, const MapShape& shape, const MapStrides& strides,
                                std::int64_t bytes) {
  const auto divides = [&](std::int64_t elements) { return elements * bytes_of(dtype) % bytes == 0; };
  return reinterpret_cast<std::uintptr_t>(map) % static_cast<std::uintptr_t>(bytes) == 0 && divides(shape.channels) &&
         (shape.width == 1 || divides(strides.width)) && (shape.height == 1 || divides(strides.height)) &&
         (shape.batch == 1 || divides(strides.batch));
}

// The widest access that a map allows.
inline Access access_to(const void* map, DType dtype, MemoryFormat format, const MapShape& shape,
                        const MapStrides& strides) {
  if (format == MemoryFormat::contiguous) return Access::by_element;
  if (begins_at_multiples(map, dtype, shape, strides, 16)) return Access::by_16_bytes;
  return begins_at_multiples(map, dtype, shape, strides, 8) ? Access::by_8_bytes : Access::by_element;
}

// The access that two maps allow.
inline Access narrower(Access a, Access b) { return a > b ? a : b; }

// Calls body(Storage{}) with the type of a map's elements.
template <class Body>
void with_storage_of(DType dtype, Body body) {
  switch (dtype) {
    case DType::float32:
      return body(float{});
    case DType::float64:
      return body(double{});
    case DType::bfloat16:
      return body(BFloat16{});
    case DType::float16:
      return body(Float16{});
  }
}

// Calls body(std::integral_constant<Access, ...>{}).
template <class Body>
void with_access(Access access, Body body) {
  switch (access) {
    case Access::by_16_bytes:
      return body(std::integral_constant<Access, Access::by_16_bytes>{});
    case Access::by_8_bytes:
      return body(std::integral_constant<Access, Access::by_8_bytes>{});
    case Access::by_element:
      return body(std::integral_constant<Access, Access::by_element>{});
  }
}

}  // namespace dynamicseg
