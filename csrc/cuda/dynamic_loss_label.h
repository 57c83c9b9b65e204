// Phase `label` of dynamic_loss: labels and logsumexp of a run of pixels, in one reading of the map, and which labels
// are alive. Part of dynamic_loss.cu and batch_norm_dynamic_loss.cu.
//
// The packs of a pixel are spread over some neighbouring lanes; in contiguous maps one lane has them all. Each lane
// keeps its greatest response and the sum of exponentials relative to it, which a new greatest response scales; then
// the lanes put theirs together.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cmath>
#include <cstdint>

#include "cuda/block.h"
#include "cuda/dynamic_loss_image.h"
#include "cuda/exponential.h"

namespace dynamicseg {

// What a lane, and in the end a pixel, has found.
template <class Value>
struct TopResponse {
  Value top = -INFINITY;
  Value exp_sum = 0;  // of exp(response - shift())
  int label = INT_MAX;

  __device__ __forceinline__ Value shift() const { return isinf(top) ? Value(0) : top; }
};

// `kAnyNumber`: with the rules for infinities and NaN, which take longer. Without, a pixel that has one shows by its
// sum of exponentials, which is 0, infinite or NaN.
template <class Storage, Access kAccess, bool kNormalised, bool kAnyNumber>
class Labeller {
  using Value = Compute<Storage>;
  static constexpr int kElements = kPack<Storage>;

 public:
  // Pixels that a group of lanes works on together, so that several loads are under way: as many as registers allow.
  static constexpr int kPixels = kAccess == Access::by_element || kAnyNumber || sizeof(Storage) == 8 ? 1
                                 : sizeof(Storage) == 4                                              ? 4
                                                                                                     : 2;

  __device__ __forceinline__ Labeller(const DynamicLossParams& p, const DynamicLossPlan& plan, std::int64_t image)
      : p_(p),
        image_(p, image),
        lanes_(plan.lanes),
        lane_(static_cast<int>(threadIdx.x) % plan.lanes),
        equal_distances_(plan.equal_distances) {}

  // Pixels first, first + step, ... of the image, as far as they lie before `end`. All threads of a warp call it.
  // `alive`: a bit for each label, in shared memory. `last_label`: the last one that the thread has set there, -1
  // before. Returns whether there was any other than a finite number.
  __device__ __forceinline__ bool label(std::int64_t first, std::int64_t step, std::int64_t end, std::uint32_t* alive,
                                        int& last_label, double& similarity) const {
    bool inside[kPixels];
    const Storage* pixel[kPixels];
    TopResponse<Value> found[kPixels];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const std::int64_t index = first + i * step;
      inside[i] = index < end && image_.is_data(index);
      pixel[i] = image_.x + (inside[i] ? distance_of(index) : 0);
    }
    for (int channel = lane_ * kElements; channel < image_.channels; channel += lanes_ * kElements) {
      read(pixel, channel, found);
    }
    bool all_finite = true;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      put_together(found[i]);
      if (inside[i]) all_finite = all_finite && found[i].exp_sum > 0 && found[i].exp_sum < INFINITY;
      const std::int64_t index = first + i * step;
      if (lane_ == 0 && index < end) write(index, inside[i], found[i], alive, last_label, similarity);
    }
    return !all_finite;
  }

 private:
  // From the first pixel of the image to that of this index.
  __device__ __forceinline__ std::int64_t distance_of(std::int64_t index) const {
    if (equal_distances_) return index * image_.strides.width;  // a division would take as long as the pixel itself
    return index / image_.width * image_.strides.height + index % image_.width * image_.strides.width;
  }

  // Adds the pack that begins at `channel`, of each pixel, to what was found.
  __device__ __forceinline__ void read(const Storage* const* pixel, int channel, TopResponse<Value>* found) const {
    Pack<Storage> packs[kPixels];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      packs[i] = load_pack<Storage, kAccess>(pixel[i], image_.strides.channel, channel, image_.channels);
    }
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      Value x[kElements];
      numbers_of(packs[i], x);
      const Responses<Storage, kNormalised> responses(p_, x, channel);
      const Value shift_before = found[i].shift();
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const bool takes = kAnyNumber ? found[i].label == INT_MAX || takes_label(responses.of[e], found[i].top)
                                      : responses.of[e] > found[i].top;
        if (!takes || !is_channel<Storage, kAccess>(channel, e, image_.channels)) continue;
        found[i].top = responses.of[e];
        found[i].label = channel + e;
      }
      const Value shift = found[i].shift();
      if (found[i].exp_sum > 0) found[i].exp_sum *= exponential(shift_before - shift);
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const Value one = exponential(responses.of[e] - shift);
        if (is_channel<Storage, kAccess>(channel, e, image_.channels)) found[i].exp_sum += one;
      }
    }
  }

  // What the lanes of a pixel have found, as one, for all of them.
  __device__ __forceinline__ void put_together(TopResponse<Value>& found) const {
    TopResponse<Value> all = found;
    if constexpr (kAnyNumber) {
      for (int by = lanes_ / 2; by > 0; by /= 2) {
        const Value top = __shfl_xor_sync(kWholeWarp, all.top, by);
        const int label = __shfl_xor_sync(kWholeWarp, all.label, by);
        const bool equal = !takes_label(top, all.top) && !takes_label(all.top, top);
        if (label != INT_MAX && (takes_label(top, all.top) || (equal && label < all.label))) {
          all.top = top;
          all.label = label;
        }
      }
    } else {
      for (int by = lanes_ / 2; by > 0; by /= 2) all.top = fmax(all.top, __shfl_xor_sync(kWholeWarp, all.top, by));
      if (found.top != all.top) all.label = INT_MAX;
      for (int by = lanes_ / 2; by > 0; by /= 2) all.label = min(all.label, __shfl_xor_sync(kWholeWarp, all.label, by));
    }
    if (found.exp_sum > 0) all.exp_sum *= exponential(found.shift() - all.shift());
    for (int by = lanes_ / 2; by > 0; by /= 2) all.exp_sum += __shfl_xor_sync(kWholeWarp, all.exp_sum, by);
    found = all;
  }

  __device__ __forceinline__ void write(std::int64_t index, bool inside, const TopResponse<Value>& found,
                                        std::uint32_t* alive, int& last_label, double& similarity) const {
    if (!inside) {
      image_.label(index) = -1;
      image_.logsumexp(index) = 0;
      return;
    }
    // A pixel that is not finite has no label yet, and will be done again.
    const int label = found.label == INT_MAX ? 0 : found.label;
    const Value log_sum = log(found.exp_sum);
    image_.label(index) = label;
    image_.logsumexp(index) = found.shift() + log_sum;
    similarity += log_sum + (found.top - found.top);  // NaN where the top is infinite
    if (label != last_label)
      atomicOr(alive + label / 32, 1u << (label % 32));  // most pixels have that of the one before
    last_label = label;
  }

  const DynamicLossParams& p_;
  Image<Storage> image_;
  int lanes_, lane_;
  bool equal_distances_;
};

