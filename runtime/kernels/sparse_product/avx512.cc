#include "../vec/avx512.h"

#include "product.h"
#include "variants.h"

void f32_sparse_product_4x96__avx512(LISSOM_SPARSE_PRODUCT_ARGUMENTS) {
  sparse_product<14, 8, 6>(w, begin, end, offset, x, n, residual, y, ldy, epilogue);
}
