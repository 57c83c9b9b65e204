// Lanes of a processor's vector registers, in the vector extension of GCC and Clang.
//
// This header is compiled once for each instruction set (see CMakeLists.txt), inside a namespace of its own, and with
// internal linkage only: nothing compiled here may be merged with code for another instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/arithmetic.h"
#include "dynamicseg/types.h"

#define DYNAMICSEG_INLINE [[maybe_unused]] static inline __attribute__((always_inline))

namespace dynamicseg {
namespace DYNAMICSEG_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// `Value` is what is computed with: float for float32 and bfloat16 maps, double for float64 maps.
template <class Value>
struct VectorOf;

template <>
struct VectorOf<float> {
  using Integer = std::int32_t;
  using Bits = std::uint32_t;
  typedef float Values __attribute__((vector_size(kVectorBytes)));
  typedef std::int32_t Integers __attribute__((vector_size(kVectorBytes)));
};

template <>
struct VectorOf<double> {
  using Integer = std::int64_t;
  using Bits = std::uint64_t;
  typedef double Values __attribute__((vector_size(kVectorBytes)));
  typedef std::int64_t Integers __attribute__((vector_size(kVectorBytes)));
};

template <class Value>
using Values = typename VectorOf<Value>::Values;
// Also what comparisons give: all bits set where true.
template <class Value>
using Integers = typename VectorOf<Value>::Integers;
template <class Value>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Value));

template <class Storage>
struct ComputeType {
  using type = Storage;
};
template <>
struct ComputeType<BFloat16> {
  using type = float;
};
template <class Storage>
using Compute = typename ComputeType<Storage>::type;

template <class Value>
DYNAMICSEG_INLINE Values<Value> broadcast(Value value) {
  return Values<Value>{} + value;
}

template <class Value>
DYNAMICSEG_INLINE Integers<Value> lane_numbers() {
  Integers<Value> numbers;
  for (int lane = 0; lane < kLanes<Value>; ++lane) numbers[lane] = lane;
  return numbers;
}

template <class Value>
DYNAMICSEG_INLINE Values<Value> as_values(Integers<Value> bits) {
  Values<Value> values;
  std::memcpy(&values, &bits, sizeof values);
  return values;
}

template <class Value>
DYNAMICSEG_INLINE Integers<Value> as_bits(Values<Value> values) {
  Integers<Value> bits;
  std::memcpy(&bits, &values, sizeof bits);
  return bits;
}

// ---- memory ---------------------------------------------------------------------------------------------------------

typedef std::uint16_t HalfWords __attribute__((vector_size(kVectorBytes / 2)));

DYNAMICSEG_INLINE Values<float> widen(HalfWords bfloats) {
#if defined(__AVX512F__)
  return (Values<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)bfloats),
                                          16);  // compilers take three times as many
#else
  return as_values<float>(__builtin_convertvector(bfloats, Integers<float>) << 16);
#endif
}

// Nearest bfloat16, ties to even; a NaN stays a NaN.
DYNAMICSEG_INLINE HalfWords narrow(Values<float> values) {
  typedef std::uint32_t Words __attribute__((vector_size(kVectorBytes)));
  Words words;
  std::memcpy(&words, &values, sizeof words);
  const Words up = ((words >> 16) & 1u) + 0x7fffu;
#if defined(__AVX512F__)
  // A NaN is only cut, for what was computed is a quiet one, whose first bit stays.
  const __mmask16 numbers = _mm512_cmp_ps_mask((__m512)values, (__m512)values, _CMP_ORD_Q);
  const __m512i rounded = _mm512_mask_add_epi32((__m512i)words, numbers, (__m512i)words, (__m512i)up);
  return (HalfWords)_mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#else
  const Words rounded = (words + up) >> 16;
  const Words quiet_nan = (words >> 16) | 0x40u;
  const Words result = values == values ? rounded : quiet_nan;
  return __builtin_convertvector(result, HalfWords);
#endif
}

