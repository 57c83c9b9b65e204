// relu_batch_norm of contiguous maps: neighbouring pixels of one channel fill the lanes. Part of
// relu_batch_norm_kernels.cpp.
#pragma once

#include "cpu/pixel_run.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// Sums that do not wait for each other: an addition takes several cycles.
constexpr int kSumsTogether = 4;

template <class Value>
struct LaneSums {
  Values<Value> parts[kSumsTogether]{};

  __attribute__((always_inline)) Values<Value> total() const { return (parts[0] + parts[1]) + (parts[2] + parts[3]); }
};

// Calls body(part, begin, lanes) like for_lanes, with parts taking turns.
template <class Value, class Body>
DYNAMICSEG_INLINE void for_lanes_in_turns(std::int64_t count, Body body) {
  constexpr int kWhole = kLanes<Value>;
  constexpr std::integral_constant<int, kWhole> kAll{};
  std::int64_t begin = 0;
  for (; begin + kSumsTogether * kWhole <= count; begin += kSumsTogether * kWhole) {
    for (int part = 0; part < kSumsTogether; ++part) body(part, begin + part * kWhole, kAll);
  }
  for_lanes<Value>(count - begin,
                   [&](std::int64_t at, auto lanes) __attribute__((always_inline)) { body(0, begin + at, lanes); });
}

template <class Storage, bool kRelu>
void moments_contiguous(const ReluBatchNormParams& params, const PixelRun& run, const Moments& moments) {
  using Value = Compute<Storage>;
  const auto count = static_cast<double>(run.end - run.begin);
  for (std::int64_t c = 0; c < params.shape.channels; ++c) {
    const Storage* channel = static_cast<const Storage*>(params.x) + c * params.strides.channel;
    const auto for_values = [&](Value beyond, auto body) __attribute__((always_inline)) {
      for_pieces(run, kRunPixels,
                 [&](std::int64_t row, std::int64_t column, std::int64_t pixels) __attribute__((always_inline)) {
                   const Storage* x = pixel_of(channel, params.strides, run, row, column);
                   for_lanes_in_turns<Value>(
                       pixels, [&](int part, std::int64_t begin, auto lanes) __attribute__((always_inline)) {
                         body(part, rectified<kRelu>(load(x + begin, lanes, broadcast<Value>(beyond))));
                       });
                 });
    };
    LaneSums<Value> sum, left, square;
    for_values(0, [&](int part, Values<Value> value) __attribute__((always_inline)) { sum.parts[part] += value; });
    const double rough = sum_of_lanes(sum.total()) / count;
    const auto mean = static_cast<Value>(rough);
    for_values(mean, [&](int part, Values<Value> value) __attribute__((always_inline)) {
      const Values<Value> centred = value - mean;
      left.parts[part] += centred;
      square.parts[part] += centred * centred;
    });
    // What the rounded mean has left over is put right.
    const double rest = sum_of_lanes(left.total());
    moments.mean[c] = static_cast<double>(mean) + rest / count;
    moments.squares[c] = sum_of_lanes(square.total()) - rest * rest / count;
  }
}

// Calls body(c, x, other, target, pixels) for each channel and piece of a run. Where `stream` says so, what was written
// to target is then written past the caches.
template <class Storage, class Body>
DYNAMICSEG_INLINE void for_written_pieces(const ReluBatchNormParams& params, const PixelRun& run, void* result,
                                          const MapStrides& result_strides, bool stream, Body body) {
  Storage gathered[kRunPixels];
  for (std::int64_t c = 0; c < params.shape.channels; ++c) {
    for_pieces(run, kRunPixels,
               [&](std::int64_t row, std::int64_t column, std::int64_t pixels) __attribute__((always_inline)) {
                 Storage* target = pixel_of(static_cast<Storage*>(result) + c * result_strides.channel, result_strides,
                                            run, row, column);
                 body(c, row, column, stream ? gathered : target, pixels);
                 if (stream) stream_copy(target, gathered, pixels * static_cast<int>(sizeof(Storage)));
               });
  }
  if (stream) finish_stream();
}

