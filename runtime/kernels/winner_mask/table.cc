#include "variants.h"

namespace {

#define ROW(name, isa) {#name, lissom::isa, reinterpret_cast<void*>(name)},
const lissom_variant kVariants[] = {LISSOM_F32_WINNER_MASK_VARIANTS(ROW)};
#undef ROW

}  // namespace

LISSOM_EXPORT const lissom_variant* lissom_f32_winner_mask_variants(int64_t* count) {
  *count = sizeof(kVariants) / sizeof(kVariants[0]);
  return kVariants;
}

LISSOM_EXPORT void lissom_f32_winner_mask(const float* x, int64_t n, float theta, float* y) {
  static const auto best = reinterpret_cast<lissom_f32_winner_mask_fn>(lissom::fastest(kVariants).function);
  best(x, n, theta, y);
}