// Pixels `begin` to `end` of an image. Returns as Labeller::label does, for all threads.
template <class Storage, Access kAccess, bool kNormalised, bool kAnyNumber>
__device__ __forceinline__ bool label_pixels(const DynamicLossParams& p, const DynamicLossPlan& plan,
                                             std::int64_t image, std::int64_t begin, std::int64_t end,
                                             std::uint32_t* alive, double& similarity) {
  for (int word = static_cast<int>(threadIdx.x); word < ceil_div(p.shape.channels, 32); word += kThreads) {
    alive[word] = 0;
  }
  __syncthreads();
  const Labeller<Storage, kAccess, kNormalised, kAnyNumber> labeller(p, plan, image);
  const int groups = kThreads / plan.lanes;
  const int group = static_cast<int>(threadIdx.x) / plan.lanes;
  bool not_finite = false;
  int last_label = -1;
  similarity = 0;
#pragma unroll 1
  for (std::int64_t first = begin; first < end; first += groups * labeller.kPixels) {
    not_finite |= labeller.label(first + group, groups, end, alive, last_label, similarity);
  }
  return __syncthreads_or(not_finite) != 0;
}

// Run `run` of an image. `alive`: ceil(C / 32) words of shared memory.
template <class Storage, Access kAccess, bool kNormalised>
__device__ __forceinline__ void label_run(const DynamicLossParams& p, const DynamicLossPlan& plan, std::int64_t image,
                                          std::int64_t run, std::uint32_t* alive) {
  const std::int64_t begin = run * plan.run_pixels;
  const std::int64_t pixels = p.shape.height * p.shape.width;
  const std::int64_t end = begin + plan.run_pixels < pixels ? begin + plan.run_pixels : pixels;
  double similarity;
  if (label_pixels<Storage, kAccess, kNormalised, false>(p, plan, image, begin, end, alive, similarity)) {
    label_pixels<Storage, kAccess, kNormalised, true>(p, plan, image, begin, end, alive, similarity);
  }
  similarity = sum_of_block(similarity);
  if (threadIdx.x == 0) plan.similarity[image * plan.runs + run] = similarity;
  if (p.superpixels != nullptr) return;  // their targets decide which labels are alive
  const std::int64_t words = ceil_div(p.shape.channels, 32);
  for (int word = static_cast<int>(threadIdx.x); word < words; word += kThreads) {
    if (alive[word] != 0) atomicOr(plan.alive + image * words + word, alive[word]);
  }
}

}  // namespace dynamicseg
