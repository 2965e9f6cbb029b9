#include "variants.h"

namespace {

#define ROW(name, isa) {#name, lissom::isa, reinterpret_cast<void*>(name)},
const lissom_variant kVariants[] = {LISSOM_F32_SPARSE_COLUMN_VARIANTS(ROW)};
#undef ROW

}  // namespace

LISSOM_EXPORT const lissom_variant* lissom_f32_sparse_column_variants(int64_t* count) {
  *count = sizeof(kVariants) / sizeof(kVariants[0]);
  return kVariants;
}

LISSOM_EXPORT void lissom_f32_sparse_column(LISSOM_SPARSE_COLUMN_ARGUMENTS) {
  static const auto best = reinterpret_cast<lissom_f32_sparse_column_fn>(lissom::fastest(kVariants).function);
  best(w, x, index, count, bias, residual, sums, y, epilogue);
}
