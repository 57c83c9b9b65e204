// The kernels of every type, format and kind of continuity. Part of dynamic_loss_kernels.cpp and
// batch_norm_dynamic_loss_kernels.cpp.
#pragma once

#include <stdexcept>

#include "cpu/dynamic_loss_channels_last.h"
#include "cpu/dynamic_loss_contiguous.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals, bool kMasked>
DynamicLossKernels contiguous_kernels_of(bool targets) {
  const auto forward = forward_contiguous<Storage, kNormalised, kKind, kDiagonals, kMasked>;
  const auto backward = targets ? backward_contiguous<Storage, kNormalised, kKind, kDiagonals, kMasked, true>
                                : backward_contiguous<Storage, kNormalised, kKind, kDiagonals, kMasked, false>;
  return {nullptr, nullptr, forward, backward};
}

// Training never has normalised contiguous maps: there each element is asked for its mask and its labels, for all
// combinations would take long to compile.
template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals>
DynamicLossKernels contiguous_kernels_of(const DynamicLossParams& params) {
  const bool targets = params.scribbles != nullptr || params.guide != nullptr;
  if constexpr (kNormalised) {
    const auto forward = forward_contiguous<Storage, true, kKind, kDiagonals, true>;
    return {nullptr, nullptr, forward, backward_contiguous<Storage, true, kKind, kDiagonals, true, true>};
  } else {
    return params.mask == nullptr ? contiguous_kernels_of<Storage, false, kKind, kDiagonals, false>(targets)
                                  : contiguous_kernels_of<Storage, false, kKind, kDiagonals, true>(targets);
  }
}

template <class Storage, bool kNormalised, Continuity kKind, bool kDiagonals>
DynamicLossKernels kernels_of(const DynamicLossParams& params) {
  if (params.format == MemoryFormat::channels_last) {
    return {params.shape.channels <= kBlock ? label_channels_last<Storage, kNormalised> : nullptr,
            measure_channels_last<Storage, kNormalised, kKind, kDiagonals>,
            forward_channels_last<Storage, kNormalised, kKind, kDiagonals>,
            backward_channels_last<Storage, kNormalised, kKind, kDiagonals>};
  }
  return contiguous_kernels_of<Storage, kNormalised, kKind, kDiagonals>(params);
}

template <class Storage, bool kNormalised, Continuity kKind>
DynamicLossKernels kernels_of(const DynamicLossParams& params) {
  return params.diagonals ? kernels_of<Storage, kNormalised, kKind, true>(params)
                          : kernels_of<Storage, kNormalised, kKind, false>(params);
}

template <class Storage, bool kNormalised>
DynamicLossKernels kernels_of(const DynamicLossParams& params) {
  return params.continuity_kind == Continuity::huber ? kernels_of<Storage, kNormalised, Continuity::huber>(params)
                                                     : kernels_of<Storage, kNormalised, Continuity::l1>(params);
}

template <bool kNormalised>
DynamicLossKernels kernels_for(const DynamicLossParams& params) {
  switch (params.dtype) {
    case DType::float32:
      return kernels_of<float, kNormalised>(params);
    case DType::float64:
      return kernels_of<double, kNormalised>(params);
    case DType::bfloat16:
      return kernels_of<BFloat16, kNormalised>(params);
    case DType::float16:
      break;
  }
  throw std::invalid_argument("float16 has kernels on GPUs alone");
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
