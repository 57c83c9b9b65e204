// Interim: stands in for kernels that are not there yet.
#include <stdexcept>

#include "dynamicseg/batch_norm_dynamic_loss.h"
#include "dynamicseg/dynamic_loss.h"
#include "dynamicseg/relu_batch_norm.h"
namespace dynamicseg {
#define WEAK __attribute__((weak))
WEAK std::int64_t dynamic_loss_workspace_bytes(const DynamicLossParams&) { return 0; }
WEAK void launch_dynamic_loss(const DynamicLossParams&, const CudaLaunch&) { throw std::runtime_error("not written"); }
WEAK void launch_dynamic_loss_backward(const DynamicLossParams&, const CudaLaunch&) { throw std::runtime_error("not written"); }
WEAK std::int64_t batch_norm_dynamic_loss_workspace_bytes(const BatchNormDynamicLossParams&) { return 0; }
WEAK void launch_batch_norm_dynamic_loss(const BatchNormDynamicLossParams&, const CudaLaunch&) { throw std::runtime_error("not written"); }
WEAK std::int64_t relu_batch_norm_workspace_bytes(const ReluBatchNormParams&) { return 0; }
WEAK void launch_relu_batch_norm(const ReluBatchNormParams&, const CudaLaunch&) { throw std::runtime_error("not written"); }
WEAK void launch_relu_batch_norm_backward(const ReluBatchNormParams&, const CudaLaunch&) { throw std::runtime_error("not written"); }
}  // namespace dynamicseg
