/* kernels: a layer's weight times one or two columns of activations, for a Cortex-M4, in three formats of the weight.
 *
 *   y[r, j] = saturate((bias[r] + sum_p w[r, p] * x[j, p]) >> shift),   0 <= r < rows, 0 <= j < n
 *
 * w and x are int16, sums int32; y is saturated to int16 and, with a `relu` of -1 and not 0, no less than 0. Sums of
 * integers depend on no order, so all formats give the same bits. Whoever makes the weight sees to it that no sum leaves
 * int32. No branch depends on values: how many instructions run depends on the shape and on row_ptr only.
 *
 *   dense   values[rows, 2 * pairs]     a row of an odd length ends in a zero
 *   csr     values[nnz], index[nnz]     a column for each weight
 *   grouped values[2 * nnz], index[nnz] a pair of columns, 2 * index and the next, for each two weights: Scalpel's
 *
 * `row_ptr[rows + 1]` says where a row of the last two begins, in entries of `index`. `dense` and `grouped` multiply
 * two weights with one SMLAD, `csr` one with one SMLABB. Each inner loop takes four entries a turn, `dense` of two rows.
 *
 * Letters: x[n, ldx] the columns, 4-byte aligned, ldx even; behind an odd number of them an element is read, whatever
 * it is, because its weight is zero; n is 1 or 2; y[rows, ldy]. Nothing but y[r, j] is written.
 *
 * Source: Yu et al., "Scalpel: Customizing DNN Pruning to the Underlying Hardware Parallelism", ISCA 2017, section 3.1.
 */
#ifndef LISSOM_MICROCONTROLLER_KERNELS_H_
#define LISSOM_MICROCONTROLLER_KERNELS_H_

#include <stdint.h>

/* Two consecutive int16, the first in the lower half. */
typedef int32_t mcu_pair __attribute__((may_alias));

typedef struct {
  uint32_t rows;
  uint32_t pairs;
  const void* values;
  const uint16_t* index;
  const uint32_t* row_ptr;
  const int32_t* bias;
  int32_t shift;
  int32_t relu;
} mcu_weight;

#define MCU_PRODUCT_ARGUMENTS \
  const mcu_weight *weight, const int16_t *x, uint32_t ldx, uint32_t n, int16_t *y, uint32_t ldy

typedef void (*mcu_product_fn)(MCU_PRODUCT_ARGUMENTS);

void mcu_dense(MCU_PRODUCT_ARGUMENTS);
void mcu_csr(MCU_PRODUCT_ARGUMENTS);
void mcu_grouped(MCU_PRODUCT_ARGUMENTS);

#endif
