// dynamic_loss on the CPU, one tile at a time. Compiled once for each instruction set.
//
// Fused: argmax, logsumexp, label bitmap, similarity and both continuity terms in one reading of the map; then softmax,
// one-hot label and the signs of four differences in a second reading that writes the gradient. The label count of a
// whole image lies between the two, for it decides the weight. Where both readings are one call and the map is channels
// last, the first takes only the labels, and the second everything else, so that each exponential is taken once.
// Never written to memory: softmax, differences, signs, one-hot labels; nothing of the map's size but the gradient.
// Bytes, for a map of n bytes: forward n read, backward n read and n written; labels and logsumexp are 1/C of that.
// Tie rule: the lowest channel wins the label; a NaN wins over every number, the first one over later ones.

#include "cpu/dynamic_loss_channels_last.h"
#include "cpu/dynamic_loss_contiguous.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

template <class Storage>
DynamicLossKernels kernels_for(MemoryFormat format, bool masked, std::int64_t channels) {
  if (format == MemoryFormat::channels_last) {
    return {channels <= kBlock ? label_channels_last<Storage> : nullptr, measure_channels_last<Storage>,
            forward_channels_last<Storage>, backward_channels_last<Storage>};
  }
  if (masked) return {nullptr, nullptr, forward_contiguous<Storage, true>, backward_contiguous<Storage, true>};
  return {nullptr, nullptr, forward_contiguous<Storage, false>, backward_contiguous<Storage, false>};
}

}  // namespace

DynamicLossKernels dynamic_loss_kernels(const DynamicLossParams& params) {
  const bool masked = params.mask != nullptr;
  switch (params.dtype) {
    case DType::float32:
      return kernels_for<float>(params.format, masked, params.shape.channels);
    case DType::float64:
      return kernels_for<double>(params.format, masked, params.shape.channels);
    case DType::bfloat16:
      break;
  }
  return kernels_for<BFloat16>(params.format, masked, params.shape.channels);
}

}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
