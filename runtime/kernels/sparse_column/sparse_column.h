/* sparse_column: y = activation(bias + W x + residual) for one vector x with many zeros, reading only the weights of the
 * columns where x is not zero.
 *
 * The weight is stored column after column, in parts: each part has the blocks of some consecutive block rows, so that
 * parts can be worked on at the same time. A sum starts from the bias and runs over the columns in ascending order with
 * one accumulator, whatever the part. A NaN in x is no zero.
 *
 * Letters as in sparse.h; the part p of P has the block rows [R p / P, R (p + 1) / P) of R.
 */
#ifndef LISSOM_KERNELS_SPARSE_COLUMN_H_
#define LISSOM_KERNELS_SPARSE_COLUMN_H_

#include "../isa.h"
#include "../sparse.h"

/* One part of a weight. */
struct lissom_f32_columns {
  int64_t rows;              /* of the part, a multiple of block */
  int64_t block;             /* 1, 2, 4, 8 or 16 */
  const int32_t* column_ptr; /* [depth + 1], ascending */
  const int32_t* block_rows; /* ascending within a column, counted from the part's first */
  const float* values;       /* [blocks of the part, block] */
};

/* Stores a weight column after column: column_ptr[parts, depth + 1]; block_rows[blocks] and values[blocks, block] of all
 * parts, one behind the other. column_ptr counts from the first block of its part, which is w->row_ptr[R p / P]. */
LISSOM_EXPORT void lissom_f32_sparse_columns(const lissom_f32_sparse* w, int64_t parts, int32_t* column_ptr,
                                             int32_t* block_rows, float* values);

/* How many elements of x[n] are not zero, n below 2^31. If these are at most `most`, index[0, ...) gets their places, in
 * ascending order; it has room for most + 1. */
LISSOM_EXPORT int64_t lissom_f32_nonzero(const float* x, int64_t n, int64_t most, int32_t* index);

#define LISSOM_SPARSE_COLUMN_ARGUMENTS                                                                            \
  const lissom_f32_columns *w, const float *x, const int32_t *index, int64_t count, const float *bias, \
      const float *residual, float *sums, float *y, const lissom_epilogue *epilogue

/* x is read at index[count]. bias, y and the residual (null or like y, which it may be) begin at the part's first row;
 * sums is scratch[rows]. */
typedef void (*lissom_f32_sparse_column_fn)(LISSOM_SPARSE_COLUMN_ARGUMENTS);

#define LISSOM_F32_SPARSE_COLUMN_VARIANTS(ROW)                      \
  ROW(f32_sparse_column_16x1__scalar, always)                       \
  LISSOM_IF_NEON(ROW(f32_sparse_column_16x1__neon, always))         \
  LISSOM_IF_X86(ROW(f32_sparse_column_16x1__avx2, has_avx2))        \
  LISSOM_IF_X86(ROW(f32_sparse_column_16x1__avx512, has_avx512))

/* The fastest variant that this processor supports. */
LISSOM_EXPORT void lissom_f32_sparse_column(LISSOM_SPARSE_COLUMN_ARGUMENTS);

/* The table, and its number of rows. */
LISSOM_EXPORT const lissom_variant* lissom_f32_sparse_column_variants(int64_t* count);

#endif
