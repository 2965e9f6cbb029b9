/* What this processor can run, and the choice of a variant by it. */
#ifndef LISSOM_KERNELS_ISA_H_
#define LISSOM_KERNELS_ISA_H_

#include <cstddef>

#include "abi.h"

namespace lissom {

inline int32_t always() { return 1; }

/* The last supported row of a table whose first row is always supported. */
template <std::size_t N>
void* fastest(const lissom_variant (&variants)[N]) {
  void* function = variants[0].function;
  for (const lissom_variant& variant : variants) {
    if (variant.supported()) function = variant.function;
  }
  return function;
}

}  // namespace lissom

#endif