DYNAMICSEG_INLINE Values<float> load(const float* source) {
  Values<float> values;
  std::memcpy(&values, source, sizeof values);
  return values;
}

DYNAMICSEG_INLINE Values<double> load(const double* source) {
  Values<double> values;
  std::memcpy(&values, source, sizeof values);
  return values;
}

DYNAMICSEG_INLINE Values<float> load(const BFloat16* source) {
  HalfWords bfloats;
  std::memcpy(&bfloats, source, sizeof bfloats);
  return widen(bfloats);
}

template <class Value>
DYNAMICSEG_INLINE void store(Value* target, Values<Value> values) {
  std::memcpy(target, &values, sizeof values);
}

DYNAMICSEG_INLINE void store(BFloat16* target, Values<float> values) {
  const HalfWords halves = narrow(values);
  std::memcpy(target, &halves, sizeof halves);
}

// The first `count` lanes from memory, the others from `rest`.
template <class Storage>
DYNAMICSEG_INLINE Values<Compute<Storage>> load_first(const Storage* source, int count, Values<Compute<Storage>> rest) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Storage, float>) {
    return (Values<float>)_mm512_mask_loadu_ps((__m512)rest, static_cast<__mmask16>((1u << count) - 1u), source);
  } else if constexpr (std::is_same_v<Storage, BFloat16>) {
    const auto lanes = static_cast<__mmask16>((1u << count) - 1u);
    return lane_numbers<float>() < count ? widen((HalfWords)_mm256_maskz_loadu_epi16(lanes, source)) : rest;
  } else
#endif
  {
    Values<Compute<Storage>> values = rest;
    for (int lane = 0; lane < count; ++lane) {
      values[lane] = number(source[lane]);
    }
    return values;
  }
}

template <class Storage>
DYNAMICSEG_INLINE void store_first(Storage* target, int count, Values<Compute<Storage>> values) {
#if defined(__AVX512F__)
  const auto lanes = (1u << count) - 1u;
  if constexpr (std::is_same_v<Storage, float>) {
    _mm512_mask_storeu_ps(target, static_cast<__mmask16>(lanes), (__m512)values);
    return;
  } else if constexpr (std::is_same_v<Storage, BFloat16>) {
    const HalfWords halves = narrow(values);
    _mm256_mask_storeu_epi16(target, static_cast<__mmask16>(lanes), (__m256i)halves);
    return;
  }
#endif
  Storage all[kLanes<Compute<Storage>>];
  store(all, values);
  for (int lane = 0; lane < count; ++lane) target[lane] = all[lane];
}

// Copies past the caches: for a result too large to be still there when it is read next. Writing it the ordinary way
// would first read every line of the target.
DYNAMICSEG_INLINE void stream_copy(void* target, const void* source, std::int64_t bytes) {
  auto* to = static_cast<char*>(target);
  const auto* from = static_cast<const char*>(source);
#if defined(__SSE2__)
  constexpr std::int64_t kLine = 64;
  std::int64_t head = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(to) & (kLine - 1));
  if (head > bytes) head = bytes;
  std::memcpy(to, from, static_cast<std::size_t>(head));
  to += head, from += head, bytes -= head;
  for (; bytes >= kLine; to += kLine, from += kLine, bytes -= kLine) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#else
    for (int part = 0; part < kLine; part += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + part),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + part)));
    }
#endif
  }
#endif
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

// Streamed stores become visible to other threads in order only after this.
DYNAMICSEG_INLINE void finish_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

DYNAMICSEG_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// ---- loops ----------------------------------------------------------------------------------------------------------

// Calls body(begin, lanes) for all of 0..count in steps of whole vectors; `lanes` is a full vector's count at compile
// time, and a smaller number once, at the end.
template <class Value, class Body>
DYNAMICSEG_INLINE void for_lanes(std::int64_t count, Body body) {
  constexpr int kWhole = kLanes<Value>;
  std::int64_t begin = 0;
  for (; begin + kWhole <= count; begin += kWhole) body(begin, std::integral_constant<int, kWhole>{});
  if (begin < count) body(begin, static_cast<int>(count - begin));
}

