// Small kernels, right and wrong ones, that show what CUDA on the host does with them, see tests/test_cuda_on_host.py;
// and conversions of csrc/core/arithmetic.h, see tests/test_arithmetic.py.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "core/arithmetic.h"
#include "cuda/block.h"
#include "cuda/launch.h"

namespace {

using namespace dynamicseg;

// The sum of values, block by block.
__global__ void __launch_bounds__(kThreads) sum_kernel(const float* values, int count, double* sums) {
  double sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    sum += values[i];
  }
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Each thread gives `values` of its neighbour; without the barrier it may be too early.
template <bool kBarrier>
__global__ void neighbours_kernel(const int* values, int* neighbours) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = 0;
  __syncthreads();
  shared[threadIdx.x] = values[threadIdx.x];
  if constexpr (kBarrier) __syncthreads();
  neighbours[threadIdx.x] = shared[(threadIdx.x + kThreads - kWarp) % kThreads];
}

__global__ void divergent_kernel(int* out) {
  if (threadIdx.x < 100) {
    __syncthreads();
    out[threadIdx.x] = 1;
  } else {
    __syncthreads();
    out[threadIdx.x] = 2;
  }
}

// For each thread: of how many threads its number is even, of any 300, of all less than 300; some have gone home
// before.
__global__ void votes_kernel(int* votes) {
  if (threadIdx.x >= 200) return;
  const int thread = static_cast<int>(threadIdx.x);
  votes[3 * thread] = __syncthreads_count(thread % 2 == 0);
  votes[3 * thread + 1] = __syncthreads_or(thread == 300);
  votes[3 * thread + 2] = __syncthreads_and(thread < 300);
}

__global__ void missing_lane_kernel(int* out) {
  if (threadIdx.x == 37) return;
  out[threadIdx.x] = __shfl_sync(kWholeWarp, static_cast<int>(threadIdx.x), 0);
}

__global__ void outside_of_mask_kernel(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, static_cast<int>(threadIdx.x) < 8 ? 1 : 16);
}

// One row of 32 results for each operation.
__global__ void warp_kernel(long long* rows) {
  const int lane = static_cast<int>(threadIdx.x);
  int row = 0;
  const auto put = [&](auto value) { rows[row++ * kWarp + lane] = static_cast<long long>(value); };
  put(__shfl_sync(kWholeWarp, lane * 10, 3));
  put(__shfl_sync(kWholeWarp, lane * 10ll, 3, 8));
  put(__shfl_xor_sync(kWholeWarp, lane * 10u, 5));
  put(__shfl_xor_sync(kWholeWarp, static_cast<double>(lane), 9, 8));
  put(__shfl_down_sync(kWholeWarp, static_cast<float>(lane), 4));
  put(__shfl_down_sync(kWholeWarp, lane, 3, 16));
  put(__shfl_up_sync(kWholeWarp, lane, 3, 16));
  put(__ballot_sync(kWholeWarp, lane % 3 == 0));
  put(__any_sync(kWholeWarp, lane == 40));
  put(__all_sync(kWholeWarp, lane < 32));
  put(__match_any_sync(kWholeWarp, lane % 5));
  put(__reduce_add_sync(kWholeWarp, lane - 20));
  put(__reduce_min_sync(kWholeWarp, lane - 20));
  put(__reduce_max_sync(kWholeWarp, static_cast<unsigned>(lane)));
  put(__reduce_or_sync(kWholeWarp, 1u << (lane % 7)));
  // Halves of the warp go different ways.
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  int sum = lane;
  for (int i = 0; i < (lane < 16 ? 1 : 2); ++i) sum = __reduce_add_sync(half, sum);
  put(sum);
}

// Blocks write, meet, and read what the others wrote, round after round.
__global__ void grid_kernel(unsigned* numbers, unsigned* sums, int rounds) {
  const auto grid = cooperative_groups::this_grid();
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) numbers[blockIdx.x] += blockIdx.x + 1;
    grid.sync();
    if (threadIdx.x == 0) {
      for (unsigned block = 0; block < gridDim.x; ++block) sums[blockIdx.x] += numbers[block];
    }
    grid.sync();
  }
}

