// relu_batch_norm of channels-last maps: the channels of one pixel fill the lanes. Part of relu_batch_norm_kernels.cpp.
#pragma once

#include "cpu/pixel_run.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

// Channels and elements that are worked on together: two maps, what is gathered of a third and the factors of the
// channels then stay in the first-level cache. Twice as many took a quarter longer.
constexpr std::int64_t kChannelsTogether = 1024;
constexpr std::int64_t kElementsTogether = 2048;

// Vectors whose sums are held in registers at the same time.
#if defined(__AVX512F__)
constexpr int kVectorsTogether = 8;
#else
constexpr int kVectorsTogether = 4;
#endif

// `kCount` vectors of channels, from `begin` on, at most `last`: the last vector of a pixel reaches back over channels
// of the one before it where it would reach beyond the pixel. Their sums are then computed twice, to the same bits.
template <int kCount>
struct VectorsOfChannels {
  static constexpr int kVectors = kCount;
  std::int64_t begin, last;
  int lanes;

  template <class Value>
  __attribute__((always_inline)) std::int64_t offset(int vector) const {
    return smaller(begin + vector * kLanes<Value>, last);
  }
};

template <int kCount, class Body>
DYNAMICSEG_INLINE void call_with_vectors(std::int64_t count, std::int64_t begin, std::int64_t last, int lanes,
                                         Body body) {
  if constexpr (kCount == 1) {
    body(VectorsOfChannels<1>{begin, last, lanes});
  } else if (count == kCount) {
    body(VectorsOfChannels<kCount>{begin, last, lanes});
  } else {
    call_with_vectors<kCount - 1>(count, begin, last, lanes, body);
  }
}

// Calls body(vectors) until all channels were in one of them. Fewer channels than a vector has lanes are one vector, of
// so many lanes.
template <class Value, class Body>
DYNAMICSEG_INLINE void for_vectors(std::int64_t channels, Body body) {
  constexpr int kWhole = kLanes<Value>;
  if (channels < kWhole) {
    body(VectorsOfChannels<1>{0, 0, static_cast<int>(channels)});
    return;
  }
  const std::int64_t vectors = (channels + kWhole - 1) / kWhole;
  for (std::int64_t vector = 0; vector < vectors; vector += kVectorsTogether) {
    call_with_vectors<kVectorsTogether>(smaller(vectors - vector, kVectorsTogether), vector * kWhole, channels - kWhole,
                                        kWhole, body);
  }
}

template <class Storage>
DYNAMICSEG_INLINE Values<Compute<Storage>> load_lanes(const Storage* source, int lanes) {
  return lanes == kLanes<Compute<Storage>> ? load(source) : load_first(source, lanes, Values<Compute<Storage>>{});
}

template <class Storage>
DYNAMICSEG_INLINE void store_lanes(Storage* target, int lanes, Values<Compute<Storage>> values) {
  if (lanes == kLanes<Compute<Storage>>) {
    store(target, values);
  } else {
    store_first(target, lanes, values);
  }
}

// Calls body(x, pixels, channel, channels) for blocks of a run that stay in the first-level cache; x is the first
// channel of the first pixel.
template <class Body>
DYNAMICSEG_INLINE void for_blocks(const ReluBatchNormParams& params, const PixelRun& run, Body body) {
  for (std::int64_t channel = 0; channel < params.shape.channels; channel += kChannelsTogether) {
    const std::int64_t channels = smaller(params.shape.channels - channel, kChannelsTogether);
    for_pieces(run, kElementsTogether / channels,
               [&](std::int64_t row, std::int64_t column, std::int64_t pixels)
                   __attribute__((always_inline)) { body(row, column, pixels, channel, channels); });
  }
}

