/* Tensors of ONNX Runtime as the operators read them. */
#ifndef LISSOM_OPS_TENSOR_H_
#define LISSOM_OPS_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "ort_abi.h"

namespace lissom {

/* Extents of a tensor, of a bounded number of axes so that a run allocates nothing for them. */
struct Shape {
  static constexpr size_t kMostAxes = 16;

  size_t rank = 0;
  int64_t dims[kMostAxes] = {};

  bool operator==(const Shape& other) const;
  bool operator!=(const Shape& other) const { return !(*this == other); }

  /* Product of the extents. Throws an Error when elements of four bytes could not be counted in 63 bits. */
  int64_t count() const;

  /* For a sentence: "[2, 3]", a free extent as "?". */
  std::string text() const;
};

/* A tensor's elements, where they lie. */
struct Tensor {
  int type = 0; /* OrtElementType */
  Shape shape;
  void* data = nullptr;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/* Reads a value. Throws an Error when it has too many axes. */
Tensor tensor(const OrtApi* api, const OrtValue* value);

/* Reads the extents that an info holds; free ones are negative. */
Shape shape_of(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info);

}  // namespace lissom

#endif
