// The sizes every op is tested at, each with its reason. Shared, so that a tail found in one op is tried on all.
#pragma once
#include <cstdint>

namespace sizes {

// Rows (tokens).
constexpr int64_t kRows[] = {
    1,    // fewer than anything
    2,    // one pair
    31,   // a warp less one
    33,   // a warp and one
    127,  // a block of rows less one
};
constexpr int64_t kManyRows = 1027;  // more than twice the 512 blocks of a two-stage sum, and a tail

// Row widths, multiples of 8 (one vector).
constexpr int64_t kWidths[] = {
    8,     // one vector: one thread of a block at work
    264,   // a warp of vectors and one
    1032,  // past a block of 128 vectors: the next block size
    2064,  // past a block of 256 vectors; two vectors for some threads
};
constexpr int64_t kWideWidth = 8200;  // the widest blocks, two vectors for some threads

// Lengths of flat spans: around a vector, a block's share, several blocks.
constexpr int64_t kSpans[] = {1, 7, 8, 9, 15, 23, 24, 25, 2047, 2048, 2049, 5000};

// Head dimensions the attention family is built for.
constexpr int64_t kHeadDims[] = {64, 96, 128, 256};

}  // namespace sizes
