// Sizes at which every op is tested, each with its reason.
#pragma once
#include <cstdint>

namespace sizes {

// Rows (tokens).
constexpr int64_t kRows[] = {
    1,    // the smallest
    2,    // one pair
    31,   // one less than a warp
    33,   // one more than a warp
    127,  // one less than a block of rows
};
constexpr int64_t kManyRows = 1027;  // more than twice the 512 blocks of a two-stage sum, with a tail

// Row widths, multiples of 8 (one vector).
constexpr int64_t kWidths[] = {
    8,     // one vector: one active thread per block
    264,   // one vector more than a warp
    1032,  // past a block of 128 vectors: the next block size
    2064,  // past a block of 256 vectors; two vectors for some threads
};
constexpr int64_t kWideWidth = 8200;  // the widest blocks, two vectors for some threads

// Lengths of flat spans: around one vector, around one block, several blocks.
constexpr int64_t kSpans[] = {1, 7, 8, 9, 15, 23, 24, 25, 2047, 2048, 2049, 5000};

// Head dimensions of the attention kernels.
constexpr int64_t kHeadDims[] = {64, 96, 128, 256};

}  // namespace sizes
