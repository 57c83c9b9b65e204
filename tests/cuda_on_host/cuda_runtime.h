// CUDA on the host: what .cu files need of <cuda_runtime.h>, so that g++ compiles them as C++ and tests run their
// kernels without a GPU. What it can and cannot show: README.md.
//
// Deliberately missing: atomic additions of floating-point numbers, whose order, and with it the result, is left to
// chance on a GPU.
#pragma once

#include <math.h>  // unlike cmath, it names its functions without std:: as well

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
// A block runs on one thread of the system, and that thread runs no other block meanwhile.
#define __shared__ static thread_local
#define __constant__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

// ---- indices
// ---------------------------------------------------------------------------------------------------------

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;
constexpr int warpSize = 32;

// ---- errors and attributes
// -------------------------------------------------------------------------------------------

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
constexpr cudaError_t cudaErrorInvalidValue = 1;
constexpr cudaError_t cudaErrorInvalidConfiguration = 9;
constexpr cudaError_t cudaErrorLaunchFailure = 719;
constexpr cudaError_t cudaErrorCooperativeLaunchTooLarge = 720;

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrL2CacheSize,
  cudaDevAttrCooperativeLaunch,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout };

enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

// Of the last error of the calling thread it says all there is to say, threads and lines included.
const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream);

// ---- the device, and how blocks run
// ----------------------------------------------------------------------------------

namespace cuda_on_host {

// Small, so that a small test has several groups of images, and more tiles than blocks.
struct Device {
  int multiprocessors = 2;
  int l2_bytes = 64 << 10;
  int blocks_per_multiprocessor = 2;
  bool cooperative_launch = true;
};
void set_device(const Device& device);

// The order in which warps, and lanes of a warp, run between the points where they wait for one another; 0: by number.
void set_seed(std::uint64_t seed);

using Where = std::source_location;

void allow_shared_bytes(const void* kernel, std::size_t bytes);
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread,
                   const Where& where);
cudaError_t occupancy(int* blocks, int threads, const void* kernel, std::size_t shared_bytes);
void* dynamic_shared();

// Of how many of the threads that arrive the predicate holds, and how many arrive.
struct Votes {
  int yes, all;
};
Votes wait_for_block(bool predicate, const Where& where);
void wait_for_grid(const Where& where);

// What each lane of `mask` gives, and how to make of all of it what each one gets.
enum class WarpOperation { wait, shuffle, ballot, match, reduce_add, reduce_min, reduce_max, reduce_and, reduce_or };
struct FromLane {
  std::uint64_t value;
  int lane;  // that a shuffle reads
};
std::uint64_t exchange(WarpOperation operation, unsigned mask, FromLane given, const Where& where);

template <class Value>
std::uint64_t to_bits(Value value) {
  static_assert(sizeof value <= 8 && std::is_trivially_copyable_v<Value>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class Value>
Value from_bits(std::uint64_t bits) {
  Value value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class Value>
Value shuffle(unsigned mask, Value value, int lane, const Where& where) {
  return from_bits<Value>(exchange(WarpOperation::shuffle, mask, {to_bits(value), lane}, where));
}
inline int this_lane() { return static_cast<int>(threadIdx.x % warpSize); }

}  // namespace cuda_on_host

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    cuda_on_host::allow_shared_bytes(reinterpret_cast<const void*>(kernel), static_cast<std::size_t>(value));
  }
  return cudaSuccess;
}

struct cudaFuncAttributes {};
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel* kernel, int threads,
                                                          std::size_t shared_bytes) {
  return cuda_on_host::occupancy(blocks, threads, reinterpret_cast<const void*>(kernel), shared_bytes);
}

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  return cuda_on_host::launch(
      *config, reinterpret_cast<const void*>(kernel), [&] { kernel(static_cast<Params>(args)...); },
      cuda_on_host::Where::current());
}

// ---- waiting, and what lanes of a warp exchange
// ----------------------------------------------------------------------

#define CUDA_ON_HOST_WHERE const cuda_on_host::Where& where = cuda_on_host::Where::current()

