/* AVX-512 for tests on processors without it: SIMDe's portable intrinsics, and the two that it lacks. */
#ifndef LISSOM_KERNELS_VEC_EMULATED_AVX512_H_
#define LISSOM_KERNELS_VEC_EMULATED_AVX512_H_

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

inline simde__m512 emulated_maskz_loadu_ps(simde__mmask16 mask, const float* p) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = mask >> i & 1 ? p[i] : 0.0f;
  return simde_mm512_loadu_ps(lanes);
}

inline void emulated_mask_storeu_ps(float* p, simde__mmask16 mask, simde__m512 v) {
  float lanes[16];
  simde_mm512_storeu_ps(lanes, v);
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) p[i] = lanes[i];
  }
}

#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps

#endif
