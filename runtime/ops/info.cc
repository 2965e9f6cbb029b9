#include "info.h"

#include <limits>

#include "status.h"

namespace lissom {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

size_t bytes_of(int type) {
  switch (type) {
    case ORT_UINT8:
      return 1;
    case ORT_UINT16:
      return 2;
    case ORT_INT64:
    case ORT_DOUBLE:
      return 8;
    default:
      return 4;
  }
}

void require_range(const char* name, int64_t value, int64_t least) {
  if (value >= least && value <= kMost) return;
  throw Error(std::string("expected the attribute ") + name + " from " + std::to_string(least) + " to " +
              std::to_string(kMost) + ", but got " + std::to_string(value));
}

bool has_alpha(int32_t activation) {
  return activation == LISSOM_LEAKY_RELU || activation == LISSOM_THRESHOLDED_RELU || activation == LISSOM_SHRINK;
}

}  // namespace

std::string Info::node() const {
  size_t size = 0;
  std::string name;
  if (succeeded(api_, api_->KernelInfo_GetNodeName(info_, nullptr, &size)) && size > 1) {
    name.resize(size);
    if (!succeeded(api_, api_->KernelInfo_GetNodeName(info_, &name[0], &size))) name.clear();
    name.resize(name.empty() ? 0 : size - 1); /* without the terminating zero */
  }
  return (name.empty() ? "a nameless node" : name) + " (" + signature_.name + ")";
}

void Info::integers(const char* name, int64_t least, size_t count, int64_t* out) const {
  size_t size = 0;
  if (!succeeded(api_, api_->KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size))) size = 0;
  if (size != count) {
    throw Error(std::string("expected the attribute ") + name + " of " + std::to_string(count) +
                " integers, but got " + std::to_string(size));
  }
  require(api_, api_->KernelInfoGetAttributeArray_int64(info_, name, out, &size));
  for (size_t i = 0; i < count; ++i) require_range(name, out[i], least);
}

int64_t Info::integer(const char* name, int64_t least) const {
  int64_t value = 0;
  if (!succeeded(api_, api_->KernelInfoGetAttribute_int64(info_, name, &value))) {
    throw Error(std::string("expected the integer attribute ") + name + ", but got a node without it");
  }
  require_range(name, value, least);
  return value;
}

Tensor Info::constant(size_t index, size_t rank) const {
  const Formal& formal = signature_.inputs[index];
  int is_constant = 0;
  const OrtValue* value = nullptr;
  require(api_, api_->KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  if (!is_constant || !value) {
    throw Error("expected a constant for the input " + formal.name + ", but got one that is computed at run time");
  }
  const Tensor result = tensor(api_, value);
  if (result.type != formal.type) {
    throw Error("expected element type " + std::to_string(formal.type) + " of the input " + formal.name +
                ", but got element type " + std::to_string(result.type));
  }
  if (result.shape.rank != rank) {
    throw Error("expected the input " + formal.name + " of " + std::to_string(rank) + " axes, but got shape " +
                result.shape.text());
  }
  if (result.shape.count() && reinterpret_cast<uintptr_t>(result.data) % bytes_of(formal.type)) {
    throw Error("expected the input " + formal.name + " at an offset of the external data that is a multiple of " +
                std::to_string(bytes_of(formal.type)) + " bytes, but got another offset");
  }
  return result;
}

lissom_epilogue Info::epilogue(const Stage& stage) const {
  lissom_epilogue epilogue = {stage.activation, 0.0f, 0.0f};
  if (has_alpha(stage.activation) &&
      !succeeded(api_, api_->KernelInfoGetAttribute_float(info_, "alpha", &epilogue.a))) {
    throw Error("expected the float attribute alpha, but got a node without it");
  }
  if (stage.min) {
    epilogue.a = *constant(stage.min, 0).as<float>();
    epilogue.b = *constant(stage.min + 1, 0).as<float>();
  }
  return epilogue;
}

}  // namespace lissom
