/* Declares every row of the table. */
#ifndef LISSOM_KERNELS_WINNER_MASK_VARIANTS_H_
#define LISSOM_KERNELS_WINNER_MASK_VARIANTS_H_

#include "../isa.h"
#include "winner_mask.h"

#define ROW(name, isa) void name(const float* x, int64_t n, float theta, float* y);
LISSOM_F32_WINNER_MASK_VARIANTS(ROW)
#undef ROW

#endif
