#include <algorithm>
#include <cstring>
#include <functional>

#include "winner_mask.h"

namespace {

constexpr int32_t kSign = INT32_MIN;
constexpr int32_t kInfinity = 0x7f800000;

/* The bits of |v|, which as an integer have the order of the numbers; those of infinity for a NaN. */
int32_t magnitude(float v) {
  int32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return std::min(bits & ~kSign, kInfinity);
}

}  // namespace

LISSOM_EXPORT float lissom_f32_winner_threshold(const float* x, int64_t n, int64_t stride, int64_t winners,
                                                int32_t* scratch) {
  int64_t sampled = 0;
  for (int64_t j = 0; j < n; j += stride) scratch[sampled++] = magnitude(x[j]);
  std::nth_element(scratch, scratch + winners - 1, scratch + sampled, std::greater<int32_t>());
  float theta;
  std::memcpy(&theta, &scratch[winners - 1], sizeof theta);
  return theta;
}