inline void __syncthreads(CUDA_ON_HOST_WHERE) { cuda_on_host::wait_for_block(false, where); }
inline int __syncthreads_count(int predicate, CUDA_ON_HOST_WHERE) {
  return cuda_on_host::wait_for_block(predicate != 0, where).yes;
}
inline int __syncthreads_or(int predicate, CUDA_ON_HOST_WHERE) { return __syncthreads_count(predicate, where) > 0; }
inline int __syncthreads_and(int predicate, CUDA_ON_HOST_WHERE) {
  const auto [yes, all] = cuda_on_host::wait_for_block(predicate != 0, where);
  return yes == all;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_HOST_WHERE) {
  cuda_on_host::exchange(cuda_on_host::WarpOperation::wait, mask, {}, where);
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// A lane beyond the `width` lanes that exchange gives its own value; a lane that is not in the mask gives poison.
template <class Value>
Value __shfl_sync(unsigned mask, Value value, int lane, int width = warpSize, CUDA_ON_HOST_WHERE) {
  const int first = cuda_on_host::this_lane() & -width;
  return cuda_on_host::shuffle(mask, value, first + (lane & (width - 1)), where);
}
template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int by, int width = warpSize, CUDA_ON_HOST_WHERE) {
  const int own = cuda_on_host::this_lane(), lane = own ^ by;
  return cuda_on_host::shuffle(mask, value, lane < (own & -width) + width ? lane : own, where);
}
template <class Value>
Value __shfl_down_sync(unsigned mask, Value value, unsigned by, int width = warpSize, CUDA_ON_HOST_WHERE) {
  const int own = cuda_on_host::this_lane(), lane = own + static_cast<int>(by);
  return cuda_on_host::shuffle(mask, value, lane < (own & -width) + width ? lane : own, where);
}
template <class Value>
Value __shfl_up_sync(unsigned mask, Value value, unsigned by, int width = warpSize, CUDA_ON_HOST_WHERE) {
  const int own = cuda_on_host::this_lane(), lane = own - static_cast<int>(by);
  return cuda_on_host::shuffle(mask, value, lane >= (own & -width) ? lane : own, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_HOST_WHERE) {
  using namespace cuda_on_host;
  return static_cast<unsigned>(exchange(WarpOperation::ballot, mask, {predicate != 0, 0}, where));
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_HOST_WHERE) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_HOST_WHERE) {
  return __ballot_sync(mask, predicate, where) == mask;
}
template <class Value>
unsigned __match_any_sync(unsigned mask, Value value, CUDA_ON_HOST_WHERE) {
  using namespace cuda_on_host;
  return static_cast<unsigned>(exchange(WarpOperation::match, mask, {to_bits(value), 0}, where));
}
template <std::integral Value>
  requires(sizeof(Value) == 4)
Value __reduce_add_sync(unsigned mask, Value value, CUDA_ON_HOST_WHERE) {
  using namespace cuda_on_host;
  return static_cast<Value>(exchange(WarpOperation::reduce_add, mask, {to_bits(value), 0}, where));
}
// Signed numbers are shifted into unsigned ones of the same order.
template <std::integral Value>
  requires(sizeof(Value) == 4)
Value __reduce_min_sync(unsigned mask, Value value, CUDA_ON_HOST_WHERE) {
  using namespace cuda_on_host;
  constexpr unsigned kFlip = std::is_signed_v<Value> ? 1u << 31 : 0;
  const auto least = exchange(WarpOperation::reduce_min, mask, {static_cast<unsigned>(value) ^ kFlip, 0}, where);
  return static_cast<Value>(static_cast<unsigned>(least) ^ kFlip);
}
template <std::integral Value>
  requires(sizeof(Value) == 4)
Value __reduce_max_sync(unsigned mask, Value value, CUDA_ON_HOST_WHERE) {
  using namespace cuda_on_host;
  constexpr unsigned kFlip = std::is_signed_v<Value> ? 1u << 31 : 0;
  const auto most = exchange(WarpOperation::reduce_max, mask, {static_cast<unsigned>(value) ^ kFlip, 0}, where);
  return static_cast<Value>(static_cast<unsigned>(most) ^ kFlip);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, CUDA_ON_HOST_WHERE) {
  using namespace cuda_on_host;
  return static_cast<unsigned>(exchange(WarpOperation::reduce_and, mask, {value, 0}, where));
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, CUDA_ON_HOST_WHERE) {
  using namespace cuda_on_host;
  return static_cast<unsigned>(exchange(WarpOperation::reduce_or, mask, {value, 0}, where));
}
unsigned __activemask() = delete;  // which lanes happen to run together is left to chance

// ---- atomics: the old value comes back
// -------------------------------------------------------------------------------

namespace cuda_on_host {
template <class Value>
concept AtomicInteger = std::integral<Value> && (sizeof(Value) == 4 || sizeof(Value) == 8);
}

