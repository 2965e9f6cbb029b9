#include "sizes.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace lissom {
namespace {

constexpr int64_t kUsual = 512 * 1024;
constexpr int64_t kMost = 2 * 1024 * 1024; /* of what several cores share, a core has less */

int64_t l2_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  const long told = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (told > 0) return told < kUsual ? kUsual : told > kMost ? kMost : told;
#endif
  return kUsual;
}

}  // namespace

int64_t cache_floats(double share) {
  static const int64_t bytes = l2_bytes();
  return static_cast<int64_t>(share * static_cast<double>(bytes)) / 4;
}

}  // namespace lissom
