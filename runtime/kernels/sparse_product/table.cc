#include "variants.h"

namespace {

#define ROW(name, isa) {#name, lissom::isa, reinterpret_cast<void*>(name)},
const lissom_variant kVariants[] = {LISSOM_F32_SPARSE_PRODUCT_VARIANTS(ROW)};
#undef ROW

}  // namespace

LISSOM_EXPORT const lissom_variant* lissom_f32_sparse_product_variants(int64_t* count) {
  *count = sizeof(kVariants) / sizeof(kVariants[0]);
  return kVariants;
}

LISSOM_EXPORT void lissom_f32_sparse_product(LISSOM_SPARSE_PRODUCT_ARGUMENTS) {
  static const auto function = reinterpret_cast<lissom_f32_sparse_product_fn>(lissom::fastest(kVariants).function);
  function(w, begin, end, offset, x, n, residual, y, ldy, epilogue);
}
