/* Declares every row of the table. */
#ifndef LISSOM_KERNELS_SPARSE_COLUMN_VARIANTS_H_
#define LISSOM_KERNELS_SPARSE_COLUMN_VARIANTS_H_

#include "../isa.h"
#include "sparse_column.h"

#define ROW(name, isa) void name(LISSOM_SPARSE_COLUMN_ARGUMENTS);
LISSOM_F32_SPARSE_COLUMN_VARIANTS(ROW)
#undef ROW

#endif
