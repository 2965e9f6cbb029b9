/* winner_mask: activations that are not among the largest of their sample become zero.
 *
 *   threshold   theta, the `winners`-th largest of |x[0]|, |x[stride]|, |x[2 stride]|, ... below n
 *   mask        y[j] = |x[j]| < theta ? 0 : x[j],   0 <= j < n
 *
 * A NaN counts as infinity: it is among the largest, and passes. Both are exact, and do not depend on how the work is
 * cut. lissom_runtime/contract.py says how a model chooses `stride` and `winners`.
 */
#ifndef LISSOM_KERNELS_WINNER_MASK_H_
#define LISSOM_KERNELS_WINNER_MASK_H_

#include "../isa.h"

/* theta of x[n], n at least 1. `winners` from 1 to the ceil(n / stride) numbers looked at; scratch has room for these. */
LISSOM_EXPORT float lissom_f32_winner_threshold(const float* x, int64_t n, int64_t stride, int64_t winners,
                                                int32_t* scratch);

/* y may be x itself; theta is no NaN. */
typedef void (*lissom_f32_winner_mask_fn)(const float* x, int64_t n, float theta, float* y);

#define LISSOM_F32_WINNER_MASK_VARIANTS(ROW)                      \
  ROW(f32_winner_mask_1x1__scalar, always)                        \
  LISSOM_IF_NEON(ROW(f32_winner_mask_1x4__neon, always))         \
  LISSOM_IF_X86(ROW(f32_winner_mask_1x8__avx2, has_avx2))        \
  LISSOM_IF_X86(ROW(f32_winner_mask_1x16__avx512, has_avx512))

/* The fastest variant that this processor supports. */
LISSOM_EXPORT void lissom_f32_winner_mask(const float* x, int64_t n, float theta, float* y);

/* The table, and its number of rows. */
LISSOM_EXPORT const lissom_variant* lissom_f32_winner_mask_variants(int64_t* count);

#endif