template <class Storage, bool kRelu>
void normalise_contiguous(const ReluBatchNormParams& params, const PixelRun& run, const ChannelFactors& factors,
                          bool stream) {
  using Value = Compute<Storage>;
  for_written_pieces<Storage>(
      params, run, params.y, params.y_strides, stream,
      [&](std::int64_t c, std::int64_t row, std::int64_t column, Storage* y, std::int64_t pixels)
          __attribute__((always_inline)) {
            const Storage* x = pixel_of(static_cast<const Storage*>(params.x) + c * params.strides.channel,
                                        params.strides, run, row, column);
            const Value mean = factors_of<Value>(factors.mean)[c];
            const Value scale = factors_of<Value>(factors.scale)[c];
            const Value offset = factors_of<Value>(factors.offset)[c];
            for_lanes<Value>(pixels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
              const Values<Value> r = rectified<kRelu>(load(x + begin, count, Values<Value>{}));
              store(y + begin, count, (r - mean) * scale + offset);
            });
          });
}

template <class Storage, bool kRelu>
void sums_contiguous(const ReluBatchNormParams& params, const PixelRun& run, const PartialGradientSums& sums) {
  using Value = Compute<Storage>;
  for (std::int64_t c = 0; c < params.shape.channels; ++c) {
    const Value mean = static_cast<const Value*>(params.mean)[c];
    LaneSums<Value> sum, centred;
    for_pieces(run, kRunPixels,
               [&](std::int64_t row, std::int64_t column, std::int64_t pixels) __attribute__((always_inline)) {
                 const Storage* x = pixel_of(static_cast<const Storage*>(params.x) + c * params.strides.channel,
                                             params.strides, run, row, column);
                 const Storage* grad_y =
                     pixel_of(static_cast<const Storage*>(params.grad_y) + c * params.grad_y_strides.channel,
                              params.grad_y_strides, run, row, column);
                 for_lanes_in_turns<Value>(
                     pixels, [&](int part, std::int64_t begin, auto lanes) __attribute__((always_inline)) {
                       const Values<Value> rest{};
                       const Values<Value> grad = load(grad_y + begin, lanes, rest);
                       sum.parts[part] += grad;
                       centred.parts[part] += grad * (rectified<kRelu>(load(x + begin, lanes, rest)) - mean);
                     });
               });
    sums.grad[c] = sum_of_lanes(sum.total());
    sums.grad_centred[c] = sum_of_lanes(centred.total());
  }
}

template <class Storage, bool kRelu>
void grad_contiguous(const ReluBatchNormParams& params, const PixelRun& run, const ChannelFactors& factors,
                     bool stream) {
  using Value = Compute<Storage>;
  for_written_pieces<Storage>(
      params, run, params.grad_x, params.grad_x_strides, stream,
      [&](std::int64_t c, std::int64_t row, std::int64_t column, Storage* grad_x,
          std::int64_t pixels) __attribute__((always_inline)) {
        const Storage* x = pixel_of(static_cast<const Storage*>(params.x) + c * params.strides.channel, params.strides,
                                    run, row, column);
        const Storage* grad_y = pixel_of(static_cast<const Storage*>(params.grad_y) + c * params.grad_y_strides.channel,
                                         params.grad_y_strides, run, row, column);
        const Value mean = factors_of<Value>(factors.mean)[c];
        const Value scale = factors_of<Value>(factors.scale)[c];
        const Value offset = factors_of<Value>(factors.offset)[c];
        const Value slope = factors_of<Value>(factors.slope)[c];
        for_lanes<Value>(pixels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
          const Values<Value> rest{};
          const Values<Value> value = load(x + begin, count, rest);
          Values<Value> grad_r =
              load(grad_y + begin, count, rest) * scale + offset + (rectified<kRelu>(value) - mean) * slope;
          if constexpr (kRelu) grad_r = value <= rest ? rest : grad_r;
          store(grad_x + begin, count, grad_r);
        });
      });
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
