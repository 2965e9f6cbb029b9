/* Declares every row of the table. */
#ifndef LISSOM_KERNELS_THRESHOLD_VARIANTS_H_
#define LISSOM_KERNELS_THRESHOLD_VARIANTS_H_

#include "threshold.h"

#define ROW(name, isa) void name(int64_t n, const float* x, float* y, float theta);
LISSOM_F32_THRESHOLD_VARIANTS(ROW)
#undef ROW

#endif
