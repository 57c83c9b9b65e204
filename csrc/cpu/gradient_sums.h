// What the backward pass of batch norm needs of the whole gradient.
#pragma once

#include <vector>

namespace dynamicseg {

// Sums over all pixels, channel by channel: of the gradient, and of the gradient times (x - mean). Each [C].
struct GradientSums {
  std::vector<double> grad;
  std::vector<double> grad_centred;
};

}  // namespace dynamicseg
