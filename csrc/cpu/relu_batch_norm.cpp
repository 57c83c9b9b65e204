// relu_batch_norm on the CPU: runs of pixels, threads, and what needs the sums of a whole channel. The arithmetic of a
// run is in relu_batch_norm_kernels.cpp.

#include "dynamicseg/relu_batch_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/gradient_sums.h"
#include "cpu/instruction_set.h"
#include "cpu/parallel.h"
#include "cpu/relu_batch_norm_kernels.h"
#include "cpu/relu_batch_norm_phases.h"
#include "cpu/statistic.h"

namespace dynamicseg {
namespace {

ReluBatchNormKernels kernels_of_active_instruction_set(const ReluBatchNormParams& params) {
  switch (active_instruction_set()) {
#if defined(DYNAMICSEG_X86_64)
    case InstructionSet::avx512:
      return avx512::relu_batch_norm_kernels(params);
    case InstructionSet::avx2:
      return avx2::relu_batch_norm_kernels(params);
#endif
    default:
      return baseline::relu_batch_norm_kernels(params);
  }
}

std::int64_t pixels_of_image(const ReluBatchNormParams& params) { return params.shape.height * params.shape.width; }

double values_of_channel(const ReluBatchNormParams& params) {
  return static_cast<double>(params.shape.batch * pixels_of_image(params));
}

// Whether the pixels of an image lie at equal distances, also from one row to the next: at the distance that the
// kernels take. A map of one column may have any stride along its width.
bool has_no_gaps(MemoryFormat format, const MapShape& shape, const MapStrides& strides) {
  if (format == MemoryFormat::contiguous && strides.width != 1) return false;
  return strides.height == shape.width * strides.width;
}

// All images of a batch cut into runs of pixels, image after image.
class Runs {
 public:
  explicit Runs(const ReluBatchNormParams& params)
      : format_(params.format),
        shape_(params.shape),
        pixels_(pixels_of_image(params)),
        run_pixels_(std::clamp<std::int64_t>((pixels_ / kRuns + 63) / 64 * 64, 512, kRunPixels)),
        per_image_((pixels_ + run_pixels_ - 1) / run_pixels_),
        row_length_(shape_.width) {}

  // For kernels that sum nothing, so that the pieces they work on may depend on strides.
  Runs across_rows(const MapStrides& a, const MapStrides& b, const MapStrides& c) const {
    Runs across = *this;
    if (has_no_gaps(format_, shape_, a) && has_no_gaps(format_, shape_, b) && has_no_gaps(format_, shape_, c)) {
      across.row_length_ = pixels_;
    }
    return across;
  }

  std::int64_t count() const { return shape_.batch * per_image_; }

  PixelRun operator[](std::int64_t index) const {
    const std::int64_t begin = index % per_image_ * run_pixels_;
    return {index / per_image_, begin, std::min(begin + run_pixels_, pixels_), row_length_};
  }

  // Calls body(index) for each run.
  template <class Body>
  void for_each(Body body) const {
    for_parts(count(), shape_, body);
  }

 private:
  // Of a photo: enough for many threads, and few enough that a run is long.
  static constexpr std::int64_t kRuns = 64;

  MemoryFormat format_;
  MapShape shape_;
  std::int64_t pixels_, run_pixels_, per_image_, row_length_;
};

// Mean and squares of all runs together (Chan, Golub, LeVeque 1983).
void write_statistics_of(const ReluBatchNormParams& params, const Runs& runs, SumsOfParts& moments) {
  const std::int64_t channels = params.shape.channels;
  std::vector<double> mean(static_cast<std::size_t>(channels)), squares(static_cast<std::size_t>(channels));
  double seen = 0;
  for (std::int64_t index = 0; index < runs.count(); ++index) {
    const auto count = static_cast<double>(runs[index].end - runs[index].begin);
    const double share = count / (seen + count);
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double away = moments.first(index)[c] - mean[i];
      mean[i] += away * share;
      squares[i] += moments.second(index)[c] + away * away * seen * share;
    }
    seen += count;
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    const auto i = static_cast<std::size_t>(c);
    const double variance = squares[i] < 0 ? 0 : squares[i] / seen;
    write_statistic(params.mean, params.dtype, c, mean[i]);
    write_statistic(params.rstd, params.dtype, c, 1 / std::sqrt(variance + params.eps));
  }
}

}  // namespace

