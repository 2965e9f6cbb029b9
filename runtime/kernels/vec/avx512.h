/* Sixteen floats with AVX-512; the meaning of each operation is in scalar.h. */
#ifndef LISSOM_KERNELS_VEC_AVX512_H_
#define LISSOM_KERNELS_VEC_AVX512_H_

#if defined(LISSOM_EMULATE_AVX512)
#include "emulated_avx512.h"
#else
/* GCC 12 takes the undefined lanes in its own header for uninitialized variables (its bug 105593). */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

#include <cstdint>

namespace {

struct Vec {
  using Reg = __m512;
  static constexpr int kLanes = 16;

  static __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static Reg load_part(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static void store_part(float* p, Reg v, int64_t n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static Reg set(float v) { return _mm512_set1_ps(v); }
  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg at_least(Reg v, Reg low) { return _mm512_max_ps(low, v); }
  static Reg at_most(Reg v, Reg high) { return _mm512_min_ps(high, v); }
  static Reg abs(Reg v) { return _mm512_abs_ps(v); }
  static Reg if_greater(Reg a, Reg b, Reg yes, Reg no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
  }
  static Reg round(Reg v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg scale(Reg v, Reg exponent) { return _mm512_scalef_ps(v, exponent); }

  template <int BLOCK>
  static Reg spread(const float* x, const int32_t* columns) {
    const auto at = [&](int lane) { return x[columns[lane / BLOCK]]; };
    return _mm512_set_ps(at(15), at(14), at(13), at(12), at(11), at(10), at(9), at(8), at(7), at(6), at(5), at(4),
                         at(3), at(2), at(1), at(0));
  }
};

}  // namespace

#endif
