#include "../vec/scalar.h"

#include "product.h"
#include "variants.h"

void f32_sparse_product_4x4__scalar(LISSOM_SPARSE_PRODUCT_ARGUMENTS) {
  sparse_product<12, 6, 4>(w, begin, end, offset, x, n, residual, y, ldy, epilogue);
}