template <cuda_on_host::AtomicInteger Value>
Value atomicAdd(Value* address, std::type_identity_t<Value> value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <cuda_on_host::AtomicInteger Value>
Value atomicSub(Value* address, std::type_identity_t<Value> value) {
  return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED);
}
template <cuda_on_host::AtomicInteger Value>
Value atomicOr(Value* address, std::type_identity_t<Value> value) {
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <cuda_on_host::AtomicInteger Value>
Value atomicAnd(Value* address, std::type_identity_t<Value> value) {
  return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}
template <cuda_on_host::AtomicInteger Value>
Value atomicExch(Value* address, std::type_identity_t<Value> value) {
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}
template <cuda_on_host::AtomicInteger Value>
Value atomicCAS(Value* address, std::type_identity_t<Value> compare, std::type_identity_t<Value> value) {
  __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return compare;
}
template <cuda_on_host::AtomicInteger Value>
Value atomicMax(Value* address, std::type_identity_t<Value> value) {
  Value old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <cuda_on_host::AtomicInteger Value>
Value atomicMin(Value* address, std::type_identity_t<Value> value) {
  Value old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

// ---- memory and arithmetic
// -------------------------------------------------------------------------------------------

template <class Value>
Value __ldg(const Value* address) {
  return *address;
}
template <class Value>
Value __ldcg(const Value* address) {
  return *address;
}
template <class Value>
Value __ldca(const Value* address) {
  return *address;
}
template <class Value>
Value __ldcs(const Value* address) {
  return *address;
}
template <class Value>
Value __ldlu(const Value* address) {
  return *address;
}
template <class Value>
Value __ldcv(const Value* address) {
  return *address;
}
template <class Value>
void __stcg(Value* address, std::type_identity_t<Value> value) {
  *address = value;
}
template <class Value>
void __stcs(Value* address, std::type_identity_t<Value> value) {
  *address = value;
}
template <class Value>
void __stwb(Value* address, std::type_identity_t<Value> value) {
  *address = value;
}
template <class Value>
void __stwt(Value* address, std::type_identity_t<Value> value) {
  *address = value;
}

#define CUDA_ON_HOST_VECTORS(type, name, bytes)                                 \
  struct alignas(2 * bytes) name##2 { type x, y; };                             \
  struct alignas(4 * bytes > 16 ? 16 : 4 * bytes) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }              \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CUDA_ON_HOST_VECTORS(float, float, 4)
CUDA_ON_HOST_VECTORS(double, double, 8)
CUDA_ON_HOST_VECTORS(int, int, 4)
CUDA_ON_HOST_VECTORS(unsigned, uint, 4)
CUDA_ON_HOST_VECTORS(unsigned short, ushort, 2)
#undef CUDA_ON_HOST_VECTORS

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}

inline float __expf(float value) { return std::exp(value); }
inline float __saturatef(float value) { return value > 0 ? (value < 1 ? value : 1.0f) : 0.0f; }  // 0 for a NaN
inline float __logf(float value) { return std::log(value); }
inline float __exp2f(float value) { return std::exp2(value); }
inline float __log2f(float value) { return std::log2(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float value) { return 1 / value; }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
inline double __dsqrt_rn(double value) { return std::sqrt(value); }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
inline double rsqrt(double value) { return 1 / std::sqrt(value); }
inline float __float2float_rn(float value) { return value; }
inline float __double2float_rn(double value) { return static_cast<float>(value); }
inline unsigned __float_as_uint(float value) { return cuda_on_host::from_bits<unsigned>(cuda_on_host::to_bits(value)); }
inline int __float_as_int(float value) { return cuda_on_host::from_bits<int>(cuda_on_host::to_bits(value)); }
inline float __uint_as_float(unsigned value) { return cuda_on_host::from_bits<float>(cuda_on_host::to_bits(value)); }
inline float __int_as_float(int value) { return cuda_on_host::from_bits<float>(cuda_on_host::to_bits(value)); }
inline long long __double_as_longlong(double value) {
  return cuda_on_host::from_bits<long long>(cuda_on_host::to_bits(value));
}
inline double __longlong_as_double(long long value) {
  return cuda_on_host::from_bits<double>(cuda_on_host::to_bits(value));
}

// Of the global namespace in CUDA. Of two types they would convert silently: here both must be the same.
template <class Value>
  requires std::is_arithmetic_v<Value>
constexpr Value min(Value a, Value b) {
  return b < a ? b : a;
}
template <class Value>
  requires std::is_arithmetic_v<Value>
constexpr Value max(Value a, Value b) {
  return a < b ? b : a;
}
