#include "inference.h"

#include <atomic>
#include <string>

#include "status.h"
#include "tensor.h"

namespace lissom {
namespace {

/* Extents, where a free one (negative) may have a name. Rank 0: nothing is known. */
struct Symbolic {
  Shape shape;
  std::string names[Shape::kMostAxes];

  void take(size_t axis, const Symbolic& from, size_t from_axis) {
    shape.dims[axis] = from.shape.dims[from_axis];
    names[axis] = from.names[from_axis];
  }
};

Symbolic input(const OrtApi* api, OrtShapeInferContext* context, size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr; /* the context's */
  require(api, api->ShapeInferContext_GetInputTypeShape(context, index, &info));
  Symbolic result;
  result.shape = shape_of(api, info);
  const char* names[Shape::kMostAxes] = {};
  require(api, api->GetSymbolicDimensions(info, names, result.shape.rank));
  for (size_t axis = 0; axis < result.shape.rank; ++axis) {
    if (names[axis]) result.names[axis] = names[axis];
  }
  return result;
}

/* A name for an extent that nothing is known of: equal names would mean equal extents. */
std::string fresh_name() {
  static std::atomic<uint64_t> count{0};
  return "lissom_free_" + std::to_string(++count);
}

void set_output(const OrtApi* api, OrtShapeInferContext* context, Symbolic output) {
  const char* names[Shape::kMostAxes] = {};
  for (size_t axis = 0; axis < output.shape.rank; ++axis) {
    if (output.shape.dims[axis] >= 0) {
      output.names[axis].clear();
    } else {
      output.shape.dims[axis] = -1;
      if (output.names[axis].empty()) output.names[axis] = fresh_name();
    }
    names[axis] = output.names[axis].c_str();
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  require(api, api->CreateTensorTypeAndShapeInfo(&info));
  OrtStatus* status = api->SetTensorElementType(info, ORT_FLOAT);
  if (!status) status = api->SetDimensions(info, output.shape.dims, output.shape.rank);
  if (!status) status = api->SetSymbolicDimensions(info, names, output.shape.rank);
  if (!status) status = api->ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api->ReleaseTensorTypeAndShapeInfo(info);
  require(api, status);
}

}  // namespace

void infer_shape(const OrtApi* api, const Signature& signature, OrtShapeInferContext* context) {
  const Symbolic x = input(api, context, kX);
  if (signature.kind == Kind::mask) {
    if (x.shape.rank >= 2) set_output(api, context, x);
    return;
  }
  const Stage& last = signature.last();
  const Symbolic bias = input(api, context, last.bias);
  const bool conv = signature.kind != Kind::gemm;
  if ((conv ? x.shape.rank != 4 : x.shape.rank < 2) || bias.shape.rank != 1) return;
  const size_t channels = conv ? 1 : x.shape.rank - 1;
  Symbolic output = x;
  output.take(channels, bias, 0);
  /* The extents of a kernel are not known here, but a residual has the output's. */
  for (size_t axis = 2; conv && axis < 4; ++axis) {
    output.shape.dims[axis] = -1;
    output.names[axis].clear();
  }
  if (last.residual) {
    const Symbolic residual = input(api, context, last.residual);
    for (size_t axis = 0; residual.shape.rank == x.shape.rank && axis < x.shape.rank; ++axis) {
      if (output.shape.dims[axis] < 0) output.take(axis, residual, axis);
    }
  }
  set_output(api, context, output);
}

}  // namespace lissom
