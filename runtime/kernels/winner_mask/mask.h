/* The mask for one instruction set: included by one file each, after the header that defines Vec. */
#ifndef LISSOM_KERNELS_WINNER_MASK_MASK_H_
#define LISSOM_KERNELS_WINNER_MASK_MASK_H_

#include <cstdint>

namespace {

/* v, zero where |v| is less than theta. */
inline Vec::Reg winners(Vec::Reg v, Vec::Reg theta) { return Vec::if_greater(theta, Vec::abs(v), Vec::zero(), v); }

inline void winner_mask(const float* x, int64_t n, float theta, float* y) {
  const Vec::Reg least = Vec::set(theta);
  int64_t j = 0;
  for (; j + Vec::kLanes <= n; j += Vec::kLanes) Vec::store(y + j, winners(Vec::load(x + j), least));
  if (j < n) Vec::store_part(y + j, winners(Vec::load_part(x + j, n - j), least), n - j);
}

}  // namespace

#endif
