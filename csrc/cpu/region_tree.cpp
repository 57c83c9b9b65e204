// The queue holds all pairs of leaves, and of a union only its nearest neighbour at a time: otherwise a background that
// touches all else would fill the memory. What has been united meanwhile is dropped when its turn comes.
#include "dynamicseg/region_tree.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dynamicseg {
namespace {

struct Border {
  double length;
  double gradient;
};

struct Neighbour {
  double dissimilarity;
  std::int64_t node;

  auto operator<=>(const Neighbour&) const = default;
};

// Dissimilarity, the lower node, the higher node.
using Pair = std::tuple<double, std::int64_t, std::int64_t>;

// What is not yet merged. Each region has a place, at first the number of its superpixel. The union of two takes the
// place of the one with more neighbours, for which less is to be changed: beside a background that touches all else,
// nearly nothing.
class Regions {
 public:
  explicit Regions(const MergeNeighboursParams& params)
      : colours_(params.colours),
        components_(params.colours + params.features),
        gradient_weight_(params.gradient_weight),
        half_area_(params.half_area),
        place_of_(size(2 * params.leaves - 1)),
        alive_(size(2 * params.leaves - 1)),
        nodes_(size(params.leaves)),
        areas_(params.areas, params.areas + params.leaves),
        means_(params.means, params.means + params.leaves * (params.colours + params.features)),
        borders_(size(params.leaves)) {
    for (std::int64_t leaf = 0; leaf < params.leaves; ++leaf) {
      place_of_[size(leaf)] = nodes_[size(leaf)] = leaf;
      alive_[size(leaf)] = true;
    }
    for (std::int64_t i = 0; i < params.pairs; ++i) {
      const Border border{params.lengths[i], params.gradients[i]};
      borders_[size(params.first[i])].emplace(params.second[i], border);
      borders_[size(params.second[i])].emplace(params.first[i], border);
    }
  }

  bool alive(std::int64_t node) const { return alive_[size(node)]; }

  std::vector<Neighbour> neighbours(std::int64_t node) const {
    const std::int64_t place = place_of_[size(node)];
    std::vector<Neighbour> found;
    found.reserve(borders_[size(place)].size());
    for (const auto& [other, border] : borders_[size(place)]) {
      found.push_back({dissimilarity(place, other, border), nodes_[size(other)]});
    }
    return found;
  }

  void unite(std::int64_t first, std::int64_t second, std::int64_t node) {
    std::int64_t kept = place_of_[size(first)], gone = place_of_[size(second)];
    if (borders_[size(kept)].size() < borders_[size(gone)].size()) std::swap(kept, gone);
    const double kept_area = areas_[size(kept)], gone_area = areas_[size(gone)];
    const double area = kept_area + gone_area;
    for (std::int64_t i = 0; i < components_; ++i) {
      double& mean = means_[size(kept * components_ + i)];
      mean = (kept_area * mean + gone_area * means_[size(gone * components_ + i)]) / area;
    }
    areas_[size(kept)] = area;
    hand_over(gone, kept);
    place_of_[size(node)] = kept;
    nodes_[size(kept)] = node;
    alive_[size(first)] = alive_[size(second)] = false;
    alive_[size(node)] = true;
  }

 private:
  static std::size_t size(std::int64_t number) { return static_cast<std::size_t>(number); }

  double dissimilarity(std::int64_t place, std::int64_t other, const Border& border) const {
    const double gradient = border.gradient / border.length;
    const double by_colours = distance(place, other, 0, colours_) + gradient_weight_ * (gradient * gradient);
    if (components_ == colours_) return by_colours;
    const double area = std::min(areas_[size(place)], areas_[size(other)]);
    return by_colours + area / (area + half_area_) * distance(place, other, colours_, components_);
  }

  // Squared, over the components from begin to end.
  double distance(std::int64_t place, std::int64_t other, std::int64_t begin, std::int64_t end) const {
    double sum = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const double difference = means_[size(other * components_ + i)] - means_[size(place * components_ + i)];
      sum += difference * difference;
    }
    return sum;
  }

  // Gives the neighbours of one place to another.
  void hand_over(std::int64_t gone, std::int64_t kept) {
    borders_[size(kept)].erase(gone);
    borders_[size(gone)].erase(kept);
    for (const auto& [other, border] : borders_[size(gone)]) {
      Border& common = borders_[size(kept)].try_emplace(other, Border{0, 0}).first->second;
      common = {common.length + border.length, common.gradient + border.gradient};
      borders_[size(other)].erase(gone);
      borders_[size(other)].insert_or_assign(kept, common);
    }
    borders_[size(gone)] = {};
  }

  std::int64_t colours_;
  std::int64_t components_;  // colours, then features
  double gradient_weight_;
  double half_area_;
  std::vector<std::int64_t> place_of_;  // by node
  std::vector<bool> alive_;             // by node
  // By place.
  std::vector<std::int64_t> nodes_;
  std::vector<double> areas_;
  std::vector<double> means_;
  std::vector<std::unordered_map<std::int64_t, Border>> borders_;
};

}  // namespace

void merge_neighbours_cpu(const MergeNeighboursParams& params) {
  Regions regions(params);
  std::vector<Pair> pairs;
  pairs.reserve(static_cast<std::size_t>(params.pairs));
  for (std::int64_t leaf = 0; leaf < params.leaves; ++leaf) {
    for (const auto& [value, other] : regions.neighbours(leaf)) {
      if (other < leaf) pairs.emplace_back(value, other, leaf);
    }
  }
  std::priority_queue queue(std::greater<Pair>(), std::move(pairs));
  // Of each union, the neighbours that it had from the beginning, as a heap, the nearest on top.
  std::unordered_map<std::int64_t, std::vector<Neighbour>> of_union;
  const auto offer = [&](std::int64_t node) {
    std::vector<Neighbour>& neighbours = of_union[node];
    const auto drop_nearest = [&] {
      std::pop_heap(neighbours.begin(), neighbours.end(), std::greater());
      neighbours.pop_back();
    };
    while (!neighbours.empty() && !regions.alive(neighbours.front().node)) drop_nearest();
    if (!neighbours.empty()) queue.emplace(neighbours.front().dissimilarity, neighbours.front().node, node);
  };

  std::int64_t merges = 0;
  while (!queue.empty()) {
    const auto [value, first, second] = queue.top();
    queue.pop();
    if (regions.alive(first) && regions.alive(second)) {
      const std::int64_t node = params.leaves + merges;
      params.children[2 * merges] = first;
      params.children[2 * merges + 1] = second;
      ++merges;
      regions.unite(first, second, node);
      of_union.erase(first);
      of_union.erase(second);
      std::vector<Neighbour> neighbours = regions.neighbours(node);
      std::make_heap(neighbours.begin(), neighbours.end(), std::greater());
      of_union.emplace(node, std::move(neighbours));
      offer(node);
    } else if (of_union.contains(second)) {
      offer(second);
    }
  }
}

}  // namespace dynamicseg