template <class Storage, bool kRelu>
void moments_channels_last(const ReluBatchNormParams& params, const PixelRun& run, const Moments& moments) {
  using Value = Compute<Storage>;
  const std::int64_t step = params.strides.width;
  alignas(kVectorBytes) Value centre[kChannelsTogether];
  alignas(kVectorBytes) Value rest[kChannelsTogether];
  alignas(kVectorBytes) Value squares[kChannelsTogether];
  std::int64_t seen = 0;
  for (std::int64_t c = 0; c < params.shape.channels; ++c) moments.mean[c] = moments.squares[c] = 0;

  for_blocks(params, run,
             [&](std::int64_t row, std::int64_t column, std::int64_t pixels, std::int64_t channel,
                 std::int64_t channels) __attribute__((always_inline)) {
               const Storage* x =
                   pixel_of(static_cast<const Storage*>(params.x), params.strides, run, row, column) + channel;
               for_vectors<Value>(channels, [&](auto vectors) __attribute__((always_inline)) {
                 constexpr int kVectors = decltype(vectors)::kVectors;
                 const auto value = [&](std::int64_t i, int v) __attribute__((always_inline)) {
                   const Storage* at = x + i * step + vectors.template offset<Value>(v);
                   return rectified<kRelu>(kVectors == 1 ? load_lanes(at, vectors.lanes) : load(at));
                 };
                 Values<Value> sum[kVectors]{};
                 for (std::int64_t i = 0; i < pixels; ++i) {
                   for (int v = 0; v < kVectors; ++v) sum[v] += value(i, v);
                 }
                 Values<Value> mean[kVectors], left[kVectors]{}, square[kVectors]{};
                 for (int v = 0; v < kVectors; ++v) mean[v] = sum[v] / static_cast<Value>(pixels);
                 for (std::int64_t i = 0; i < pixels; ++i) {
                   for (int v = 0; v < kVectors; ++v) {
                     const Values<Value> centred = value(i, v) - mean[v];
                     left[v] += centred;
                     square[v] += centred * centred;
                   }
                 }
                 for (int v = 0; v < kVectors; ++v) {
                   const std::int64_t offset = vectors.template offset<Value>(v);
                   store(centre + offset, mean[v]);
                   store(rest + offset, left[v]);
                   store(squares + offset, square[v]);
                 }
               });

               // Chan, Golub, LeVeque 1983. What the rounded mean has left over is put right.
               if (run.begin + seen == run.end) seen = 0;  // the next channels
               const double count = static_cast<double>(pixels);
               const double share = count / static_cast<double>(seen + pixels);
               const double between = static_cast<double>(seen) * share;
               for (std::int64_t c = 0; c < channels; ++c) {
                 const double left = static_cast<double>(rest[c]) / count;
                 const double away = static_cast<double>(centre[c]) + left - moments.mean[channel + c];
                 moments.mean[channel + c] += away * share;
                 moments.squares[channel + c] +=
                     static_cast<double>(squares[c]) - left * static_cast<double>(rest[c]) + away * away * between;
               }
               seen += pixels;
             });
}

// Writes pixels that were gathered in the first-level cache, past the other caches where `stream` says so.
template <class Storage>
DYNAMICSEG_INLINE void write_pixels(Storage* target, std::int64_t step, const Storage* gathered, std::int64_t pixels,
                                    std::int64_t channels, bool stream) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(Storage));
  if (step == channels && stream) {
    stream_copy(target, gathered, pixels * channels * kBytes);
    return;
  }
  for (std::int64_t i = 0; i < pixels; ++i) {
    std::memcpy(target + i * step, gathered + i * channels, static_cast<std::size_t>(channels * kBytes));
  }
}

// Calls body(offset, count) for whole vectors; the last one reaches back as above. Only where what is written is not
// read again.
template <class Value, class Body>
DYNAMICSEG_INLINE void for_whole_vectors(std::int64_t channels, Body body) {
  constexpr int kWhole = kLanes<Value>;
  if (channels < kWhole) {
    body(0, static_cast<int>(channels));
    return;
  }
  std::int64_t begin = 0;
  for (; begin + kWhole <= channels; begin += kWhole) body(begin, std::integral_constant<int, kWhole>{});
  if (begin < channels) body(channels - kWhole, std::integral_constant<int, kWhole>{});
}

template <class Storage, bool kRelu>
void normalise_channels_last(const ReluBatchNormParams& params, const PixelRun& run, const ChannelFactors& factors,
                             bool stream) {
  using Value = Compute<Storage>;
  alignas(kVectorBytes) Storage gathered[kElementsTogether];
  for_blocks(params, run,
             [&](std::int64_t row, std::int64_t column, std::int64_t pixels, std::int64_t channel,
                 std::int64_t channels) __attribute__((always_inline)) {
               const Storage* x =
                   pixel_of(static_cast<const Storage*>(params.x), params.strides, run, row, column) + channel;
               const Value* mean = factors_of<Value>(factors.mean) + channel;
               const Value* scale = factors_of<Value>(factors.scale) + channel;
               const Value* offset = factors_of<Value>(factors.offset) + channel;
               for (std::int64_t i = 0; i < pixels; ++i) {
                 const Storage* pixel = x + i * params.strides.width;
                 Storage* result = gathered + i * channels;
                 for_whole_vectors<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
                   const Values<Value> r = rectified<kRelu>(load(pixel + begin, count, Values<Value>{}));
                   store(result + begin, count, (r - load(mean + begin)) * load(scale + begin) + load(offset + begin));
                 });
               }
               Storage* y = pixel_of(static_cast<Storage*>(params.y), params.y_strides, run, row, column) + channel;
               write_pixels(y, params.y_strides.width, gathered, pixels, channels, stream);
             });
  if (stream) finish_stream();
}

