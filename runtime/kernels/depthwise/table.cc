#include "variants.h"

namespace {

#define ROW(name, isa) {#name, lissom::isa, reinterpret_cast<void*>(name)},
const lissom_variant kVariants[] = {LISSOM_F32_DEPTHWISE_VARIANTS(ROW)};
#undef ROW

}  // namespace

LISSOM_EXPORT const lissom_variant* lissom_f32_depthwise_variants(int64_t* count) {
  *count = sizeof(kVariants) / sizeof(kVariants[0]);
  return kVariants;
}

LISSOM_EXPORT void lissom_f32_depthwise(LISSOM_DEPTHWISE_ARGUMENTS) {
  static const auto function = reinterpret_cast<lissom_f32_depthwise_fn>(lissom::fastest(kVariants).function);
  function(w, offset, taps, bias, x, step, rows, n, y, ldy, epilogue);
}
