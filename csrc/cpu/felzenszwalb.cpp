// Edges are made and sorted once for all scales; then each scale has a forest of its own, in a task of its own.
//
// Weights: the Euclidean distance of two pixels' values, rounded to float32. Edges of equal weight go in the order of
// their numbers: by the pixel that comes first in the image, then right, down left, down, down right. That, and nothing
// that threads do, decides the result.
//
// Two regions are united by an edge that weighs less than the threshold of both. The threshold of a region is the
// weight of the edge that united it, plus scale / area; of a pixel, scale. Afterwards the edges go by once more, and
// unite what is still smaller than the least area.
//
// Memory, bytes a pixel: 64 while edges are sorted, 32 afterwards, and 12.5 for each scale (twice as many of the first
// two, and 24.5, where edges are wide).
#include "dynamicseg/felzenszwalb.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/parallel.h"
#include "dynamicseg/cpu_runtime.h"

namespace dynamicseg {
namespace {

constexpr std::int64_t kEdgesOfPixel = 4;
constexpr std::int64_t kRowsOfTask = 16;
// An image below this many pixels is done by one thread.
constexpr std::int64_t kPixelsWorthThreads = 4096;
// So many edges ahead, the roots are asked for from memory: the neighbours in the order of weights are all over it.
constexpr std::int64_t kEdgesAhead = 24;

// Memory that is not touched before it is written.
template <class Value>
std::unique_ptr<Value[]> uninitialised(std::int64_t count) {
  return std::make_unique_for_overwrite<Value[]>(static_cast<std::size_t>(count));
}

template <class Body>
void parallel_if(bool worth_threads, std::int64_t count, Body body) {
  if (worth_threads) {
    parallel_for(count, body);
  } else {
    for (std::int64_t index = 0; index < count; ++index) body(index);
  }
}

// Number is unsigned; that of an edge is 4 times the number of its first pixel, plus the direction of its second.
template <class Number>
struct Edge {
  std::uint32_t weight;  // bits of a float32 >= 0, which ascend with it
  Number number;
};

template <class Number>
struct Edges {
  std::unique_ptr<Edge<Number>[]> edges;
  std::int64_t count;
};

std::int64_t edges_of(std::int64_t height, std::int64_t width) {
  return height * (width - 1) + (height - 1) * width + 2 * (height - 1) * (width - 1);
}

float distance(const float* first, const float* second, std::int64_t channels) {
  double sum = 0;
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    const double difference = static_cast<double>(first[channel]) - static_cast<double>(second[channel]);
    sum += difference * difference;
  }
  return static_cast<float>(std::sqrt(sum));
}

template <class Number>
Edges<Number> make_edges(const FelzenszwalbParams& params) {
  const float* image = params.image;
  const std::int64_t height = params.height, width = params.width, channels = params.channels;
  const std::int64_t count = edges_of(height, width);
  auto edges = uninitialised<Edge<Number>>(count);
  const std::int64_t edges_of_row = 4 * width - 3;  // of all but the last, which has only those to the right
  const std::int64_t tasks = (height + kRowsOfTask - 1) / kRowsOfTask;
  parallel_if(height * width >= kPixelsWorthThreads, tasks, [&](std::int64_t task) {
    Edge<Number>* next = edges.get() + task * kRowsOfTask * edges_of_row;
    const std::int64_t end = std::min((task + 1) * kRowsOfTask, height);
    for (std::int64_t y = task * kRowsOfTask; y < end; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        const std::int64_t pixel = y * width + x;
        const float* value = image + pixel * channels;
        const auto add = [&](std::int64_t direction, std::int64_t offset) {
          const float weight = distance(value, value + offset * channels, channels);
          *next++ = {std::bit_cast<std::uint32_t>(weight), static_cast<Number>(kEdgesOfPixel * pixel + direction)};
        };
        const bool below = y + 1 < height, right = x + 1 < width;
        if (right) add(0, 1);
        if (below && x > 0) add(1, width - 1);
        if (below) add(2, width);
        if (below && right) add(3, width + 1);
      }
    }
  });
  return {std::move(edges), count};
}

