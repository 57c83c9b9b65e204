// From the leaves up: what a node meets is what its two parts meet, both sorted, in one pass over them.
#include <algorithm>
#include <utility>
#include <vector>

#include "dynamicseg/region_tree.h"

namespace dynamicseg {
namespace {

struct Overlap {
  std::int64_t region;
  std::int64_t pixels;
};

// Sorted by region.
using Overlaps = std::vector<Overlap>;

Overlaps united(const Overlaps& first, const Overlaps& second) {
  Overlaps both;
  both.reserve(first.size() + second.size());
  auto one = first.begin(), other = second.begin();
  while (one != first.end() && other != second.end()) {
    if (one->region == other->region) {
      both.push_back({one->region, one->pixels + other->pixels});
      ++one, ++other;
    } else {
      both.push_back(one->region < other->region ? *one++ : *other++);
    }
  }
  both.insert(both.end(), one, first.end());
  both.insert(both.end(), other, second.end());
  return both;
}

double stability_of(const Overlaps& overlaps, std::int64_t area, const StabilityParams& params) {
  double sum = 0;
  auto overlap = overlaps.begin();
  for (std::int64_t segmentation = 0; segmentation < params.segmentations; ++segmentation) {
    const std::int64_t end = params.first_region[segmentation + 1];
    double best = 0;
    for (; overlap != overlaps.end() && overlap->region < end; ++overlap) {
      const std::int64_t in_either = area + params.region_areas[overlap->region] - overlap->pixels;
      best = std::max(best, static_cast<double>(overlap->pixels) / static_cast<double>(in_either));
    }
    sum += best;
  }
  return sum / static_cast<double>(params.segmentations);
}

}  // namespace

void stability_cpu(const StabilityParams& params) {
  // Of each node that is not yet part of another.
  std::vector<Overlaps> met(static_cast<std::size_t>(2 * params.leaves - 1));
  const auto measure = [&](std::int64_t node, Overlaps overlaps) {
    params.stability[node] = stability_of(overlaps, params.areas[node], params);
    met[static_cast<std::size_t>(node)] = std::move(overlaps);
  };
  for (std::int64_t leaf = 0; leaf < params.leaves; ++leaf) {
    Overlaps overlaps;
    for (std::int64_t i = params.row_begin[leaf]; i < params.row_begin[leaf + 1]; ++i) {
      overlaps.push_back({params.regions[i], params.pixels[i]});
    }
    measure(leaf, std::move(overlaps));
  }
  for (std::int64_t i = 0; i + 1 < params.leaves; ++i) {
    const Overlaps first = std::move(met[static_cast<std::size_t>(params.children[2 * i])]);
    const Overlaps second = std::move(met[static_cast<std::size_t>(params.children[2 * i + 1])]);
    measure(params.leaves + i, united(first, second));
  }
}

}  // namespace dynamicseg
