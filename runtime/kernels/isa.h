/* What this processor can run, and the choice of a variant by it. */
#ifndef LISSOM_KERNELS_ISA_H_
#define LISSOM_KERNELS_ISA_H_

#include <cstddef>

#include "abi.h"

#if defined(__x86_64__) || defined(_M_X64)
#define LISSOM_IF_X86(...) __VA_ARGS__
#else
#define LISSOM_IF_X86(...)
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
#define LISSOM_IF_NEON(...) __VA_ARGS__
#else
#define LISSOM_IF_NEON(...)
#endif

namespace lissom {

inline int32_t always() { return 1; }
int32_t has_avx2();   /* AVX2 and FMA, switched on by the operating system */
int32_t has_avx512(); /* AVX-512 F, BW, DQ and VL, as above */

/* Whether the environment variable LISSOM_ISA (scalar, neon, avx2 or avx512) lets a variant of this name run: it names
 * the best instruction set that may be used. Unset, or any other word, forbids nothing. */
bool allowed(const char* variant);

/* The last row of a table that is supported and allowed; its first row always is. */
template <std::size_t N>
const lissom_variant& fastest(const lissom_variant (&variants)[N]) {
  const lissom_variant* best = &variants[0];
  for (const lissom_variant& variant : variants) {
    if (variant.supported() && allowed(variant.name)) best = &variant;
  }
  return *best;
}

}  // namespace lissom

#endif
