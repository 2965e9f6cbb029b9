/* packed: reads the packed weight format (docs/packed-format.md) of a model file, which nobody trusts.
 *
 * Everything is checked before anything is used: a packed weight that passes has its indices in range, its rows in
 * order and its sizes free of overflow, and kernels need not look again.
 */
#ifndef LISSOM_KERNELS_PACKED_H_
#define LISSOM_KERNELS_PACKED_H_

#include "../abi.h"

enum lissom_columns { LISSOM_BITMAP = 0, LISSOM_DELTA8 = 1, LISSOM_U16 = 2, LISSOM_U32 = 3 };
enum lissom_orientation { LISSOM_OUTPUT = 0, LISSOM_INPUT = 1 };

/* What stands in the file; lengths are what the file's tensors hold. */
struct lissom_packed {
  int64_t rows;               /* output channels of all groups; rows * depth < 2^31 */
  int64_t depth;              /* columns of the folded weight */
  int32_t orientation;        /* lissom_orientation */
  int32_t columns_format;     /* lissom_columns */
  const int32_t* row_ptr;
  int64_t row_ptr_length;
  const void* columns;        /* uint8, uint8, uint16 or uint32, by format */
  int64_t columns_length;     /* elements */
  int64_t values_blocks;      /* first axis of values[values_blocks, block] */
  int64_t block;              /* second axis of it */
};

/* Checks everything. Returns null, or what is wrong in one sentence (a static string). */
LISSOM_EXPORT const char* lissom_packed_check(const lissom_packed* packed);

/* Decodes the columns of a packed weight that passed: columns[values_blocks], those of each row in order. In the input
 * orientation they count groups of `block` columns of the weight. */
LISSOM_EXPORT void lissom_packed_columns(const lissom_packed* packed, int32_t* columns);

#endif
