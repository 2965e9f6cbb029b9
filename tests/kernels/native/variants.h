/* The rows of a table of variants that this processor supports, and the dispatcher, all tested by one function. */
#ifndef LISSOM_TESTS_VARIANTS_H_
#define LISSOM_TESTS_VARIANTS_H_

#include <cstdio>
#include <string>

#include "../../../runtime/kernels/abi.h"
#include "exact.h"

template <class Kernel>
struct Variant {
  std::string name;
  Kernel kernel;
};

/* Runs test(variant), which returns its number of cases, and says which variants were not run. */
template <class Kernel, class Test>
void each_variant(const lissom_variant* (*table)(int64_t*), Kernel dispatcher, const char* operation, Test test) {
  int64_t count = 0;
  const lissom_variant* rows = table(&count);
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i].supported()) {
      report(rows[i].name, test(Variant<Kernel>{rows[i].name, reinterpret_cast<Kernel>(rows[i].function)}));
    } else {
      std::printf("%s: not supported by this processor\n", rows[i].name);
    }
  }
  report(operation, test(Variant<Kernel>{operation, dispatcher}));
}

#endif
