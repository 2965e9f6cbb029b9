/* The activations of sparse.h on whole vectors. Included after one of the headers that define Vec. */
#ifndef LISSOM_KERNELS_VEC_ACTIVATION_H_
#define LISSOM_KERNELS_VEC_ACTIVATION_H_

#include "../sparse.h"

/* Arrays of vectors stay in registers only where every index is a constant. */
#if defined(__clang__)
#define LISSOM_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define LISSOM_UNROLL _Pragma("GCC unroll 64")
#else
#define LISSOM_UNROLL
#endif

namespace {

/* exp(v) within 2 units in the last place, for v clamped to [-87, 87]: 2^n e^r with |r| <= ln(2) / 2. */
inline Vec::Reg exponential(Vec::Reg v) {
  v = Vec::at_most(Vec::at_least(v, Vec::set(-87.0f)), Vec::set(87.0f));
  const Vec::Reg n = Vec::round(Vec::mul(v, Vec::set(1.44269504f)));
  Vec::Reg r = Vec::fma(n, Vec::set(-0.693359375f), v); /* ln 2 in two parts */
  r = Vec::fma(n, Vec::set(2.12194440e-4f), r);
  constexpr float kTaylor[] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
  Vec::Reg sum = Vec::set(1.0f / 5040.0f);
  LISSOM_UNROLL
  for (int i = 0; i < 7; ++i) sum = Vec::fma(sum, r, Vec::set(kTaylor[i]));
  return Vec::scale(sum, n);
}

template <int N, class F>
inline void each(Vec::Reg (&v)[N], F f) {
  LISSOM_UNROLL
  for (int i = 0; i < N; ++i) v[i] = f(v[i]);
}

/* Passes N vectors through the epilogue's activation. */
template <int N>
inline void activate(const lissom_epilogue& epilogue, Vec::Reg (&v)[N]) {
  using Reg = Vec::Reg;
  const Reg zero = Vec::zero();
  switch (epilogue.activation) {
    case LISSOM_RELU:
      each(v, [&](Reg s) { return Vec::at_least(s, zero); });
      break;
    case LISSOM_CLIP: {
      const Reg low = Vec::set(epilogue.a), high = Vec::set(epilogue.b);
      each(v, [&](Reg s) { return Vec::at_most(Vec::at_least(s, low), high); });
      break;
    }
    case LISSOM_LEAKY_RELU: {
      const Reg slope = Vec::set(epilogue.a);
      each(v, [&](Reg s) { return Vec::if_greater(zero, s, Vec::mul(slope, s), s); });
      break;
    }
    case LISSOM_HARD_SWISH: {
      const Reg sixth = Vec::set(1.0f / 6.0f), half = Vec::set(0.5f), one = Vec::set(1.0f);
      each(v, [&](Reg s) {
        return Vec::mul(s, Vec::at_most(Vec::at_least(Vec::fma(s, sixth, half), zero), one));
      });
      break;
    }
    case LISSOM_SILU: {
      /* Below the least that exponential takes the quotient is zero, and no number for minus infinity. */
      const Reg one = Vec::set(1.0f), minus = Vec::set(-1.0f), least = Vec::set(-87.0f);
      each(v, [&](Reg s) {
        const Reg quotient = Vec::div(s, Vec::add(one, exponential(Vec::mul(minus, s))));
        return Vec::if_greater(least, s, Vec::mul(s, zero), quotient);
      });
      break;
    }
    case LISSOM_THRESHOLDED_RELU: {
      const Reg theta = Vec::set(epilogue.a);
      each(v, [&](Reg s) { return Vec::if_greater(s, theta, s, zero); });
      break;
    }
    case LISSOM_SHRINK: {
      const Reg theta = Vec::set(epilogue.a);
      each(v, [&](Reg s) { return Vec::if_greater(Vec::abs(s), theta, s, zero); });
      break;
    }
    default:
      break;
  }
}

/* What is left to do with the sums y[rows]: residual[rows], or null for none, and the activation. */
inline void finish(int64_t rows, const float* residual, float* y, const lissom_epilogue& epilogue) {
  for (int64_t r = 0; r < rows; r += Vec::kLanes) {
    const int64_t n = rows - r < Vec::kLanes ? rows - r : Vec::kLanes;
    Vec::Reg sum[1] = {Vec::load_part(y + r, n)};
    if (residual != nullptr) sum[0] = Vec::add(sum[0], Vec::load_part(residual + r, n));
    activate(epilogue, sum);
    Vec::store_part(y + r, sum[0], n);
  }
}

}  // namespace

#endif
