/* sparse_product: y = activation(bias + W x + residual), W sparse, x a panel of activations.
 *
 *   y[r, j] = activation(bias[r] + sum_i values[i][r] * x[offset[columns[i]] + j] + residual[r, j]),   0 <= j < n
 *
 * for the rows of the block rows [begin, end). Each sum starts from the bias and runs over its columns in ascending
 * order, with fused multiply-adds where the processor has them, whatever n and the tile: results do not depend on how
 * the work is cut. A column without a stored value contributes nothing, not even a NaN.
 *
 * Letters: w the weight; offset[depth] where in x each column's row begins, in elements; n elements of a row; ldy the
 * distance between rows of y, and of the residual, which has y's layout or is null and may be y itself. Every row of x
 * must be readable up to LISSOM_PANEL_MULTIPLE elements rounded up: for all columns k and j < round_up(n), x[offset[k]
 * + j]. y and the residual are touched in [0, n) only.
 */
#ifndef LISSOM_KERNELS_SPARSE_PRODUCT_H_
#define LISSOM_KERNELS_SPARSE_PRODUCT_H_

#include "../isa.h"
#include "../sparse.h"

#define LISSOM_PANEL_MULTIPLE 16

typedef void (*lissom_f32_sparse_product_fn)(const lissom_f32_sparse* w, int64_t begin, int64_t end,
                                             const int32_t* offset, const float* x, int64_t n, const float* residual,
                                             float* y, int64_t ldy, const lissom_epilogue* epilogue);

#define LISSOM_F32_SPARSE_PRODUCT_VARIANTS(ROW)                    \
  ROW(f32_sparse_product_4x4__scalar, always)                     \
  LISSOM_IF_NEON(ROW(f32_sparse_product_4x20__neon, always))      \
  LISSOM_IF_X86(ROW(f32_sparse_product_4x24__avx2, has_avx2))  \
  LISSOM_IF_X86(ROW(f32_sparse_product_4x96__avx512, has_avx512))

/* The fastest variant that this processor supports. */
LISSOM_EXPORT void lissom_f32_sparse_product(const lissom_f32_sparse* w, int64_t begin, int64_t end,
                                             const int32_t* offset, const float* x, int64_t n, const float* residual,
                                             float* y, int64_t ldy, const lissom_epilogue* epilogue);

/* The table, and its number of rows. */
LISSOM_EXPORT const lissom_variant* lissom_f32_sparse_product_variants(int64_t* count);

#endif