template <class Storage, bool kRelu>
void sums_channels_last(const ReluBatchNormParams& params, const PixelRun& run, const PartialGradientSums& sums) {
  using Value = Compute<Storage>;
  alignas(kVectorBytes) Value grads[kChannelsTogether];
  alignas(kVectorBytes) Value grads_centred[kChannelsTogether];
  for (std::int64_t c = 0; c < params.shape.channels; ++c) sums.grad[c] = sums.grad_centred[c] = 0;

  for_blocks(
      params, run,
      [&](std::int64_t row, std::int64_t column, std::int64_t pixels, std::int64_t channel,
          std::int64_t channels) __attribute__((always_inline)) {
        const Storage* x = pixel_of(static_cast<const Storage*>(params.x), params.strides, run, row, column) + channel;
        const Storage* grad_y =
            pixel_of(static_cast<const Storage*>(params.grad_y), params.grad_y_strides, run, row, column) + channel;
        const Value* means = static_cast<const Value*>(params.mean) + channel;
        for_vectors<Value>(channels, [&](auto vectors) __attribute__((always_inline)) {
          constexpr int kVectors = decltype(vectors)::kVectors;
          const auto at = [&](const auto* map, int v) __attribute__((always_inline)) {
            const auto* from = map + vectors.template offset<Value>(v);
            return kVectors == 1 ? load_lanes(from, vectors.lanes) : load(from);
          };
          Values<Value> mean[kVectors], sum[kVectors]{}, centred[kVectors]{};
          for (int v = 0; v < kVectors; ++v) mean[v] = at(means, v);
          for (std::int64_t i = 0; i < pixels; ++i) {
            for (int v = 0; v < kVectors; ++v) {
              const Values<Value> grad = at(grad_y + i * params.grad_y_strides.width, v);
              sum[v] += grad;
              centred[v] += grad * (rectified<kRelu>(at(x + i * params.strides.width, v)) - mean[v]);
            }
          }
          for (int v = 0; v < kVectors; ++v) {
            store(grads + vectors.template offset<Value>(v), sum[v]);
            store(grads_centred + vectors.template offset<Value>(v), centred[v]);
          }
        });
        for (std::int64_t c = 0; c < channels; ++c) {
          sums.grad[channel + c] += static_cast<double>(grads[c]);
          sums.grad_centred[channel + c] += static_cast<double>(grads_centred[c]);
        }
      });
}

template <class Storage, bool kRelu>
void grad_channels_last(const ReluBatchNormParams& params, const PixelRun& run, const ChannelFactors& factors,
                        bool stream) {
  using Value = Compute<Storage>;
  alignas(kVectorBytes) Storage gathered[kElementsTogether];
  for_blocks(
      params, run,
      [&](std::int64_t row, std::int64_t column, std::int64_t pixels, std::int64_t channel,
          std::int64_t channels) __attribute__((always_inline)) {
        const Storage* x = pixel_of(static_cast<const Storage*>(params.x), params.strides, run, row, column) + channel;
        const Storage* grad_y =
            pixel_of(static_cast<const Storage*>(params.grad_y), params.grad_y_strides, run, row, column) + channel;
        const Value* mean = factors_of<Value>(factors.mean) + channel;
        const Value* scale = factors_of<Value>(factors.scale) + channel;
        const Value* offset = factors_of<Value>(factors.offset) + channel;
        const Value* slope = factors_of<Value>(factors.slope) + channel;
        for (std::int64_t i = 0; i < pixels; ++i) {
          const Storage* pixel = x + i * params.strides.width;
          const Storage* grad = grad_y + i * params.grad_y_strides.width;
          Storage* result = gathered + i * channels;
          for_whole_vectors<Value>(channels, [&](std::int64_t begin, auto count) __attribute__((always_inline)) {
            const Values<Value> rest{};
            const Values<Value> value = load(pixel + begin, count, rest);
            const Values<Value> centred = rectified<kRelu>(value) - load(mean + begin);
            Values<Value> grad_r = load(grad + begin, count, rest) * load(scale + begin) + load(offset + begin) +
                                   centred * load(slope + begin);
            if constexpr (kRelu) grad_r = value <= rest ? rest : grad_r;
            store(result + begin, count, grad_r);
          });
        }
        Storage* grad_x =
            pixel_of(static_cast<Storage*>(params.grad_x), params.grad_x_strides, run, row, column) + channel;
        write_pixels(grad_x, params.grad_x_strides.width, gathered, pixels, channels, stream);
      });
  if (stream) finish_stream();
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
