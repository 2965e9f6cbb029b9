/* Declares every row of the table. */
#ifndef LISSOM_KERNELS_SPARSE_PRODUCT_VARIANTS_H_
#define LISSOM_KERNELS_SPARSE_PRODUCT_VARIANTS_H_

#include "../isa.h"
#include "sparse_product.h"

#define LISSOM_SPARSE_PRODUCT_ARGUMENTS                                                                          \
  const lissom_f32_sparse *w, int64_t begin, int64_t end, const int32_t *offset, const float *x, int64_t n, \
      const float *residual, float *y, int64_t ldy, const lissom_epilogue *epilogue

#define ROW(name, isa) void name(LISSOM_SPARSE_PRODUCT_ARGUMENTS);
LISSOM_F32_SPARSE_PRODUCT_VARIANTS(ROW)
#undef ROW

#endif
