#include "cpu/superpixels.h"

#include <algorithm>
#include <vector>

#include "cpu/parallel.h"

namespace dynamicseg {
namespace {

constexpr std::int64_t kSuperpixelsOfTask = 64;

// The pixels of each superpixel: those of number s are `order[begin[s]]` to `order[begin[s + 1]]`.
struct PixelsBySuperpixel {
  std::vector<std::int64_t> begin;
  std::vector<std::int64_t> order;

  PixelsBySuperpixel(const std::int32_t* superpixels, std::int64_t superpixel_count, std::int64_t pixels)
      : begin(static_cast<std::size_t>(superpixel_count) + 1), order(static_cast<std::size_t>(pixels)) {
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) ++begin[static_cast<std::size_t>(superpixels[pixel]) + 1];
    for (std::size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
    std::vector<std::int64_t> next(begin.begin(), begin.end() - 1);
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
      order[static_cast<std::size_t>(next[static_cast<std::size_t>(superpixels[pixel])]++)] = pixel;
    }
  }
};

}  // namespace

std::int64_t unite_labels(const std::int32_t* superpixels, std::int64_t superpixel_count, std::int64_t* labels,
                          std::int64_t pixels, std::int64_t channels) {
  const PixelsBySuperpixel by_superpixel(superpixels, superpixel_count, pixels);
  std::vector<std::int64_t> majority(static_cast<std::size_t>(superpixel_count), -1);
  const std::int64_t tasks = (superpixel_count + kSuperpixelsOfTask - 1) / kSuperpixelsOfTask;
  std::vector<std::int64_t> histograms(static_cast<std::size_t>(tasks * channels));

  parallel_for(tasks, [&](std::int64_t task) {
    std::int64_t* histogram = histograms.data() + task * channels;
    const std::int64_t end = std::min((task + 1) * kSuperpixelsOfTask, superpixel_count);
    for (std::int64_t superpixel = task * kSuperpixelsOfTask; superpixel < end; ++superpixel) {
      const std::int64_t* first =
          by_superpixel.order.data() + by_superpixel.begin[static_cast<std::size_t>(superpixel)];
      const std::int64_t* last =
          by_superpixel.order.data() + by_superpixel.begin[static_cast<std::size_t>(superpixel) + 1];
      std::int64_t& most = majority[static_cast<std::size_t>(superpixel)];
      for (const std::int64_t* pixel = first; pixel != last; ++pixel) {
        if (labels[*pixel] >= 0) ++histogram[labels[*pixel]];
      }
      for (const std::int64_t* pixel = first; pixel != last; ++pixel) {
        const std::int64_t label = labels[*pixel];
        if (label < 0) continue;
        const bool more = most < 0 || histogram[label] > histogram[most];
        if (more || (histogram[label] == histogram[most] && label < most)) most = label;
      }
      for (const std::int64_t* pixel = first; pixel != last; ++pixel) {
        if (labels[*pixel] < 0) continue;
        histogram[labels[*pixel]] = 0;
        labels[*pixel] = most;
      }
    }
  });

  std::vector<char> alive(static_cast<std::size_t>(channels));
  for (const std::int64_t label : majority) {
    if (label >= 0) alive[static_cast<std::size_t>(label)] = 1;
  }
  return std::count(alive.begin(), alive.end(), 1);
}

}  // namespace dynamicseg