void write_statistics(const ReluBatchNormParams& params) {
  const ReluBatchNormKernels kernels = kernels_of_active_instruction_set(params);
  const Runs runs(params);
  SumsOfParts moments(runs.count(), params.shape.channels);
  runs.for_each(
      [&](std::int64_t index) { kernels.moments(params, runs[index], {moments.first(index), moments.second(index)}); });
  write_statistics_of(params, runs, moments);
}

void relu_batch_norm_cpu(const ReluBatchNormParams& params) {
  write_statistics(params);
  const std::int64_t channels = params.shape.channels;
  ChannelArray mean(params.dtype, channels), scale(params.dtype, channels), offset(params.dtype, channels);
  for (std::int64_t c = 0; c < channels; ++c) {
    mean.set(c, read_statistic(params.mean, params.dtype, c));
    scale.set(c, read_statistic(params.weight, params.dtype, c) * read_statistic(params.rstd, params.dtype, c));
    offset.set(c, read_statistic(params.bias, params.dtype, c));
  }
  const ReluBatchNormKernels kernels = kernels_of_active_instruction_set(params);
  const ChannelFactors factors{mean.data(), scale.data(), offset.data(), nullptr};
  const bool stream = is_streamed(params.shape, params.dtype);
  const Runs runs = Runs(params).across_rows(params.strides, params.y_strides, params.y_strides);
  // Backwards through the map: its end is what the statistics have left in the caches.
  const std::int64_t last = runs.count() - 1;
  runs.for_each([&](std::int64_t index) { kernels.normalise(params, runs[last - index], factors, stream); });
}

void write_gradients(const ReluBatchNormParams& params, const GradientSums& sums) {
  const std::int64_t channels = params.shape.channels;
  const double count = values_of_channel(params);
  ChannelArray mean(params.dtype, channels), scale(params.dtype, channels), offset(params.dtype, channels),
      slope(params.dtype, channels);
  for (std::int64_t c = 0; c < channels; ++c) {
    const double rstd = read_statistic(params.rstd, params.dtype, c);
    const double factor = read_statistic(params.weight, params.dtype, c) * rstd;
    const double grad = sums.grad[static_cast<std::size_t>(c)];
    const double grad_centred = sums.grad_centred[static_cast<std::size_t>(c)];
    write_statistic(params.grad_bias, params.dtype, c, grad);
    write_statistic(params.grad_weight, params.dtype, c, grad_centred * rstd);
    mean.set(c, read_statistic(params.mean, params.dtype, c));
    scale.set(c, factor);
    offset.set(c, -factor * grad / count);
    slope.set(c, -factor * rstd * rstd * grad_centred / count);
  }
  const ReluBatchNormKernels kernels = kernels_of_active_instruction_set(params);
  const ChannelFactors factors{mean.data(), scale.data(), offset.data(), slope.data()};
  // Where the gradient takes the place of the one that arrived, its lines are in the caches.
  const bool stream = is_streamed(params.shape, params.dtype) && params.grad_x != params.grad_y;
  const Runs runs = Runs(params).across_rows(params.strides, params.grad_y_strides, params.grad_x_strides);
  const std::int64_t last = runs.count() - 1;
  runs.for_each([&](std::int64_t index) { kernels.grad(params, runs[last - index], factors, stream); });
}

void relu_batch_norm_backward_cpu(const ReluBatchNormParams& params) {
  const ReluBatchNormKernels kernels = kernels_of_active_instruction_set(params);
  const Runs runs(params);
  SumsOfParts sums(runs.count(), params.shape.channels);
  runs.for_each([&](std::int64_t index) { kernels.sums(params, runs[index], sums.of_gradient(index)); });
  write_gradients(params, sums.total_of_gradient());
}

}  // namespace dynamicseg
