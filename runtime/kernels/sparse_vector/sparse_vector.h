/* sparse_vector: y = activation(bias + W x + residual) for one vector x[depth], for the rows of the block rows
 * [begin, end). The columns of a row are summed in several parts, then these: the result does not depend on how the
 * rows are cut. x is read at stored columns only. The residual has y's layout or is null, and may be y itself; y and the
 * residual begin at row 0, and only the rows asked for are touched.
 */
#ifndef LISSOM_KERNELS_SPARSE_VECTOR_H_
#define LISSOM_KERNELS_SPARSE_VECTOR_H_

#include "../isa.h"
#include "../sparse.h"

typedef void (*lissom_f32_sparse_vector_fn)(const lissom_f32_sparse* w, int64_t begin, int64_t end, const float* x,
                                            const float* residual, float* y, const lissom_epilogue* epilogue);

#define LISSOM_F32_SPARSE_VECTOR_VARIANTS(ROW)                      \
  ROW(f32_sparse_vector_16x1__scalar, always)                       \
  LISSOM_IF_NEON(ROW(f32_sparse_vector_16x1__neon, always))         \
  LISSOM_IF_X86(ROW(f32_sparse_vector_16x1__avx2, has_avx2))        \
  LISSOM_IF_X86(ROW(f32_sparse_vector_16x1__avx512, has_avx512))

/* The fastest variant that this processor supports. */
LISSOM_EXPORT void lissom_f32_sparse_vector(const lissom_f32_sparse* w, int64_t begin, int64_t end, const float* x,
                                            const float* residual, float* y, const lissom_epilogue* epilogue);

/* The table, and its number of rows. */
LISSOM_EXPORT const lissom_variant* lissom_f32_sparse_vector_variants(int64_t* count);

#endif
