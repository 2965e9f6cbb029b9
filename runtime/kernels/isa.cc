#include "isa.h"

#include <cstdlib>
#include <cstring>

#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace lissom {
namespace {

/* How far an instruction set reaches; those of one rank are of different processors. */
int rank_of(const char* isa) {
  if (std::strcmp(isa, "scalar") == 0) return 0;
  if (std::strcmp(isa, "neon") == 0 || std::strcmp(isa, "avx2") == 0) return 1;
  return 2;
}

#if defined(_MSC_VER) && defined(_M_X64)
bool bits(int leaf, int word, unsigned wanted) {
  int info[4];
  __cpuidex(info, leaf, 0);
  return (static_cast<unsigned>(info[word]) & wanted) == wanted;
}

/* Which register states the operating system saves. */
bool saves(unsigned wanted) {
  constexpr unsigned kOsxsave = 1u << 27;
  return bits(1, 2, kOsxsave) && (static_cast<unsigned>(_xgetbv(0)) & wanted) == wanted;
}
#endif

}  // namespace

#if defined(__x86_64__)
int32_t has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#if defined(LISSOM_EMULATE_AVX512)
int32_t has_avx512() { return 1; }
#else
int32_t has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && has_avx2();
}
#endif
#elif defined(_M_X64)
int32_t has_avx2() { return saves(0x6) && bits(1, 2, 1u << 12) && bits(7, 1, 1u << 5); }
int32_t has_avx512() { return saves(0xe6) && bits(7, 1, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) && has_avx2(); }
#else
int32_t has_avx2() { return 0; }
int32_t has_avx512() { return 0; }
#endif

bool allowed(const char* variant) {
  const char* limit = std::getenv("LISSOM_ISA");
  const char* isa = std::strstr(variant, "__");
  return limit == nullptr || isa == nullptr || rank_of(isa + 2) <= rank_of(limit);
}

}  // namespace lissom
