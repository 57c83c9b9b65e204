// What the threads of a block do together: sharing out pixels and packs, and sums.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/launch.h"
#include "dynamicseg/types.h"

namespace dynamicseg {

// The shared memory of which a launch says how much it is.
template <class Element>
__device__ __forceinline__ Element* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<Element*>(bytes);
#else
  return static_cast<Element*>(cuda_on_host::dynamic_shared());
#endif
}

// Which pixel, of some that lie side by side, and which pack of it each thread works on: in channels-last maps the
// packs of a pixel go to neighbouring threads, in contiguous ones the pixels of a pack.
struct ThreadLayout {
  int pixels, packs;  // done at once, by pixels * packs threads
  bool packs_first;
};

// For maps of so many packs a pixel and so many pixels side by side.
inline ThreadLayout thread_layout(MemoryFormat format, std::int64_t packs, std::int64_t pixels) {
  const auto at_most = [](std::int64_t value, int most) { return value < most ? static_cast<int>(value) : most; };
  if (format == MemoryFormat::channels_last) {
    const int packs_at_once = at_most(packs, kThreads);
    return {at_most(pixels, kThreads / packs_at_once), packs_at_once, true};
  }
  const int pixels_at_once = at_most(pixels, kThreads);
  return {pixels_at_once, at_most(packs, kThreads / pixels_at_once), false};
}

__device__ __forceinline__ int pixel_of_thread(const ThreadLayout& layout) {
  const int thread = static_cast<int>(threadIdx.x);
  return layout.packs_first ? thread / layout.packs : thread % layout.pixels;
}
__device__ __forceinline__ int pack_of_thread(const ThreadLayout& layout) {
  const int thread = static_cast<int>(threadIdx.x);
  return layout.packs_first ? thread % layout.packs : thread / layout.pixels;
}
// The inverse of both.
__device__ __forceinline__ int thread_of(const ThreadLayout& layout, int pixel, int pack) {
  return layout.packs_first ? pixel * layout.packs + pack : pack * layout.pixels + pixel;
}

__device__ __forceinline__ double sum_of_warp(double value) {
#pragma unroll
  for (int by = kWarp / 2; by > 0; by /= 2) value += __shfl_xor_sync(kWholeWarp, value, by);
  return value;
}

// Sum over the threads of the block, always in the same order, for all of them. All of them call it.
__device__ __forceinline__ double sum_of_block(double value) {
  __shared__ double sums[kThreads / kWarp];
  value = sum_of_warp(value);
  __syncthreads();  // an earlier sum has been read
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += sums[warp];
  return sum;
}

// Whether this block is the last of `count` to arrive; what the others wrote before is then to be seen. For all
// threads.
__device__ __forceinline__ bool is_last_to_arrive(unsigned* arrived, std::int64_t count) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(arrived, 1u) + 1 == count;
  __syncthreads();
  if (last) __threadfence();
  return last;
}

}  // namespace dynamicseg
