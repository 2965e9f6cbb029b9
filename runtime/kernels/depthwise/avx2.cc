#include "../vec/avx2.h"

#include "rows.h"
#include "variants.h"

void f32_depthwise_1x64__avx2(LISSOM_DEPTHWISE_ARGUMENTS) {
  depthwise(w, offset, taps, bias, x, step, rows, n, y, ldy, epilogue);
}
