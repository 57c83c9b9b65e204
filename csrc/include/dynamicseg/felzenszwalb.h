// Graph-based segmentation of one image at several scales (Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image
// Segmentation", IJCV 2004). Edges join each pixel to its eight neighbours and weigh as much as their values are apart.
#pragma once

#include <cstdint>

namespace dynamicseg {

struct FelzenszwalbParams {
  const float* image;  // [height, width, channels], dense, finite
  std::int64_t height;
  std::int64_t width;
  std::int64_t channels;
  const double* scales;           // [count], >= 0: larger gives larger segments
  const std::int64_t* min_sizes;  // [count]: the least area of a segment, in pixels, as far as the image has so many
  std::int64_t count;
  // Whether numbers of edges take 64 bits: they must above 2^30 pixels, and up to it the result is the same.
  bool wide_edges;
  std::int64_t* segments;  // [count, height, width]: numbers from 0 without gaps, in the order of their first pixels
};

// The same bits for any number of threads. Throws std::bad_alloc where memory does not suffice.
void felzenszwalb_cpu(const FelzenszwalbParams& params);

}  // namespace dynamicseg
