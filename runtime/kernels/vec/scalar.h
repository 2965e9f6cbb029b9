/* One float as a vector of one lane: the portable variant, and the meaning of every operation of the others. */
#ifndef LISSOM_KERNELS_VEC_SCALAR_H_
#define LISSOM_KERNELS_VEC_SCALAR_H_

#include <cmath>
#include <cstdint>

namespace {

struct Vec {
  using Reg = float;
  static constexpr int kLanes = 1;

  static Reg load(const float* p) { return *p; }
  static Reg load_part(const float* p, int64_t n) { return n > 0 ? *p : 0.0f; } /* the first n lanes, then zeros */
  static void store(float* p, Reg v) { *p = v; }
  static void store_part(float* p, Reg v, int64_t n) {
    if (n > 0) *p = v;
  }
  static Reg set(float v) { return v; }
  static Reg zero() { return 0.0f; }
  static Reg fma(Reg a, Reg b, Reg c) { return a * b + c; } /* a b + c, rounded once or twice */
  static Reg add(Reg a, Reg b) { return a + b; }
  static Reg mul(Reg a, Reg b) { return a * b; }
  static Reg div(Reg a, Reg b) { return a / b; }
  static Reg at_least(Reg v, Reg low) { return v < low ? low : v; }   /* NaN stays NaN */
  static Reg at_most(Reg v, Reg high) { return v > high ? high : v; } /* as above */
  static Reg abs(Reg v) { return std::fabs(v); }
  static Reg if_greater(Reg a, Reg b, Reg yes, Reg no) { return a > b ? yes : no; } /* no, where a or b is NaN */
  static Reg round(Reg v) { return std::nearbyint(v); }
  static Reg scale(Reg v, Reg exponent) { return std::isnan(exponent) ? exponent : std::ldexp(v, static_cast<int>(exponent)); }

  /* Lane i is x[columns[i / BLOCK]], for a BLOCK that divides the number of lanes and is less. */
  template <int BLOCK>
  static Reg spread(const float* x, const int32_t* columns) {
    return x[columns[0]];
  }
};

}  // namespace

#endif
