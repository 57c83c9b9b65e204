// The kernels of every type and format. Part of dynamic_loss_kernels.cpp and batch_norm_dynamic_loss_kernels.cpp.
#pragma once

#include <stdexcept>

#include "cpu/dynamic_loss_channels_last.h"
#include "cpu/dynamic_loss_contiguous.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

template <class Storage, bool kNormalised>
DynamicLossKernels kernels_for(MemoryFormat format, bool masked, std::int64_t channels) {
  if (format == MemoryFormat::channels_last) {
    return {channels <= kBlock ? label_channels_last<Storage, kNormalised> : nullptr,
            measure_channels_last<Storage, kNormalised>, forward_channels_last<Storage, kNormalised>,
            backward_channels_last<Storage, kNormalised>};
  }
  if (masked) {
    return {nullptr, nullptr, forward_contiguous<Storage, kNormalised, true>,
            backward_contiguous<Storage, kNormalised, true>};
  }
  return {nullptr, nullptr, forward_contiguous<Storage, kNormalised, false>,
          backward_contiguous<Storage, kNormalised, false>};
}

template <bool kNormalised>
DynamicLossKernels kernels_for(const DynamicLossParams& params) {
  const bool masked = params.mask != nullptr;
  switch (params.dtype) {
    case DType::float32:
      return kernels_for<float, kNormalised>(params.format, masked, params.shape.channels);
    case DType::float64:
      return kernels_for<double, kNormalised>(params.format, masked, params.shape.channels);
    case DType::bfloat16:
      return kernels_for<BFloat16, kNormalised>(params.format, masked, params.shape.channels);
    case DType::float16:
      break;
  }
  throw std::invalid_argument("float16 has kernels on GPUs alone");
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
