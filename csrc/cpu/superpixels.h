// Labels made consistent within superpixels.
#pragma once

#include <cstdint>

namespace dynamicseg {

// Gives every labelled pixel of an image the most frequent label of its superpixel, the lowest on a tie; pixels with
// label -1 neither count nor change. Returns the number of distinct labels.
//   superpixels  [pixels], 0 .. superpixel_count - 1
//   labels       [pixels], -1 .. channels - 1
std::int64_t unite_labels(const std::int32_t* superpixels, std::int64_t superpixel_count, std::int64_t* labels,
                          std::int64_t pixels, std::int64_t channels);

}  // namespace dynamicseg
