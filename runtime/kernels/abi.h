/* What all kernels share: a plain C interface that knows no ONNX Runtime.
 *
 * Letters: n elements; x input; y output. Lengths and strides are in elements. A kernel reads and writes nothing
 * outside the arrays it is given, wants no alignment beyond the element's, and allocates nothing.
 */
#ifndef LISSOM_KERNELS_ABI_H_
#define LISSOM_KERNELS_ABI_H_

#include <cstdint>

#if defined(_WIN32)
#define LISSOM_EXPORT extern "C" __declspec(dllexport)
#else
#define LISSOM_EXPORT extern "C" __attribute__((visibility("default")))
#endif

/* Raised whenever an exported function changes; lissom_runtime/library.py holds the version that it calls. */
#define LISSOM_ABI_VERSION 3

LISSOM_EXPORT int32_t lissom_abi_version(void);

/* One variant of an operator. Each operator exports the table of its variants, slowest first; tests and benchmarks run
 * every row that this processor supports, and the operator itself takes the last of them. */
struct lissom_variant {
  const char* name;         /* <dtype>_<op>_<MR>x<NR>__<isa> */
  int32_t (*supported)();   /* non-zero if this processor can run it */
  void* function;           /* signature: see the operator's header */
};

#endif
