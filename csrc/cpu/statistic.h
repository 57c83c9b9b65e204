// Reading and writing `Statistic` arrays: float64 if the map is, else float32.
#pragma once

#include <cstdint>
#include <vector>

#include "dynamicseg/types.h"

namespace dynamicseg {

inline DType statistic_dtype(DType map) { return map == DType::float64 ? DType::float64 : DType::float32; }

inline double read_statistic(const void* array, DType map, std::int64_t index) {
  if (statistic_dtype(map) == DType::float64) return static_cast<const double*>(array)[index];
  return static_cast<double>(static_cast<const float*>(array)[index]);
}

inline void write_statistic(void* array, DType map, std::int64_t index, double value) {
  if (statistic_dtype(map) == DType::float64) {
    static_cast<double*>(array)[index] = value;
  } else {
    static_cast<float*>(array)[index] = static_cast<float>(value);
  }
}

inline std::int64_t bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

inline std::int64_t elements_of(const MapShape& shape) {
  return shape.batch * shape.channels * shape.height * shape.width;
}

// A result above this size leaves the caches before it is read again, so that it is written past them.
inline bool is_streamed(const MapShape& shape, DType dtype) {
  constexpr std::int64_t kStreamedBytes = std::int64_t{4} << 20;
  return elements_of(shape) * bytes_of(dtype) >= kStreamedBytes;
}

// A Statistic array of one element a channel, with room behind it for a vector to be read where the last channel is.
class ChannelArray {
 public:
  ChannelArray(DType map, std::int64_t channels)
      : map_(map),
        floats_(static_cast<std::size_t>(channels + kRoom)),
        doubles_(map == DType::float64 ? floats_.size() : 0) {}

  void set(std::int64_t channel, double value) { write_statistic(data(), map_, channel, value); }
  void* data() { return map_ == DType::float64 ? static_cast<void*>(doubles_.data()) : floats_.data(); }
  const void* data() const { return const_cast<ChannelArray*>(this)->data(); }

 private:
  static constexpr std::int64_t kRoom = 16;  // lanes of the longest vector

  DType map_;
  std::vector<float> floats_;
  std::vector<double> doubles_;
};

}  // namespace dynamicseg
