// relu_batch_norm on the CPU, one run of pixels at a time. Compiled once for each instruction set.
//
// Fused: ReLU with the statistics in one reading of the map; ReLU, normalisation and affine map in a second one that
// writes the result. Backward: ReLU and both sums of a channel in one reading of map and gradient; ReLU, its mask and
// the gradient of the normalisation in a second one.
// Never written to memory: the result of the ReLU, its mask, the normalised map before the affine map.
// Bytes, for maps of n bytes: forward 2n read and n written, backward 4n read and n written.
// Sums: float32 (for float64 maps float64) over a block of pixels in the first-level cache, float64 beyond it. A
// block's squares are summed around its own mean, so that a mean far from 0 costs no digits of the variance.

#include <stdexcept>

#include "cpu/relu_batch_norm_channels_last.h"
#include "cpu/relu_batch_norm_contiguous.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

template <class Storage, bool kRelu>
ReluBatchNormKernels kernels_for(MemoryFormat format) {
  if (format == MemoryFormat::channels_last) {
    return {moments_channels_last<Storage, kRelu>, normalise_channels_last<Storage, kRelu>,
            sums_channels_last<Storage, kRelu>, grad_channels_last<Storage, kRelu>};
  }
  return {moments_contiguous<Storage, kRelu>, normalise_contiguous<Storage, kRelu>, sums_contiguous<Storage, kRelu>,
          grad_contiguous<Storage, kRelu>};
}

template <class Storage>
ReluBatchNormKernels kernels_for(const ReluBatchNormParams& params) {
  return params.relu ? kernels_for<Storage, true>(params.format) : kernels_for<Storage, false>(params.format);
}

}  // namespace

ReluBatchNormKernels relu_batch_norm_kernels(const ReluBatchNormParams& params) {
  switch (params.dtype) {
    case DType::float32:
      return kernels_for<float>(params);
    case DType::float64:
      return kernels_for<double>(params);
    case DType::bfloat16:
      return kernels_for<BFloat16>(params);
    case DType::float16:
      break;
  }
  throw std::invalid_argument("float16 has kernels on GPUs alone");
}

}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
