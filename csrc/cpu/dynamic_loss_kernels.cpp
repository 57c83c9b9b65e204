// dynamic_loss on the CPU, one tile at a time. Compiled once for each instruction set.
//
// Fused: argmax, logsumexp, label bitmap, all cross-entropies and all continuity terms in one reading of the map; then
// softmax, one-hot labels and the slopes of all differences in a second reading that writes the gradient. The label
// count of a whole image lies between the two, for it decides the weight. Where both readings are one call and the map
// is channels last, the first takes only the labels, and the second everything else, so that each exponential is taken
// once. Never written to memory: softmax, differences, signs, one-hot labels; nothing of the map's size but the
// gradient. Bytes, for a map of n bytes: forward n read, backward n read and n written; labels and logsumexp are 1/C of
// that, and so are a mask, scribbles and a guide. No option reads the map once more: diagonal neighbours are what the
// next pixel compares itself with, and a scribble or a guide needs the response to one label more of each pixel. What
// every element would have to ask for is decided here at compile time: Huber, diagonals, in contiguous maps also a
// mask, and for the gradient scribbles or a guide. In channels-last maps a pixel asks once for all of its channels.
// Tie rule: the lowest channel wins the label; a NaN wins over every number, the first one over later ones.

#include "cpu/dynamic_loss_table.h"

namespace dynamicseg {
namespace DYNAMICSEG_ISA {

DynamicLossKernels dynamic_loss_kernels(const DynamicLossParams& params) { return kernels_for<false>(params); }

}  // namespace DYNAMICSEG_ISA
}  // namespace dynamicseg
