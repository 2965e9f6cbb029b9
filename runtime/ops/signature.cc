#include "signature.h"

#include "../kernels/packed/packed.h"
#include "../kernels/sparse.h"
#include "ort_abi.h"

namespace lissom {
namespace {

/* In the order of the enumerations in sparse.h and packed.h. */
constexpr const char* kKinds[] = {"SparseConv", "SparseGemm"};
constexpr const char* kColumnsFormats[] = {"bitmap", "delta8", "u16", "u32"};
constexpr int kColumnsTypes[] = {ORT_UINT8, ORT_UINT8, ORT_UINT16, ORT_UINT32};
constexpr const char* kActivations[] = {"",     "relu",          "clip",   "leaky_relu", "hard_swish",
                                        "silu", "thresholded_relu", "shrink"};

std::string name_of(const Signature& signature) {
  std::string name = kKinds[static_cast<size_t>(signature.kind)];
  name.append("_").append(kColumnsFormats[signature.columns]);
  if (signature.orientation == LISSOM_INPUT) name += "_input";
  if (signature.residual) name += "_add";
  if (signature.activation != LISSOM_NONE) name.append("_").append(kActivations[signature.activation]);
  return name;
}

std::vector<Signature> all() {
  std::vector<Signature> list;
  for (const Kind kind : {Kind::conv, Kind::gemm}) {
    for (int32_t columns = LISSOM_BITMAP; columns <= LISSOM_U32; ++columns) {
      for (int32_t orientation = LISSOM_OUTPUT; orientation <= LISSOM_INPUT; ++orientation) {
        for (const bool residual : {false, true}) {
          for (int32_t activation = LISSOM_NONE; activation <= LISSOM_SHRINK; ++activation) {
            list.push_back({kind, columns, orientation, residual, activation, {}});
            list.back().name = name_of(list.back());
          }
        }
      }
    }
  }
  return list;
}

}  // namespace

bool Signature::limited() const { return activation == LISSOM_CLIP; }

bool Signature::has_alpha() const {
  return activation == LISSOM_LEAKY_RELU || activation == LISSOM_THRESHOLDED_RELU || activation == LISSOM_SHRINK;
}

int Signature::input_type(size_t index) const {
  switch (index) {
    case kShape:
      return ORT_INT64;
    case kRowPtr:
      return ORT_INT32;
    case kColumns:
      return kColumnsTypes[columns];
    default:
      return ORT_FLOAT;
  }
}

const std::vector<Signature>& signatures() {
  static const std::vector<Signature> list = all();
  return list;
}

}  // namespace lissom

LISSOM_EXPORT const char* const* lissom_operator_names(int64_t* count) {
  static const std::vector<const char*> names = [] {
    std::vector<const char*> list;
    for (const lissom::Signature& signature : lissom::signatures()) list.push_back(signature.name.c_str());
    return list;
  }();
  *count = static_cast<int64_t>(names.size());
  return names.data();
}
