/* Four floats with NEON on AArch64; the meaning of each operation is in scalar.h. */
#ifndef LISSOM_KERNELS_VEC_NEON_H_
#define LISSOM_KERNELS_VEC_NEON_H_

#include <arm_neon.h>

#include <cstdint>

namespace {

struct Vec {
  using Reg = float32x4_t;
  static constexpr int kLanes = 4;

  static Reg load(const float* p) { return vld1q_f32(p); }
  static Reg load_part(const float* p, int64_t n) {
    float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return vld1q_f32(lanes);
  }
  static void store(float* p, Reg v) { vst1q_f32(p, v); }
  static void store_part(float* p, Reg v, int64_t n) {
    float lanes[4];
    vst1q_f32(lanes, v);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
  }
  static Reg set(float v) { return vdupq_n_f32(v); }
  static Reg zero() { return vdupq_n_f32(0.0f); }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg div(Reg a, Reg b) { return vdivq_f32(a, b); }
  static Reg at_least(Reg v, Reg low) { return vmaxq_f32(low, v); }
  static Reg at_most(Reg v, Reg high) { return vminq_f32(high, v); }
  static Reg abs(Reg v) { return vabsq_f32(v); }
  static Reg if_greater(Reg a, Reg b, Reg yes, Reg no) { return vbslq_f32(vcgtq_f32(a, b), yes, no); }
  static Reg round(Reg v) { return vrndnq_f32(v); }
  static Reg scale(Reg v, Reg exponent) {
    const int32x4_t bits = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(exponent), vdupq_n_s32(127)), 23);
    return vmulq_f32(v, vreinterpretq_f32_s32(bits));
  }

  template <int BLOCK>
  static Reg spread(const float* x, const int32_t* columns) {
    if constexpr (BLOCK == 2) return vcombine_f32(vld1_dup_f32(x + columns[0]), vld1_dup_f32(x + columns[1]));
    const float lanes[4] = {x[columns[0]], x[columns[1]], x[columns[2]], x[columns[3]]};
    return vld1q_f32(lanes);
  }
};

}  // namespace

#endif
