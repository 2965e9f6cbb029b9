/* Arithmetic on sizes that the plans of the operators share. */
#ifndef LISSOM_KERNELS_SIZES_H_
#define LISSOM_KERNELS_SIZES_H_

#include <cstdint>

namespace lissom {

/* Bound of every size, so that products of two stay within int64 and indices of a panel within int32. */
constexpr int64_t kLargest = int64_t{1} << 31;
/* A panel stays in this share of the L2 cache while the weight passes over it. */
constexpr double kPanelShare = 6.0 / 16;
/* Tasks that a run is cut into where it can be, so that threads end together. */
constexpr int64_t kTasks = 16;
/* Multiply-accumulates below which a task is not worth its start. */
constexpr int64_t kLeastWork = 200000;

/* Floats in a share of this processor's L2 cache; of one of 512 KiB where the system does not tell. */
int64_t cache_floats(double share);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The distance between rows of `length` floats in a panel. Vectors are aligned, and an odd number of them lies between
 * rows, so that rows do not meet in the same lines of the cache. */
inline int64_t pitch_of(int64_t length) {
  const int64_t vectors = ceil_div(length, 16);
  return 16 * (vectors | 1);
}

}  // namespace lissom

#endif