template <class Storage, int kCount>
DYNAMICSEG_INLINE Values<Compute<Storage>> load(const Storage* source, std::integral_constant<int, kCount>,
                                                Values<Compute<Storage>>) {
  return load(source);
}
template <class Storage>
DYNAMICSEG_INLINE Values<Compute<Storage>> load(const Storage* source, int count, Values<Compute<Storage>> rest) {
  return load_first(source, count, rest);
}
template <class Storage, int kCount>
DYNAMICSEG_INLINE void store(Storage* target, std::integral_constant<int, kCount>, Values<Compute<Storage>> values) {
  store(target, values);
}
template <class Storage>
DYNAMICSEG_INLINE void store(Storage* target, int count, Values<Compute<Storage>> values) {
  store_first(target, count, values);
}

// The same for the integers that go with the lanes; the rest is 0.
template <class Integer, int kCount>
DYNAMICSEG_INLINE auto load_integers(const Integer* source, std::integral_constant<int, kCount>) {
  typedef Integer Lanes __attribute__((vector_size(kVectorBytes)));
  Lanes lanes;
  std::memcpy(&lanes, source, sizeof lanes);
  return lanes;
}
template <class Integer>
DYNAMICSEG_INLINE auto load_integers(const Integer* source, int count) {
  typedef Integer Lanes __attribute__((vector_size(kVectorBytes)));
#if defined(__AVX512F__)
  if constexpr (sizeof(Integer) == 4) {
    return (Lanes)_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1u), source);
  } else {
    return (Lanes)_mm512_maskz_loadu_epi64(static_cast<__mmask8>((1u << count) - 1u), source);
  }
#else
  Lanes lanes{};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = source[lane];
  return lanes;
#endif
}
template <class Integer, class Lanes, int kCount>
DYNAMICSEG_INLINE void store_integers(Integer* target, std::integral_constant<int, kCount>, Lanes lanes) {
  std::memcpy(target, &lanes, sizeof lanes);
}
template <class Integer, class Lanes>
DYNAMICSEG_INLINE void store_integers(Integer* target, int count, Lanes lanes) {
  for (int lane = 0; lane < count; ++lane) target[lane] = lanes[lane];
}

// ---- across lanes ---------------------------------------------------------------------------------------------------

template <int... kLane>
struct LaneList {};
template <int kCount, int... kLane>
struct LanesUpTo : LanesUpTo<kCount - 1, kCount - 1, kLane...> {};
template <int... kLane>
struct LanesUpTo<0, kLane...> {
  using type = LaneList<kLane...>;
};

template <int kBy, class Vector, int... kLane>
DYNAMICSEG_INLINE Vector rotate_lanes(Vector v, LaneList<kLane...>) {
  constexpr int kCount = static_cast<int>(sizeof...(kLane));
#if defined(__GNUC__) && !defined(__clang__)
  // GCC knows __builtin_shufflevector only from version 12 on.
  typedef std::conditional_t<sizeof(v[0]) == 4, std::int32_t, std::int64_t> Lane;
  typedef Lane Lanes __attribute__((vector_size(sizeof(Vector))));
  return __builtin_shuffle(v, Lanes{((kLane + kBy) % kCount)...});
#else
  return __builtin_shufflevector(v, v, ((kLane + kBy) % kCount)...);
#endif
}
// Lane i gets lane i + kBy, round and round.
template <int kBy, class Vector>
DYNAMICSEG_INLINE Vector rotate(Vector v) {
  constexpr int kCount = static_cast<int>(sizeof(Vector) / sizeof(v[0]));
  return rotate_lanes<kBy>(v, typename LanesUpTo<kCount>::type{});
}

