#include <cmath>

#include "variants.h"

void f32_threshold_1x1__scalar(int64_t n, const float* x, float* y, float theta) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = std::fabs(x[i]) > theta ? x[i] : 0.0f;
  }
}
