#include "../vec/avx512.h"

#include "variants.h"
#include "vector.h"

void f32_sparse_vector_16x1__avx512(LISSOM_SPARSE_VECTOR_ARGUMENTS) {
  sparse_vector(w, begin, end, x, residual, y, epilogue);
}
