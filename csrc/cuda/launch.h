// Launching kernels, and what must be known of the device for it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "dynamicseg/types.h"

namespace dynamicseg {

// Threads of a block, in all kernels.
constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

struct Device {
  int multiprocessors;
  std::int64_t l2_bytes;
  bool cooperative_launch;
};

// Of the device that is current.
inline Device current_device() {
  int device = 0, multiprocessors = 0, l2_bytes = 0, cooperative = 0;
  check(cudaGetDevice(&device), "which device is current");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  check(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device), "size of the L2 cache");
  check(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device), "cooperative launch");
  return {multiprocessors, l2_bytes, cooperative != 0};
}

// Blocks of a kernel that are on the device together.
template <class... Params>
std::int64_t resident_blocks(void (*kernel)(Params...), const Device& device, std::size_t shared_bytes) {
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, shared_bytes), "occupancy");
  if (blocks == 0) throw std::runtime_error("a block does not fit on a multiprocessor");
  return static_cast<std::int64_t>(blocks) * device.multiprocessors;
}

// Starts blocks of kThreads threads; none for 0 blocks. `cooperative`: all of them are on the device together, so that
// they may wait for one another.
template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), std::int64_t blocks, std::size_t shared_bytes,
            const CudaLaunch& where, bool cooperative, const Args&... args) {
  if (blocks == 0) return;
  if (blocks > INT32_MAX) throw std::runtime_error(std::string(name) + ": the map is too large for one launch");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(where.stream);
  config.attrs = &attribute;
  config.numAttrs = cooperative ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, args...), name);
}

inline void set_to_zero(void* memory, std::int64_t bytes, const CudaLaunch& where) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), static_cast<cudaStream_t>(where.stream)),
        "setting the workspace to zero");
}

// Cuts a workspace into arrays. With a null base it only adds up their sizes.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<unsigned char*>(base)) {}

  template <class Element>
  Element* take(std::int64_t count) {
    auto* array = base_ == nullptr ? nullptr : reinterpret_cast<Element*>(base_ + bytes_);
    bytes_ += (count * static_cast<std::int64_t>(sizeof(Element)) + kAlignment - 1) / kAlignment * kAlignment;
    return array;
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  static constexpr std::int64_t kAlignment = 256;

  unsigned char* base_;
  std::int64_t bytes_ = 0;
};

}  // namespace dynamicseg
