#include "../vec/neon.h"

#include "column.h"
#include "variants.h"

void f32_sparse_column_16x1__neon(LISSOM_SPARSE_COLUMN_ARGUMENTS) {
  sparse_column(w, x, index, count, bias, residual, sums, y, epilogue);
}
