/* depthwise: one channel of a depthwise convolution, on rows that lie apart.
 *
 *   y[r, j] = activation(bias + sum_t w[t] * x[r * step + offset[t] + j]),   0 <= r < rows, 0 <= j < n
 *
 * Each sum starts from the bias and runs over the taps in ascending order, with fused multiply-adds where the processor
 * has them, whatever rows and n: results do not depend on how the work is cut.
 *
 * Letters: w[taps] the weight; offset[taps] where each tap of the first row begins, in elements; step the distance from
 * the taps of a row of y to those of the next; n at least 1; ldy the distance between rows of y, at least n. For all rows and taps, x
 * must be readable up to n rounded up to LISSOM_PANEL_MULTIPLE. Nothing but y[r, j] is written.
 */
#ifndef LISSOM_KERNELS_DEPTHWISE_H_
#define LISSOM_KERNELS_DEPTHWISE_H_

#include "../isa.h"
#include "../sparse.h"

#define LISSOM_DEPTHWISE_ARGUMENTS                                                                                  \
  const float *w, const int32_t *offset, int64_t taps, float bias, const float *x, int64_t step, int64_t rows, \
      int64_t n, float *y, int64_t ldy, const lissom_epilogue *epilogue

typedef void (*lissom_f32_depthwise_fn)(LISSOM_DEPTHWISE_ARGUMENTS);

#define LISSOM_F32_DEPTHWISE_VARIANTS(ROW)                   \
  ROW(f32_depthwise_1x8__scalar, always)                     \
  LISSOM_IF_NEON(ROW(f32_depthwise_1x32__neon, always))       \
  LISSOM_IF_X86(ROW(f32_depthwise_1x64__avx2, has_avx2))      \
  LISSOM_IF_X86(ROW(f32_depthwise_1x128__avx512, has_avx512))

/* The fastest variant that this processor supports. */
LISSOM_EXPORT void lissom_f32_depthwise(LISSOM_DEPTHWISE_ARGUMENTS);

/* The table, and its number of rows. */
LISSOM_EXPORT const lissom_variant* lissom_f32_depthwise_variants(int64_t* count);

#endif
