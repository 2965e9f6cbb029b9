/* Declares every row of the table. */
#ifndef LISSOM_KERNELS_SPARSE_VECTOR_VARIANTS_H_
#define LISSOM_KERNELS_SPARSE_VECTOR_VARIANTS_H_

#include "../isa.h"
#include "sparse_vector.h"

#define LISSOM_SPARSE_VECTOR_ARGUMENTS                                                                        \
  const lissom_f32_sparse *w, int64_t begin, int64_t end, const float *x, const float *residual, float *y, \
      const lissom_epilogue *epilogue

#define ROW(name, isa) void name(LISSOM_SPARSE_VECTOR_ARGUMENTS);
LISSOM_F32_SPARSE_VECTOR_VARIANTS(ROW)
#undef ROW

#endif
