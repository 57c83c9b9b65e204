// Trees of regions: superpixels, of which neighbours are united until one region is left. See
// dynamicseg/region_tree.py.
#pragma once

#include <cstdint>

namespace dynamicseg {

struct MergeNeighboursParams {
  std::int64_t leaves;
  std::int64_t colours;
  std::int64_t features;  // 0: none
  const double* areas;    // [leaves], in pixels
  const double* means;    // [leaves, colours + features]
  std::int64_t pairs;
  const std::int64_t* first;  // [pairs]: leaves that touch, each pair once
  const std::int64_t* second;
  const double* lengths;    // [pairs]: of their border
  const double* gradients;  // [pairs]: sums along it
  double gradient_weight;
  double half_area;        // in pixels
  std::int64_t* children;  // [leaves - 1, 2], in the order of merging; all pairs must connect all leaves
};

// Dissimilarity of two regions: squared distance of the mean colours + gradient_weight * squared mean gradient along
// the border + squared distance of the mean features * area / (area + half_area), with the area of the smaller one. The
// least goes first; of equal ones the one with the lowest node, then with the lowest other node.
void merge_neighbours_cpu(const MergeNeighboursParams& params);

struct StabilityParams {
  std::int64_t leaves;
  const std::int64_t* children;  // [leaves - 1, 2]: node leaves + i is the union of the two of row i
  const std::int64_t* areas;     // [2 * leaves - 1]: pixels of each node
  std::int64_t segmentations;    // 1 or more
  // [segmentations + 1]: regions are numbered through, one segmentation after another.
  const std::int64_t* first_region;
  const std::int64_t* region_areas;  // [first_region[segmentations]]
  // Which regions each leaf meets, ascending, and in how many pixels: those of leaf i are row_begin[i] to
  // row_begin[i + 1]. Each leaf meets some region of each segmentation.
  const std::int64_t* row_begin;  // [leaves + 1]
  const std::int64_t* regions;    // [row_begin[leaves]]
  const std::int64_t* pixels;     // [row_begin[leaves]]
  double* stability;              // [2 * leaves - 1]
};

// Of each node, the mean over segmentations of its best intersection over union with one of their regions.
void stability_cpu(const StabilityParams& params);

}  // namespace dynamicseg
