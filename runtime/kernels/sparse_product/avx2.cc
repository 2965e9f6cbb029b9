#include "../vec/avx2.h"

#include "product.h"
#include "variants.h"

void f32_sparse_product_4x24__avx2(LISSOM_SPARSE_PRODUCT_ARGUMENTS) {
  sparse_product<12, 6, 3>(w, begin, end, offset, x, n, residual, y, ldy, epilogue);
}
