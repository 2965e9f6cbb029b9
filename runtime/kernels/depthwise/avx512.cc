#include "../vec/avx512.h"

#include "rows.h"
#include "variants.h"

void f32_depthwise_1x128__avx512(LISSOM_DEPTHWISE_ARGUMENTS) {
  depthwise(w, offset, taps, bias, x, step, rows, n, y, ldy, epilogue);
}
