#include "../isa.h"
#include "variants.h"

namespace {

#define ROW(name, isa) {#name, lissom::isa, reinterpret_cast<void*>(name)},
const lissom_variant kVariants[] = {LISSOM_F32_THRESHOLD_VARIANTS(ROW)};
#undef ROW

}  // namespace

LISSOM_EXPORT const lissom_variant* lissom_f32_threshold_variants(int64_t* count) {
  *count = sizeof(kVariants) / sizeof(kVariants[0]);
  return kVariants;
}

LISSOM_EXPORT void lissom_f32_threshold(int64_t n, const float* x, float* y, float theta) {
  static const auto best = reinterpret_cast<lissom_f32_threshold_fn>(lissom::fastest(kVariants).function);
  best(n, x, y, theta);
}
