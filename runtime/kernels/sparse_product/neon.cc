#include "../vec/neon.h"

#include "product.h"
#include "variants.h"

void f32_sparse_product_4x20__neon(LISSOM_SPARSE_PRODUCT_ARGUMENTS) {
  sparse_product<14, 8, 5>(w, begin, end, offset, x, n, residual, y, ldy, epilogue);
}
