// Orders in which threads and blocks run, other ones for each seed.

#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace cuda_on_host {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  template <class Array>
  void shuffle(Array& array) {
    for (std::size_t i = array.size(); i > 1; --i) std::swap(array[i - 1], array[next() % i]);
  }

 private:
  std::uint64_t state_;
};

}  // namespace cuda_on_host
