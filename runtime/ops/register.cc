/* Registers every operator in a session's options: the entry point that ONNX Runtime calls. */
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "inference.h"
#include "kernel.h"
#include "ort_abi.h"
#include "signature.h"
#include "status.h"

namespace lissom {
namespace {

struct Operator : OrtCustomOp {
  const OrtApi* api = nullptr;
  const Signature* signature = nullptr;
};

const Operator& self(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

std::unique_ptr<Kernel> make(const OrtApi* api, const Info& info) {
  switch (info.signature().kind) {
    case Kind::conv:
      return make_conv(api, info);
    case Kind::gemm:
      return make_gemm(api, info);
    case Kind::chain:
      return make_chain(api, info);
    default:
      return make_mask(api, info);
  }
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* ort_info, void** kernel) {
  return guarded(api, [&] {
    const Info info(api, ort_info, *self(op).signature);
    try {
      *kernel = make(api, info).release();
    } catch (const Error& error) {
      throw Error(info.node() + ": " + error.what());
    }
  });
}

OrtStatus* run_kernel(void* kernel, OrtKernelContext* context) {
  const Kernel& known = *static_cast<const Kernel*>(kernel);
  return guarded(known.api(), [&] { known.compute(context); });
}

/* The residual's memory may become the output's. ONNX Runtime does not say of which operator: all that have one stage
 * have their residual at one place. A chain's is x itself as a rule, which is read until the end. */
constexpr size_t kResidual = 6;

size_t residual_in_place(int** inputs, int** outputs) {
  static int residual = kResidual, output = 0;
  *inputs = &residual;
  *outputs = &output;
  return 1;
}

/* A mask may write over its input. */
size_t input_in_place(int** inputs, int** outputs) {
  static int input = kX, output = 0;
  *inputs = &input;
  *outputs = &output;
  return 1;
}

Operator make_operator(const OrtApi* api, const Signature& signature) {
  Operator op = {};
  op.api = api;
  op.signature = &signature;
  op.version = kOrtApiVersion;
  op.GetName = [](const OrtCustomOp* op) { return self(op).signature->name.c_str(); };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; }; /* the CPU */
  op.GetInputType = [](const OrtCustomOp* op, size_t index) { return self(op).signature->inputs[index].type; };
  op.GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).signature->inputs.size(); };
  op.GetOutputType = [](const OrtCustomOp*, size_t) -> int { return ORT_FLOAT; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return 0; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return 0; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = run_kernel;
  op.InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
    return guarded(self(op).api, [&] { infer_shape(self(op).api, *self(op).signature, context); });
  };
  op.GetStartVersion = op.GetEndVersion = [](const OrtCustomOp*) { return kVersion; };
  if (signature.kind == Kind::mask) {
    op.GetMayInplace = input_in_place;
  } else if (signature.stages.size() == 1 && signature.last().residual == kResidual) {
    op.GetMayInplace = residual_in_place;
  }
  if (op.GetMayInplace) op.ReleaseMayInplace = [](int*, int*) {};
  return op;
}

/* The operators of one ONNX Runtime: a process may hold several. */
struct Registry {
  const OrtApi* api;
  std::deque<Operator> operators;
  OrtCustomOpDomain* domain = nullptr;

  explicit Registry(const OrtApi* api) : api(api) {
    require(api, api->CreateCustomOpDomain(kDomain, &domain));
    try {
      for (const Signature& signature : signatures()) {
        operators.push_back(make_operator(api, signature));
        require(api, api->CustomOpDomain_Add(domain, &operators.back()));
      }
    } catch (...) {
      api->ReleaseCustomOpDomain(domain);
      throw;
    }
  }
};

/* The registry of an ONNX Runtime; it is never released, since sessions may outlive everything here. */
OrtCustomOpDomain* domain_of(const OrtApi* api) {
  static std::mutex& mutex = *new std::mutex;
  static auto& registries = *new std::deque<std::unique_ptr<Registry>>;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& registry : registries) {
    if (registry->api == api) return registry->domain;
  }
  registries.push_back(std::make_unique<Registry>(api));
  return registries.back()->domain;
}

}  // namespace
}  // namespace lissom

/* Adds the domain ai.lissom to the options. */
LISSOM_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace lissom;
  if (const OrtApi* api = base->GetApi(kOrtApiVersion)) {
    return guarded(api, [&] { require(api, api->AddCustomOpDomain(options, domain_of(api))); });
  }
  /* An older runtime has a shorter table; statuses are at its beginning since the first version. */
  const OrtApi* old = base->GetApi(1);
  return guarded(old, [&] {
    throw Error(std::string("expected ONNX Runtime 1.18 or newer for lissom's operators, but got ") +
                base->GetVersionString());
  });
}
