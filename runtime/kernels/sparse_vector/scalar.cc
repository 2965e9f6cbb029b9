#include "../vec/scalar.h"

#include "variants.h"
#include "vector.h"

void f32_sparse_vector_16x1__scalar(LISSOM_SPARSE_VECTOR_ARGUMENTS) {
  sparse_vector(w, begin, end, x, residual, y, epilogue);
}
