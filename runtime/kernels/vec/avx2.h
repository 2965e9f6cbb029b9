/* Eight floats with AVX2 and FMA; the meaning of each operation is in scalar.h. */
#ifndef LISSOM_KERNELS_VEC_AVX2_H_
#define LISSOM_KERNELS_VEC_AVX2_H_

#include <immintrin.h>

#include <cstdint>

namespace {

alignas(64) constexpr int32_t kLaneMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

struct Vec {
  using Reg = __m256;
  static constexpr int kLanes = 8;

  static __m256i first(int64_t n) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMask + 8 - n)); }

  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static Reg load_part(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  static void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  static void store_part(float* p, Reg v, int64_t n) { _mm256_maskstore_ps(p, first(n), v); }
  static Reg set(float v) { return _mm256_set1_ps(v); }
  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg at_least(Reg v, Reg low) { return _mm256_max_ps(low, v); }
  static Reg at_most(Reg v, Reg high) { return _mm256_min_ps(high, v); }
  static Reg abs(Reg v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
  static Reg if_greater(Reg a, Reg b, Reg yes, Reg no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
  }
  static Reg round(Reg v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg scale(Reg v, Reg exponent) {
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(v, _mm256_castsi256_ps(bits));
  }

  template <int BLOCK>
  static Reg spread(const float* x, const int32_t* columns) {
    if constexpr (BLOCK == 4) {
      return _mm256_set_m128(_mm_broadcast_ss(x + columns[1]), _mm_broadcast_ss(x + columns[0]));
    }
    if constexpr (BLOCK == 2) {
      const float a = x[columns[0]], b = x[columns[1]], c = x[columns[2]], d = x[columns[3]];
      return _mm256_setr_ps(a, a, b, b, c, c, d, d);
    }
    return _mm256_i32gather_ps(x, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns)), 4);
  }
};

}  // namespace

#endif
