// dynamic_loss as a part of another op.
#pragma once

#include "cpu/gradient_sums.h"
#include "dynamicseg/dynamic_loss.h"

namespace dynamicseg {

// dynamic_loss_cpu; where the map is normalised as it is read, also the sums of the gradient.
GradientSums dynamic_loss_with_grad_sums(const DynamicLossParams& params);

}  // namespace dynamicseg
