#include "variants.h"

namespace {

#define ROW(name, isa) {#name, lissom::isa, reinterpret_cast<void*>(name)},
const lissom_variant kVariants[] = {LISSOM_F32_SPARSE_VECTOR_VARIANTS(ROW)};
#undef ROW

}  // namespace

LISSOM_EXPORT const lissom_variant* lissom_f32_sparse_vector_variants(int64_t* count) {
  *count = sizeof(kVariants) / sizeof(kVariants[0]);
  return kVariants;
}

LISSOM_EXPORT void lissom_f32_sparse_vector(LISSOM_SPARSE_VECTOR_ARGUMENTS) {
  static const auto best = reinterpret_cast<lissom_f32_sparse_vector_fn>(lissom::fastest(kVariants).function);
  best(w, begin, end, x, residual, y, epilogue);
}
