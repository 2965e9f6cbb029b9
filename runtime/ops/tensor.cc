#include "tensor.h"

#include <algorithm>
#include <limits>

#include "status.h"

namespace lissom {
namespace {

/* An info that is released with the scope. */
class OwnedInfo {
 public:
  OwnedInfo(const OrtApi* api, const OrtValue* value) : api_(api) {
    require(api, api->GetTensorTypeAndShape(value, &info_));
  }
  ~OwnedInfo() { api_->ReleaseTensorTypeAndShapeInfo(info_); }
  OwnedInfo(const OwnedInfo&) = delete;
  OwnedInfo& operator=(const OwnedInfo&) = delete;

  const OrtTensorTypeAndShapeInfo* get() const { return info_; }

 private:
  const OrtApi* api_;
  OrtTensorTypeAndShapeInfo* info_ = nullptr;
};

}  // namespace

bool Shape::operator==(const Shape& other) const {
  return rank == other.rank && std::equal(dims, dims + rank, other.dims);
}

int64_t Shape::count() const {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 4;
  if (std::find(dims, dims + rank, 0) != dims + rank) return 0;
  int64_t product = 1;
  for (size_t axis = 0; axis < rank; ++axis) {
    if (product > kMost / dims[axis]) throw Error("expected a tensor of fewer than 2^61 elements, but got " + text());
    product *= dims[axis];
  }
  return product;
}

std::string Shape::text() const {
  std::string text = "[";
  for (size_t axis = 0; axis < rank; ++axis) {
    if (axis) text += ", ";
    text += dims[axis] < 0 ? "?" : std::to_string(dims[axis]);
  }
  return text + "]";
}

Shape shape_of(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info) {
  Shape shape;
  require(api, api->GetDimensionsCount(info, &shape.rank));
  if (shape.rank > Shape::kMostAxes) {
    throw Error("expected a tensor of at most " + std::to_string(Shape::kMostAxes) + " axes, but got " +
                std::to_string(shape.rank));
  }
  require(api, api->GetDimensions(info, shape.dims, shape.rank));
  return shape;
}

Tensor tensor(const OrtApi* api, const OrtValue* value) {
  Tensor result;
  const OwnedInfo info(api, value);
  require(api, api->GetTensorElementType(info.get(), &result.type));
  result.shape = shape_of(api, info.get());
  require(api, api->GetTensorMutableData(const_cast<OrtValue*>(value), &result.data));
  return result;
}

}  // namespace lissom
