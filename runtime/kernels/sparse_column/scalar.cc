#include "../vec/scalar.h"

#include "column.h"
#include "variants.h"

void f32_sparse_column_16x1__scalar(LISSOM_SPARSE_COLUMN_ARGUMENTS) {
  sparse_column(w, x, index, count, bias, residual, sums, y, epilogue);
}
