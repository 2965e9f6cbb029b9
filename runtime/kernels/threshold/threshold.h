/* threshold: y[i] = |x[i]| > theta ? x[i] : +0, for i in [0, n).
 *
 * In place (y == x) is allowed; any other overlap is not. NaN compares false, so it becomes +0.
 */
#ifndef LISSOM_KERNELS_THRESHOLD_H_
#define LISSOM_KERNELS_THRESHOLD_H_

#include "../abi.h"

typedef void (*lissom_f32_threshold_fn)(int64_t n, const float* x, float* y, float theta);

/* The table: every variant is declared, listed for tests and benchmarks, and dispatched from here. */
#define LISSOM_F32_THRESHOLD_VARIANTS(ROW) ROW(f32_threshold_1x1__scalar, always)

/* The fastest variant that this processor supports. */
LISSOM_EXPORT void lissom_f32_threshold(int64_t n, const float* x, float* y, float theta);

/* The table, and its number of rows. */
LISSOM_EXPORT const lissom_variant* lissom_f32_threshold_variants(int64_t* count);

#endif
