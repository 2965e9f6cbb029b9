/* What the sparse operators share: weights as the kernels read them, and what happens to a sum before it is stored. */
#ifndef LISSOM_KERNELS_SPARSE_H_
#define LISSOM_KERNELS_SPARSE_H_

#include "abi.h"

/* A folded weight[rows, depth] in block-CSR over output channels: `block` consecutive rows share one pattern of
 * columns. Whoever fills it has checked it (packed/packed.h): kernels trust every index. */
struct lissom_f32_sparse {
  int64_t rows;           /* output channels, a multiple of block */
  int64_t depth;          /* columns of the folded weight: input channels of one group times taps */
  int64_t block;          /* 1, 2, 4, 8 or 16 */
  const int32_t* row_ptr; /* [rows / block + 1], ascending from 0 */
  const int32_t* columns; /* [row_ptr[rows / block]], ascending within a block row, in [0, depth) */
  const float* values;    /* [row_ptr[rows / block], block] */
  const float* bias;      /* [rows] */
};

/* The activations that a sum can pass through on its way to memory, with their parameters a and b. */
enum lissom_activation {
  LISSOM_NONE = 0,
  LISSOM_RELU = 1,
  LISSOM_CLIP = 2,             /* min(max(v, a), b) */
  LISSOM_LEAKY_RELU = 3,       /* v < 0 ? a v : v */
  LISSOM_HARD_SWISH = 4,       /* v min(max(v / 6 + 1/2, 0), 1) */
  LISSOM_SILU = 5,             /* v / (1 + exp(-v)) */
  LISSOM_THRESHOLDED_RELU = 6, /* v > a ? v : 0 */
  LISSOM_SHRINK = 7            /* |v| > a ? v : 0 */
};

struct lissom_epilogue {
  int32_t activation; /* lissom_activation */
  float a;
  float b;
};

#endif
