/* Declares every row of the table. */
#ifndef LISSOM_KERNELS_DEPTHWISE_VARIANTS_H_
#define LISSOM_KERNELS_DEPTHWISE_VARIANTS_H_

#include "../isa.h"
#include "depthwise.h"

#define ROW(name, isa) void name(LISSOM_DEPTHWISE_ARGUMENTS);
LISSOM_F32_DEPTHWISE_VARIANTS(ROW)
#undef ROW

#endif