__global__ void deserting_block_kernel() {
  if (blockIdx.x == 1) return;
  cooperative_groups::this_grid().sync();
}

__global__ void atomics_kernel(unsigned* count, unsigned* bits, unsigned long long* most, unsigned* arrived,
                               int* last) {
  atomicAdd(count, 1u);
  atomicOr(bits, 1u << (threadIdx.x % 32));
  atomicMax(most, static_cast<unsigned long long>(blockIdx.x) * 1000 + threadIdx.x);
  if (is_last_to_arrive(arrived, gridDim.x) && threadIdx.x == 0) atomicAdd(last, 1);
}

// Reverses values in dynamic shared memory.
__global__ void reverse_kernel(int* values) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void first_shared_kernel(float* value) { *value = dynamic_shared<float>()[0]; }

}  // namespace

// For Python: "" or what went wrong.
namespace {
thread_local std::string message;

template <class... Params, class... Args>
const char* run(void (*kernel)(Params...), unsigned blocks, unsigned threads, std::size_t shared_bytes,
                bool cooperative, Args... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = cooperative ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args...);
  message = error == cudaSuccess ? "" : cudaGetErrorString(error);
  return message.c_str();
}
}  // namespace

#define FOR_PYTHON extern "C" __attribute__((visibility("default"))) const char*

FOR_PYTHON sum(unsigned blocks, const float* values, int count, double* sums) {
  return run(sum_kernel, blocks, kThreads, 0, false, values, count, sums);
}
FOR_PYTHON neighbours(bool barrier, const int* values, int* out) {
  return run(barrier ? neighbours_kernel<true> : neighbours_kernel<false>, 1, kThreads, 0, false, values, out);
}
FOR_PYTHON divergent_barrier(int* out) { return run(divergent_kernel, 1, 256, 0, false, out); }
FOR_PYTHON votes(int* votes) { return run(votes_kernel, 1, kThreads, 0, false, votes); }
FOR_PYTHON missing_lane(int* out) { return run(missing_lane_kernel, 1, 64, 0, false, out); }
FOR_PYTHON outside_of_mask(float* out) { return run(outside_of_mask_kernel, 1, 32, 0, false, out); }
FOR_PYTHON warp(long long* rows) { return run(warp_kernel, 1, 32, 0, false, rows); }
FOR_PYTHON grid(unsigned blocks, bool cooperative, unsigned* numbers, unsigned* sums, int rounds) {
  return run(grid_kernel, blocks, kThreads, 0, cooperative, numbers, sums, rounds);
}
FOR_PYTHON deserting_block(unsigned blocks) { return run(deserting_block_kernel, blocks, 32, 0, true); }
FOR_PYTHON atomics(unsigned blocks, unsigned* count, unsigned* bits, unsigned long long* most, unsigned* arrived,
                   int* last) {
  return run(atomics_kernel, blocks, kThreads, 0, false, count, bits, most, arrived, last);
}
FOR_PYTHON reverse(int* values, unsigned threads) {
  return run(reverse_kernel, 1, threads, threads * sizeof(int), false, values);
}
FOR_PYTHON first_shared(float* value, unsigned threads, unsigned shared_bytes) {
  return run(first_shared_kernel, 1, threads, shared_bytes, false, value);
}
FOR_PYTHON resident(int* blocks) {
  *blocks = static_cast<int>(resident_blocks(sum_kernel, current_device(), 0));
  return "";
}

#define CONVERSION extern "C" __attribute__((visibility("default"))) void

CONVERSION numbers_of_float16(const Float16* elements, int count, float* numbers) {
  for (int i = 0; i < count; ++i) numbers[i] = number(elements[i]);
}
CONVERSION numbers_of_bfloat16(const BFloat16* elements, int count, float* numbers) {
  for (int i = 0; i < count; ++i) numbers[i] = number(elements[i]);
}
CONVERSION float16_of_numbers(const float* numbers, int count, Float16* elements) {
  for (int i = 0; i < count; ++i) elements[i] = rounded_to_float16(numbers[i]);
}
CONVERSION bfloat16_of_numbers(const float* numbers, int count, BFloat16* elements) {
  for (int i = 0; i < count; ++i) elements[i] = rounded_to_bfloat16(numbers[i]);
}
