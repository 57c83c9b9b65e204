#include "device.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

namespace cuda_on_host {

namespace {

constexpr std::size_t kDefaultSharedBytes = 48 << 10;

std::mutex settings_mutex;
Device settings_device;
std::uint64_t settings_seed = 0;
std::map<const void*, std::size_t> shared_bytes_allowed;

thread_local std::string last_message;
thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

cudaError_t failed(cudaError_t error, std::string message) {
  last_message = std::move(message);
  return last_error = error;
}

Device device() {
  const std::lock_guard lock(settings_mutex);
  return settings_device;
}

std::uint64_t seed() {
  const std::lock_guard lock(settings_mutex);
  return settings_seed;
}

std::size_t most_shared_bytes(const void* kernel) {
  const std::lock_guard lock(settings_mutex);
  const auto found = shared_bytes_allowed.find(kernel);
  return found == shared_bytes_allowed.end() ? kDefaultSharedBytes : std::max(kDefaultSharedBytes, found->second);
}

void set_device(const Device& device) {
  const std::lock_guard lock(settings_mutex);
  settings_device = device;
}

void set_seed(std::uint64_t seed) {
  const std::lock_guard lock(settings_mutex);
  settings_seed = seed;
}

void allow_shared_bytes(const void* kernel, std::size_t bytes) {
  const std::lock_guard lock(settings_mutex);
  shared_bytes_allowed[kernel] = std::min(bytes, kMaxSharedBytes);
}

}  // namespace cuda_on_host

using namespace cuda_on_host;

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaSuccess) return "no error";
  return error == last_error ? last_message.c_str() : "unknown error";
}
const char* cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaError"; }
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const Device on = device();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = on.multiprocessors;
      break;
    case cudaDevAttrL2CacheSize:
      *value = on.l2_bytes;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = on.cooperative_launch ? 1 : 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(kMaxSharedBytes);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

// For tests, which load the library that this is part of.
extern "C" __attribute__((visibility("default"))) void cuda_on_host_set_device(int multiprocessors, int l2_bytes,
                                                                               int blocks_per_multiprocessor,
                                                                               int cooperative_launch) {
  set_device({multiprocessors, l2_bytes, blocks_per_multiprocessor, cooperative_launch != 0});
}
extern "C" __attribute__((visibility("default"))) void cuda_on_host_set_seed(std::uint64_t seed) { set_seed(seed); }
