/* The tests of the kernels without Python, for processors and builds that Python does not run on: every variant, on
 * arrays that end at guard pages, against loops that follow the definition. Ends with 1 at the first difference.
 *
 *   exact [--quick]   --quick: fewer random cases, for emulators
 *   exact --overrun   reads one element beyond an array, which must kill it
 */
#include "exact.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "guarded.h"

void fail(const std::string& message) {
  std::printf("FAILED %s\n", message.c_str());
  std::exit(1);
}

void report(const std::string& group, int64_t cases) {
  std::printf("%s: %lld cases\n", group.c_str(), static_cast<long long>(cases));
  std::fflush(stdout);
}

std::string show(const char* name, int64_t value) { return std::string(name) + "=" + std::to_string(value) + ", "; }

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--overrun") == 0) {
    const Guarded<float> array(5, 1.0f);
    const volatile float* data = array.begin();
    fail(std::to_string(data[5]) + " was read beyond an array");
  }
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  test_product();
  test_vector();
  test_conv(quick);
  test_gemm(quick);
  test_depthwise(quick);
  test_chain(quick);
  test_packed(quick);
  test_mask();
  test_column();
  return 0;
}
