#include "../vec/avx2.h"

#include "mask.h"
#include "variants.h"

void f32_winner_mask_1x8__avx2(const float* x, int64_t n, float theta, float* y) { winner_mask(x, n, theta, y); }