// By weight; a radix sort, which leaves edges of equal weight in their order. Each chunk is counted and moved by one
// thread; where its edges go depends on how many there are of each digit in the chunks before it.
template <class Number>
void sort_edges(Edges<Number>& edges) {
  constexpr int kBits = 11, kPasses = 3;
  constexpr std::size_t kDigits = 1 << kBits;
  const bool worth_threads = edges.count >= kEdgesOfPixel * kPixelsWorthThreads;
  const std::int64_t chunks = worth_threads ? thread_count() : 1;
  const auto chunk_begin = [&](std::int64_t chunk) { return edges.count / chunks * chunk; };
  const auto chunk_end = [&](std::int64_t chunk) { return chunk + 1 < chunks ? chunk_begin(chunk + 1) : edges.count; };
  std::vector<std::int64_t> positions(static_cast<std::size_t>(chunks) * kDigits);
  auto sorted = uninitialised<Edge<Number>>(edges.count);
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto digit = [&](const Edge<Number>& edge) { return (edge.weight >> (pass * kBits)) % kDigits; };
    std::fill(positions.begin(), positions.end(), 0);
    parallel_if(worth_threads, chunks, [&](std::int64_t chunk) {
      std::int64_t* counts = positions.data() + static_cast<std::size_t>(chunk) * kDigits;
      for (std::int64_t i = chunk_begin(chunk); i < chunk_end(chunk); ++i) ++counts[digit(edges.edges[i])];
    });
    std::int64_t position = 0;
    for (std::size_t value = 0; value < kDigits; ++value) {
      for (std::size_t at = value; at < positions.size(); at += kDigits) {
        position += std::exchange(positions[at], position);
      }
    }
    parallel_if(worth_threads, chunks, [&](std::int64_t chunk) {
      std::int64_t* next = positions.data() + static_cast<std::size_t>(chunk) * kDigits;
      for (std::int64_t i = chunk_begin(chunk); i < chunk_end(chunk); ++i) {
        sorted[next[digit(edges.edges[i])]++] = edges.edges[i];
      }
    });
    std::swap(edges.edges, sorted);
  }
}

// The regions at one scale: trees of pixels, by their roots.
template <class Number>
class Forest {
 public:
  explicit Forest(std::int64_t pixels)
      : pixels_(pixels),
        parents_(uninitialised<Number>(pixels)),
        regions_(uninitialised<Region>(pixels)),
        apart_(uninitialised<std::uint64_t>(words_of(kEdgesOfPixel * pixels))) {}

  void segment(const Edges<Number>& edges, std::int64_t width, double scale, std::int64_t min_size,
               std::int64_t* segments) {
    for (std::int64_t pixel = 0; pixel < pixels_; ++pixel) {
      parents_[pixel] = static_cast<Number>(pixel);
      regions_[pixel] = {1, static_cast<float>(scale)};
    }
    const std::int64_t offsets[kEdgesOfPixel] = {1, width - 1, width, width + 1};
    unite_similar(edges, offsets, scale);
    unite_small(edges, offsets, min_size);
    number_regions(segments);
  }

 private:
  struct Region {
    Number area;
    float threshold;
  };

  static constexpr std::int64_t kEdgesOfWord = 64;
  static std::int64_t words_of(std::int64_t edges) { return (edges + kEdgesOfWord - 1) / kEdgesOfWord; }

  Number root(Number pixel) {
    while (parents_[pixel] != pixel) pixel = parents_[pixel] = parents_[parents_[pixel]];
    return pixel;
  }

  struct Ends {
    Number first;
    Number second;
  };
  static Ends ends(Number edge, const std::int64_t* offsets) {
    const Number first = edge / kEdgesOfPixel;
    return {first, static_cast<Number>(first + static_cast<Number>(offsets[edge % kEdgesOfPixel]))};
  }

  // The root of the union: that of the larger region.
  Number unite(Number first, Number second) {
    if (regions_[first].area < regions_[second].area) std::swap(first, second);
    parents_[second] = first;
    regions_[first].area += regions_[second].area;
    return first;
  }

