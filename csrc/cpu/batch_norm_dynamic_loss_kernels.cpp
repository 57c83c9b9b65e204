// The kernels of dynamic_loss for maps that are normalised as they are read. Compiled once for each instruction set.
//
// Fused besides what dynamic_loss_kernels.cpp names: the batch norm before the loss, and the sums of the gradient that
// the batch norm's own backward pass needs.
// Never written to memory: the normalised map.
// Bytes, for a map of n bytes: statistics n read, labels n read, sums and gradient n read and n written; then batch
// norm backward, in relu_batch_norm_kernels.cpp, 2n read and n written. Tie rule: as there, among responses that are
// not rounded to the type of the map.

#include "cpu/dynamic_loss_table.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {

DynamicLossKernels batch_norm_dynamic_loss_kernels(const DynamicLossParams& params) {
  return kernels_for<true>(params);
}

}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
