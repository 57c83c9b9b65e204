// Sums that the backward pass of batch norm needs of the gradient.
#pragma once

#include <cstdint>
#include <vector>

namespace dynamicseg {

// Sums over all pixels, channel by channel: of the gradient, and of the gradient times (x - mean). Each [C].
struct GradientSums {
  std::vector<double> grad;
  std::vector<double> grad_centred;
};

// The same over one part of the map, which a kernel writes; null where they are not wanted.
struct PartialGradientSums {
  double* grad;          // [C]
  double* grad_centred;  // [C]
};

// Two arrays of one double a channel for each part of the map, so that parts may be done in any order on any thread and
// are added up in their own; none for 0 channels.
class SumsOfParts {
 public:
  SumsOfParts(std::int64_t parts, std::int64_t channels)
      : parts_(parts), channels_(channels), sums_(static_cast<std::size_t>(2 * parts * channels)) {}

  double* first(std::int64_t part) { return channels_ == 0 ? nullptr : sums_.data() + 2 * part * channels_; }
  double* second(std::int64_t part) { return channels_ == 0 ? nullptr : first(part) + channels_; }

  PartialGradientSums of_gradient(std::int64_t part) { return {first(part), second(part)}; }

  GradientSums total_of_gradient() {
    GradientSums total{std::vector<double>(static_cast<std::size_t>(channels_)),
                       std::vector<double>(static_cast<std::size_t>(channels_))};
    for (std::int64_t part = 0; part < parts_; ++part) {
      for (std::int64_t c = 0; c < channels_; ++c) {
        total.grad[static_cast<std::size_t>(c)] += first(part)[c];
        total.grad_centred[static_cast<std::size_t>(c)] += second(part)[c];
      }
    }
    return total;
  }

 private:
  std::int64_t parts_, channels_;
  std::vector<double> sums_;
};

}  // namespace dynamicseg
