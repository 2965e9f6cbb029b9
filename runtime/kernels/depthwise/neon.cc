#include "../vec/neon.h"

#include "rows.h"
#include "variants.h"

void f32_depthwise_1x32__neon(LISSOM_DEPTHWISE_ARGUMENTS) {
  depthwise(w, offset, taps, bias, x, step, rows, n, y, ldy, epilogue);
}