// The greater, or the lesser, of two; the second one where either is a NaN.
template <class Vector>
DYNAMICSEG_INLINE Vector greater(Vector a, Vector b) {
  return a > b ? a : b;
}
template <class Vector>
DYNAMICSEG_INLINE Vector lesser(Vector a, Vector b) {
  return a < b ? a : b;
}
#if defined(__AVX512F__)  // compilers take two instructions
DYNAMICSEG_INLINE Values<float> greater(Values<float> a, Values<float> b) {
  return (Values<float>)_mm512_max_ps((__m512)a, (__m512)b);
}
DYNAMICSEG_INLINE Values<float> lesser(Values<float> a, Values<float> b) {
  return (Values<float>)_mm512_min_ps((__m512)a, (__m512)b);
}
#elif defined(__AVX2__)
DYNAMICSEG_INLINE Values<float> greater(Values<float> a, Values<float> b) {
  return (Values<float>)_mm256_max_ps((__m256)a, (__m256)b);
}
DYNAMICSEG_INLINE Values<float> lesser(Values<float> a, Values<float> b) {
  return (Values<float>)_mm256_min_ps((__m256)a, (__m256)b);
}
#endif

// Sum of all lanes, in float64.
template <int kBy = 1, class Vector>
DYNAMICSEG_INLINE double sum_of_lanes(Vector v) {
  constexpr int kCount = static_cast<int>(sizeof(Vector) / sizeof(v[0]));
  if constexpr (kBy < kCount) {
    return sum_of_lanes<kBy * 2>(v + rotate<kBy>(v));
  } else {
    return static_cast<double>(v[0]);
  }
}

template <int kBy = 1, class Vector>
DYNAMICSEG_INLINE auto max_of_lanes(Vector v) {
  constexpr int kCount = static_cast<int>(sizeof(Vector) / sizeof(v[0]));
  if constexpr (kBy < kCount) {
    return max_of_lanes<kBy * 2>(greater(v, rotate<kBy>(v)));
  } else {
    return v[0];
  }
}

template <int kBy = 1, class Vector>
DYNAMICSEG_INLINE auto min_of_lanes(Vector v) {
  constexpr int kCount = static_cast<int>(sizeof(Vector) / sizeof(v[0]));
  if constexpr (kBy < kCount) {
    const Vector other = rotate<kBy>(v);
    return min_of_lanes<kBy * 2>(other < v ? other : v);
  } else {
    return v[0];
  }
}

// A long sum of lanes, kept in float64.
template <class Value>
struct LongSum {
  Values<double> lower{};
  Values<double> upper{};

  __attribute__((always_inline)) void add(Values<Value> v) {
    if constexpr (std::is_same_v<Value, double>) {
      lower += v;
    } else {
      typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
      Half halves[2];
      std::memcpy(halves, &v, sizeof halves);
      lower += __builtin_convertvector(halves[0], Values<double>);
      upper += __builtin_convertvector(halves[1], Values<double>);
    }
  }

  __attribute__((always_inline)) double total() const { return sum_of_lanes(lower + upper); }
};

// Adds lanes to as many numbers in float64.
template <class Value, int kCount>
DYNAMICSEG_INLINE void add_lanes(double* sums, Values<Value> v, std::integral_constant<int, kCount>) {
  LongSum<Value> wide;
  wide.add(v);
  store(sums, load(sums) + wide.lower);
  if constexpr (!std::is_same_v<Value, double>) {
    store(sums + kLanes<double>, load(sums + kLanes<double>) + wide.upper);
  }
}
template <class Value>
DYNAMICSEG_INLINE void add_lanes(double* sums, Values<Value> v, int count) {
  for (int lane = 0; lane < count; ++lane) sums[lane] += static_cast<double>(v[lane]);
}

// ---- functions ------------------------------------------------------------------------------------------------------

template <class Value>
DYNAMICSEG_INLINE Values<Value> absolute(Values<Value> v) {
  return as_values<Value>(as_bits<Value>(v) & std::numeric_limits<typename VectorOf<Value>::Integer>::max());
}