  // Notes the edges between regions that stay apart: a second round need not look at others.
  void unite_similar(const Edges<Number>& edges, const std::int64_t* offsets, double scale) {
    for (std::int64_t begin = 0; begin < edges.count; begin += kEdgesOfWord) {
      const std::int64_t end = std::min(begin + kEdgesOfWord, edges.count);
      std::uint64_t apart = 0;
      for (std::int64_t i = begin; i < end; ++i) {
        const auto [later_first, later_second] =
            ends(edges.edges[std::min(i + kEdgesAhead, edges.count - 1)].number, offsets);
        __builtin_prefetch(&parents_[later_first]);
        __builtin_prefetch(&parents_[later_second]);
        const Edge<Number> edge = edges.edges[i];
        const auto [pixel, neighbour] = ends(edge.number, offsets);
        const Number first = root(pixel), second = root(neighbour);
        if (first == second) continue;
        const float weight = std::bit_cast<float>(edge.weight);
        if (weight < std::min(regions_[first].threshold, regions_[second].threshold)) {
          Region& region = regions_[unite(first, second)];
          region.threshold = static_cast<float>(weight + scale / static_cast<double>(region.area));
        } else {
          apart |= std::uint64_t{1} << (i - begin);
        }
      }
      apart_[begin / kEdgesOfWord] = apart;
    }
  }

  void unite_small(const Edges<Number>& edges, const std::int64_t* offsets, std::int64_t min_size) {
    for (std::int64_t word = 0; word < words_of(edges.count); ++word) {
      for (std::uint64_t apart = apart_[word]; apart != 0; apart &= apart - 1) {
        const std::int64_t i = word * kEdgesOfWord + std::countr_zero(apart);
        const auto [pixel, neighbour] = ends(edges.edges[i].number, offsets);
        const Number first = root(pixel), second = root(neighbour);
        if (first == second) continue;
        if (static_cast<std::int64_t>(std::min(regions_[first].area, regions_[second].area)) < min_size) {
          unite(first, second);
        }
      }
    }
  }

  void number_regions(std::int64_t* segments) {
    // Areas are no longer needed: those of roots hold the number of the region, once it has one.
    constexpr Number kNone = std::numeric_limits<Number>::max();
    for (std::int64_t pixel = 0; pixel < pixels_; ++pixel) regions_[pixel].area = kNone;
    Number count = 0;
    for (std::int64_t pixel = 0; pixel < pixels_; ++pixel) {
      Number& number = regions_[root(static_cast<Number>(pixel))].area;
      if (number == kNone) number = count++;
      segments[pixel] = static_cast<std::int64_t>(number);
    }
  }

  std::int64_t pixels_;
  std::unique_ptr<Number[]> parents_;       // of a root, itself
  std::unique_ptr<Region[]> regions_;       // of roots
  std::unique_ptr<std::uint64_t[]> apart_;  // a bit an edge, in the order of weights
};

template <class Number>
void felzenszwalb(const FelzenszwalbParams& params) {
  Edges<Number> edges = make_edges<Number>(params);
  sort_edges(edges);
  const std::int64_t pixels = params.height * params.width;
  // All memory is taken here: in a task, there would be nobody to tell that it does not suffice.
  std::vector<Forest<Number>> forests;
  forests.reserve(static_cast<std::size_t>(params.count));
  for (std::int64_t i = 0; i < params.count; ++i) forests.emplace_back(pixels);
  parallel_if(pixels >= kPixelsWorthThreads, params.count, [&](std::int64_t i) {
    forests[static_cast<std::size_t>(i)].segment(edges, params.width, params.scales[i], params.min_sizes[i],
                                                 params.segments + i * pixels);
  });
}

}  // namespace

void felzenszwalb_cpu(const FelzenszwalbParams& params) {
  if (params.height * params.width == 0 || params.count == 0) return;
  if (params.wide_edges) {
    felzenszwalb<std::uint64_t>(params);
  } else {
    felzenszwalb<std::uint32_t>(params);
  }
}

}  // namespace dynamicseg
