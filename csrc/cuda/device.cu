#include "cuda/device.h"

#include <cuda_runtime.h>

namespace dynamicseg {

namespace {

__global__ void any_kernel() {}

}  // namespace

std::string problem_of_current_device() {
  cudaFuncAttributes attributes{};
  // Fails without a driver, with one that is older than the CUDA of this module, and where there is neither code for
  // this device nor code that its driver can compile for it.
  const cudaError_t status = cudaFuncGetAttributes(&attributes, any_kernel);
  if (status == cudaSuccess) return "";
  cudaGetLastError();  // PyTorch would find it and take it for its own
  return cudaGetErrorString(status);
}

}  // namespace dynamicseg
