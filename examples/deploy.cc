/* Runs a model that lissom wrote, with the native kernels, from C++.
 *
 *   deploy ONNXRUNTIME_LIBRARY LISSOM_LIBRARY MODEL.onnx INPUT OUTPUT EXTENT...
 *
 * feeds ones of the given extents to the input, and prints the mean of the output. LISSOM_LIBRARY "-" leaves the
 * kernels out: the model runs through its function bodies.
 *
 * The declarations are those of runtime/ops/ort_abi.h, so that the example needs no headers of ONNX Runtime, and the
 * runtime is loaded by its path. A program that is built with ONNX Runtime's own headers says
 *
 *   Ort::SessionOptions options;
 *   options.RegisterCustomOpsLibrary(LISSOM_LIBRARY);
 */
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "../runtime/ops/ort_abi.h"

namespace {

const OrtApi* api = nullptr;

void check(OrtStatus* status) {
  if (!status) return;
  std::fprintf(stderr, "%s\n", api->GetErrorMessage(status));
  std::exit(1);
}

const OrtApi* load_onnxruntime(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void* symbol = library ? dlsym(library, "OrtGetApiBase") : nullptr;
  if (!symbol) {
    std::fprintf(stderr, "expected ONNX Runtime at %s, but got: %s\n", path, dlerror());
    std::exit(1);
  }
  return reinterpret_cast<const OrtApiBase* (*)()>(symbol)()->GetApi(kOrtApiVersion);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7) {
    std::fprintf(stderr, "expected 6 or more arguments, but got %d\n", argc - 1);
    return 2;
  }
  api = load_onnxruntime(argv[1]);
  if (!api) {
    std::fprintf(stderr, "expected ONNX Runtime 1.18 or newer\n");
    return 1;
  }

  OrtEnv* env = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  void* handle = nullptr; /* of our library; it stays loaded as long as sessions use it */
  check(api->CreateEnv(3, "deploy", &env));
  check(api->CreateSessionOptions(&options));
  if (std::string(argv[2]) != "-") check(api->RegisterCustomOpsLibrary(options, argv[2], &handle));
  check(api->CreateSession(env, argv[3], options, &session));

  std::vector<int64_t> extents;
  for (int i = 6; i < argc; ++i) extents.push_back(std::atoll(argv[i]));
  int64_t count = 1;
  for (const int64_t extent : extents) count *= extent;
  std::vector<float> ones(static_cast<size_t>(count), 1.0f);
  OrtMemoryInfo* memory = nullptr;
  OrtValue* input = nullptr;
  OrtValue* output = nullptr;
  check(api->CreateCpuMemoryInfo(0, 0, &memory));
  check(api->CreateTensorWithDataAsOrtValue(memory, ones.data(), ones.size() * sizeof(float), extents.data(),
                                            extents.size(), ORT_FLOAT, &input));
  check(api->Run(session, nullptr, &argv[4], &input, 1, &argv[5], 1, &output));

  OrtTensorTypeAndShapeInfo* info = nullptr;
  size_t size = 0;
  void* data = nullptr;
  check(api->GetTensorTypeAndShape(output, &info));
  check(api->GetTensorShapeElementCount(info, &size));
  check(api->GetTensorMutableData(output, &data));
  const float* y = static_cast<const float*>(data);
  std::printf("%s %zu elements, mean %.6g\n", argv[5], size, std::accumulate(y, y + size, 0.0) / double(size));

  api->ReleaseTensorTypeAndShapeInfo(info);
  api->ReleaseValue(output);
  api->ReleaseValue(input);
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(env);
}
