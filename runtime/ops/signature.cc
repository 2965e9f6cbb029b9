#include "signature.h"

#include "../kernels/packed/packed.h"
#include "../kernels/sparse.h"
#include "ort_abi.h"

namespace lissom {
namespace {

/* In the order of the enumerations in signature.h, packed.h and sparse.h. */
constexpr const char* kKinds[] = {"SparseConv", "SparseGemm", "SparseChain", "WinnerMask"};
constexpr const char* kRoles[] = {"layer", "expand", "depthwise", "spatial", "project"};
constexpr const char* kColumnsFormats[] = {"bitmap", "delta8", "u16", "u32"};
constexpr int kColumnsTypes[] = {ORT_UINT8, ORT_UINT8, ORT_UINT16, ORT_UINT32};
constexpr const char* kActivations[] = {"",     "relu",          "clip",   "leaky_relu", "hard_swish",
                                        "silu", "thresholded_relu", "shrink"};

struct ChainShape {
  const char* name;
  std::vector<Role> roles;
};

/* Of all stages but the last, and of the last. */
struct ChainActivations {
  int32_t inner;
  int32_t last;
  bool residual;
};

constexpr ChainActivations kChainActivations[] = {{LISSOM_CLIP, LISSOM_CLIP, false},
                                                  {LISSOM_CLIP, LISSOM_NONE, true},
                                                  {LISSOM_CLIP, LISSOM_RELU, true},
                                                  {LISSOM_HARD_SWISH, LISSOM_CLIP, false},
                                                  {LISSOM_HARD_SWISH, LISSOM_HARD_SWISH, false},
                                                  {LISSOM_HARD_SWISH, LISSOM_NONE, true},
                                                  {LISSOM_SILU, LISSOM_CLIP, false},
                                                  {LISSOM_SILU, LISSOM_SILU, false},
                                                  {LISSOM_SILU, LISSOM_NONE, true}};

Signature start(Kind kind, int32_t columns, int32_t orientation) {
  Signature signature = {kind, columns, orientation, kKinds[static_cast<size_t>(kind)], {}, {}};
  signature.inputs.push_back({"x", ORT_FLOAT});
  return signature;
}

void add_stage(Signature& signature, Role role, bool residual, int32_t activation) {
  const std::string prefix = role == Role::whole ? "" : std::string(name_of(role)) + "_";
  const auto input = [&](const std::string& name, int type) {
    signature.inputs.push_back({name, type});
    return signature.inputs.size() - 1;
  };
  Stage stage = {role, activation, 0, 0, 0, 0};
  if (role == Role::depthwise) {
    stage.first = input(prefix + "weight", ORT_FLOAT);
  } else {
    stage.first = input(prefix + "shape", ORT_INT64);
    input(prefix + "row_ptr", ORT_INT32);
    input(prefix + "columns", kColumnsTypes[signature.columns]);
    input(prefix + "values", ORT_FLOAT);
  }
  stage.bias = input(prefix + "bias", ORT_FLOAT);
  if (residual) stage.residual = input("residual", ORT_FLOAT);
  if (activation == LISSOM_CLIP) {
    stage.min = input(prefix + "min", ORT_FLOAT);
    input(prefix + "max", ORT_FLOAT);
  }
  signature.stages.push_back(stage);
}

Signature layer(Kind kind, int32_t columns, int32_t orientation, bool residual, int32_t activation) {
  Signature signature = start(kind, columns, orientation);
  signature.name.append("_").append(kColumnsFormats[columns]);
  if (orientation == LISSOM_INPUT) signature.name += "_input";
  if (residual) signature.name += "_add";
  if (activation != LISSOM_NONE) signature.name.append("_").append(kActivations[activation]);
  add_stage(signature, Role::whole, residual, activation);
  return signature;
}

Signature chain(const ChainShape& shape, int32_t columns, const ChainActivations& activations) {
  Signature signature = start(Kind::chain, columns, LISSOM_OUTPUT);
  signature.name.append("_").append(shape.name).append("_").append(kColumnsFormats[columns]);
  signature.name.append("_").append(kActivations[activations.inner]);
  if (activations.residual) signature.name += "_add";
  if (activations.last != LISSOM_NONE) signature.name.append("_").append(kActivations[activations.last]);
  for (const Role role : shape.roles) {
    const bool last = role == shape.roles.back();
    add_stage(signature, role, activations.residual && last, last ? activations.last : activations.inner);
  }
  return signature;
}

Signature mask() {
  Signature signature = start(Kind::mask, 0, 0);
  signature.inputs.push_back({"rate", ORT_DOUBLE});
  signature.inputs.push_back({"stride", ORT_INT64});
  return signature;
}

std::vector<Signature> all() {
  const ChainShape shapes[] = {{"inverted_residual", {Role::expand, Role::depthwise, Role::project}},
                               {"expanded_depthwise", {Role::expand, Role::depthwise}},
                               {"depthwise_separable", {Role::depthwise, Role::project}},
                               {"bottleneck", {Role::expand, Role::spatial, Role::project}}};
  std::vector<Signature> list;
  for (const Kind kind : {Kind::conv, Kind::gemm}) {
    for (int32_t columns = LISSOM_BITMAP; columns <= LISSOM_U32; ++columns) {
      for (int32_t orientation = LISSOM_OUTPUT; orientation <= LISSOM_INPUT; ++orientation) {
        for (const bool residual : {false, true}) {
          for (int32_t activation = LISSOM_NONE; activation <= LISSOM_SHRINK; ++activation) {
            list.push_back(layer(kind, columns, orientation, residual, activation));
          }
        }
      }
    }
  }
  for (const ChainShape& shape : shapes) {
    for (const int32_t columns : {LISSOM_BITMAP, LISSOM_DELTA8}) {
      for (const ChainActivations& activations : kChainActivations) {
        if (activations.residual && shape.roles.back() == Role::depthwise) continue;
        list.push_back(chain(shape, columns, activations));
      }
    }
  }
  list.push_back(mask());
  return list;
}

}  // namespace

const char* name_of(Role role) { return kRoles[static_cast<size_t>(role)]; }

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
