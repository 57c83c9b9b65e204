// The device that the host stands in for, and the last error.

#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace cuda_on_host {

constexpr std::size_t kMaxSharedBytes = 227 << 10;

Device device();
std::uint64_t seed();
std::size_t most_shared_bytes(const void* kernel);

// Keeps the error for cudaGetLastError, and returns it.
cudaError_t failed(cudaError_t error, std::string message);

}  // namespace cuda_on_host
