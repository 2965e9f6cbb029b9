/* A node of a session, ready to run. */
#ifndef LISSOM_OPS_KERNEL_H_
#define LISSOM_OPS_KERNEL_H_

#include <memory>

#include "info.h"
#include "ort_abi.h"
#include "signature.h"
#include "status.h"
#include "tensor.h"

namespace lissom {

class Kernel {
 public:
  Kernel(const OrtApi* api, const Signature& signature) : api_(api), signature_(signature) {}
  virtual ~Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  const OrtApi* api() const { return api_; }

  /* Runs the node once. Sessions may do so from many threads at the same time. Throws. */
  virtual void compute(OrtKernelContext* context) const = 0;

 protected:
  Tensor input(OrtKernelContext* context, size_t index) const {
    const OrtValue* value = nullptr;
    require(api_, api_->KernelContext_GetInput(context, index, &value));
    if (!value) throw Error("expected a tensor for input " + std::to_string(index) + ", but got none");
    return tensor(api_, value);
  }

  float* output(OrtKernelContext* context, const Shape& shape) const {
    OrtValue* value = nullptr;
    require(api_, api_->KernelContext_GetOutput(context, 0, shape.dims, shape.rank, &value));
    void* data = nullptr;
    require(api_, api_->GetTensorMutableData(value, &data));
    return static_cast<float*>(data);
  }

  /* The residual's elements, or null for an operator without one. Throws an Error unless it has the output's shape. */
  const float* residual(OrtKernelContext* context, const Shape& shape) const {
    if (!signature_.last().residual) return nullptr;
    const Tensor tensor = input(context, signature_.last().residual);
    if (tensor.shape != shape) {
      throw Error("expected a residual of the output's shape " + shape.text() + ", but got " + tensor.shape.text());
    }
    return tensor.as<float>();
  }

 private:
  const OrtApi* api_;
  const Signature& signature_;
};

/* Throw an Error for a node that is not as the contract says. */
std::unique_ptr<Kernel> make_conv(const OrtApi* api, const Info& info);
std::unique_ptr<Kernel> make_gemm(const OrtApi* api, const Info& info);
std::unique_ptr<Kernel> make_chain(const OrtApi* api, const Info& info);
std::unique_ptr<Kernel> make_mask(const OrtApi* api, const Info& info);

}  // namespace lissom

#endif
