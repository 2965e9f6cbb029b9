/* The three products of kernels.h. Each is written once for n columns and compiled for one and for two. */
#include "kernels.h"

#include <arm_acle.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH _Pragma("GCC unroll 4") for

enum { kUnroll = 4, kRows = 2, kColumns = 2 };

INLINE void finish(const mcu_weight* weight, int32_t sum, int16_t* y) {
  const int32_t saturated = __ssat(sum >> weight->shift, 16);
  *y = (int16_t)(saturated & ~((saturated >> 31) & weight->relu));
}

/* The dot products of `height` rows w[r] with the n columns of x, into sum[r][j]; moves w[r] to the rows' ends. */
INLINE void dense_rows(const mcu_weight* weight, const int16_t* x, uint32_t ldx, uint32_t n, const mcu_pair** w,
                       uint32_t height, int32_t sum[kRows][kColumns]) {
  const mcu_pair* a[kColumns];
  EACH(uint32_t j = 0; j < n; ++j) a[j] = (const mcu_pair*)(x + j * ldx);

#define STEP(i)                                                                       \
  do {                                                                                \
    mcu_pair factor[kColumns];                                                        \
    EACH(uint32_t j = 0; j < n; ++j) factor[j] = a[j][i];                             \
    EACH(uint32_t r = 0; r < height; ++r) {                                           \
      const mcu_pair value = w[r][i];                                                 \
      EACH(uint32_t j = 0; j < n; ++j) sum[r][j] = __smlad(value, factor[j], sum[r][j]); \
    }                                                                                 \
  } while (0)
#define ADVANCE(steps)                                     \
  do {                                                     \
    EACH(uint32_t r = 0; r < height; ++r) w[r] += (steps); \
    EACH(uint32_t j = 0; j < n; ++j) a[j] += (steps);      \
  } while (0)

  for (uint32_t turns = weight->pairs / kUnroll; turns; --turns) {
    EACH(uint32_t i = 0; i < kUnroll; ++i) STEP(i);
    ADVANCE(kUnroll);
  }
  for (uint32_t rest = weight->pairs % kUnroll; rest; --rest) {
    STEP(0);
    ADVANCE(1);
  }
#undef STEP
#undef ADVANCE
}

INLINE void dense(MCU_PRODUCT_ARGUMENTS) {
  const mcu_pair* w[kRows] = {weight->values, weight->values};
  const int32_t* bias = weight->bias;
  int32_t sum[kRows][kColumns];
  for (uint32_t left = weight->rows / kRows; left; --left) {
    w[1] = w[0] + weight->pairs;
    EACH(uint32_t r = 0; r < kRows; ++r) {
      EACH(uint32_t j = 0; j < n; ++j) sum[r][j] = bias[r];
    }
    dense_rows(weight, x, ldx, n, w, kRows, sum);
    w[0] = w[1];
    bias += kRows;
    EACH(uint32_t r = 0; r < kRows; ++r) {
      EACH(uint32_t j = 0; j < n; ++j) finish(weight, sum[r][j], y + j);
      y += ldy;
    }
  }
  if (weight->rows % kRows) {
    EACH(uint32_t j = 0; j < n; ++j) sum[0][j] = *bias;
    dense_rows(weight, x, ldx, n, w, 1, sum);
    EACH(uint32_t j = 0; j < n; ++j) finish(weight, sum[0][j], y + j);
  }
}

/* The body of `csr` and `grouped`: Value is what an entry holds, MULTIPLY adds its product with its column. */
#define LISTED(Value, MULTIPLY)                                                                 \
  do {                                                                                          \
    const Value* value = weight->values;                                                        \
    const uint16_t* index = weight->index;                                                      \
    const uint32_t* row_ptr = weight->row_ptr;                                                  \
    const int32_t* bias = weight->bias;                                                         \
    const Value* const a[kColumns] = {(const Value*)x, (const Value*)(x + ldx)};                \
    for (uint32_t left = weight->rows; left; --left) {                                          \
      const uint32_t entries = row_ptr[1] - row_ptr[0];                                         \
      int32_t sum[kColumns];                                                                    \
      EACH(uint32_t j = 0; j < n; ++j) sum[j] = *bias;                                          \
      for (uint32_t turns = entries / kUnroll; turns; --turns) {                                \
        EACH(uint32_t i = 0; i < kUnroll; ++i) {                                                \
          EACH(uint32_t j = 0; j < n; ++j) sum[j] = MULTIPLY(value[i], a[j][index[i]], sum[j]); \
        }                                                                                       \
        value += kUnroll;                                                                       \
        index += kUnroll;                                                                       \
      }                                                                                         \
      for (uint32_t rest = entries % kUnroll; rest; --rest) {                                   \
        EACH(uint32_t j = 0; j < n; ++j) sum[j] = MULTIPLY(*value, a[j][*index], sum[j]);       \
        ++value;                                                                                \
        ++index;                                                                                \
      }                                                                                         \
      EACH(uint32_t j = 0; j < n; ++j) finish(weight, sum[j], y + j);                           \
      y += ldy;                                                                                 \
      ++row_ptr;                                                                                \
      ++bias;                                                                                   \
    }                                                                                           \
  } while (0)

INLINE void csr(MCU_PRODUCT_ARGUMENTS) { LISTED(int16_t, __smlabb); }

INLINE void grouped(MCU_PRODUCT_ARGUMENTS) { LISTED(mcu_pair, __smlad); }

#define COMPILED(name)                        \
  void mcu_##name(MCU_PRODUCT_ARGUMENTS) {    \
    if (n == 1) {                             \
      name(weight, x, ldx, 1, y, ldy);        \
    } else {                                  \
      name(weight, x, ldx, kColumns, y, ldy); \
    }                                         \
  }

COMPILED(dense)
COMPILED(csr)
COMPILED(grouped)