// sign(a - b), with sign(0) = 0 and the sign of a NaN 0.
template <class Value>
DYNAMICSEG_INLINE Values<Value> sign_of_difference(Values<Value> a, Values<Value> b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Value, float>) {
    // One instruction that replaces each class of number by a constant: 0 for NaN and 0, else 1 or -1 by sign.
    constexpr int kSignOfClass = static_cast<int>(0xa9a9a888u);
    return (Values<float>)_mm512_fixupimm_ps(_mm512_setzero_ps(), (__m512)(a - b), _mm512_set1_epi32(kSignOfClass), 0);
  }
#endif
  const Values<Value> zero{};
  return a > b ? broadcast<Value>(1) : (a < b ? broadcast<Value>(-1) : zero);
}

// Whether `value`, of a higher channel than `best`, takes the label from it: only if greater; the first NaN keeps it.
template <class Value>
DYNAMICSEG_INLINE Integers<Value> takes_label(Values<Value> value, Values<Value> best) {
  return ~(value <= best) & (best == best);
}

// exp(v) for v <= 0 (or above by a rounding error): exp(-inf) is 0, results below the least normal number are 0, NaN
// stays NaN. float32 is within 2 units in the last place: range reduction by Cody and Waite, polynomial from Cephes.
DYNAMICSEG_INLINE Values<float> exp_nonpositive(Values<float> v) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
  const Values<float> shifted = v * kLog2E + kRounder;
  const Values<float> power = shifted - kRounder;
  const Values<float> rest = (v - power * 0.693359375f) - power * -2.12194440e-4f;
  Values<float> p = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * rest + 8.3334519073e-3f;
  p = p * rest + 4.1665795894e-2f;
  p = p * rest + 1.6666665459e-1f;
  p = p * rest + 5.0000001201e-1f;
  const Values<float> mantissa = (p * rest + 1.0f) * rest + 1.0f;
  // Without sign: far below 0, where the result is dropped, the sum wraps around.
  typedef std::uint32_t Words __attribute__((vector_size(kVectorBytes)));
  constexpr std::uint32_t kOne = 0x3f800000u;
  const Words power_of_two = ((Words)as_bits<float>(shifted) << 23) + kOne;
  return v < -87.0f ? Values<float>{} : mantissa * as_values<float>((Integers<float>)power_of_two);
}

DYNAMICSEG_INLINE Values<double> exp_nonpositive(Values<double> v) {
  for (int lane = 0; lane < kLanes<double>; ++lane) v[lane] = std::exp(v[lane]);
  return v;
}

// log(v) for a normal v > 0; NaN for anything else. Polynomial from Cephes.
DYNAMICSEG_INLINE Values<float> log_positive(Values<float> v) {
  constexpr std::int32_t kSqrtHalf = 0x3f3504f3;
  const Integers<float> offset = as_bits<float>(v) - kSqrtHalf;
  const Values<float> exponent = __builtin_convertvector(offset >> 23, Values<float>);
  const Values<float> m =
      as_values<float>((offset & 0x007fffff) + kSqrtHalf) - 1.0f;  // in sqrt(1/2) - 1 .. sqrt(2) - 1
  const Values<float> square = m * m;
  Values<float> p = m * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const Values<float> tail = p * m * square + exponent * -2.12194440e-4f - square * 0.5f;
  const Values<float> result = m + tail + exponent * 0.693359375f;
  return v > 0.0f ? result : broadcast<float>(std::numeric_limits<float>::quiet_NaN());
}

DYNAMICSEG_INLINE Values<double> log_positive(Values<double> v) {
  for (int lane = 0; lane < kLanes<double>; ++lane) {
    v[lane] = v[lane] > 0.0 ? std::log(v[lane]) : std::numeric_limits<double>::quiet_NaN();
  }
  return v;
}

}  // namespace
}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
