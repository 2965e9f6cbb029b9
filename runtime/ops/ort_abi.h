/* The part of ONNX Runtime's C interface that the operators use, declared by index.
 *
 * The interface is a table of function pointers whose order never changes: members are only appended. Members that
 * nobody here calls are gaps. Nothing is linked: ONNX Runtime hands its table to RegisterCustomOps. Functions return
 * null, or a status that the caller owns.
 */
#ifndef LISSOM_OPS_ORT_ABI_H_
#define LISSOM_OPS_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

/* The oldest version of the interface that has all members below (ONNX Runtime 1.18). */
constexpr uint32_t kOrtApiVersion = 18;

struct OrtCustomOpDomain;
struct OrtEnv;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtMemoryInfo;
struct OrtOpAttr;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;
struct OrtApi;
struct OrtCustomOp;

#if defined(_WIN32)
using OrtPathChar = wchar_t;
#else
using OrtPathChar = char;
#endif

enum OrtErrorCode { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum OrtElementType {
  ORT_FLOAT = 1,
  ORT_UINT8 = 2,
  ORT_UINT16 = 4,
  ORT_INT32 = 6,
  ORT_INT64 = 7,
  ORT_DOUBLE = 11,
  ORT_UINT32 = 12
};
enum OrtOpAttrType { ORT_OP_ATTR_INTS = 2 };

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version); /* null when the runtime is older */
  const char* (*GetVersionString)();
};

#define ORT_GAP(first, last) void* gap_##first[(last) - (first) + 1]

struct OrtApi {
  OrtStatus* (*CreateStatus)(int code, const char* message);
  ORT_GAP(1, 1);
  const char* (*GetErrorMessage)(const OrtStatus* status);
  OrtStatus* (*CreateEnv)(int log_level, const char* name, OrtEnv** out);
  ORT_GAP(4, 6);
  OrtStatus* (*CreateSession)(const OrtEnv* env, const OrtPathChar* path, const OrtSessionOptions* options,
                              OrtSession** out);
  ORT_GAP(8, 8);
  OrtStatus* (*Run)(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                    const OrtValue* const* inputs, size_t input_count, const char* const* output_names,
                    size_t output_count, OrtValue** outputs);
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions** out);
  ORT_GAP(11, 25);
  OrtStatus* (*CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  OrtStatus* (*RegisterCustomOpsLibrary)(OrtSessionOptions* options, const char* path, void** handle);
  ORT_GAP(30, 48);
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo* memory, void* data, size_t bytes,
                                               const int64_t* dims, size_t rank, int type, OrtValue** out);
  ORT_GAP(50, 50);
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  ORT_GAP(52, 56);
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo** out);
  OrtStatus* (*SetTensorElementType)(OrtTensorTypeAndShapeInfo* info, int type);
  OrtStatus* (*SetDimensions)(OrtTensorTypeAndShapeInfo* info, const int64_t* dims, size_t rank);
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info, int* out);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t rank);
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info, const char** names, size_t rank);
  OrtStatus* (*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** out);
  ORT_GAP(66, 68);
  OrtStatus* (*CreateCpuMemoryInfo)(int allocator_type, int memory_type, OrtMemoryInfo** out);
  ORT_GAP(70, 84);
  OrtStatus* (*KernelInfoGetAttribute_float)(const OrtKernelInfo* info, const char* name, float* out);
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name, int64_t* out);
  ORT_GAP(87, 89);
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index, const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* dims, size_t rank,
                                        OrtValue** out);
  void (*ReleaseEnv)(OrtEnv* env);
  void (*ReleaseStatus)(OrtStatus* status);
  void (*ReleaseMemoryInfo)(OrtMemoryInfo* memory);
  void (*ReleaseSession)(OrtSession* session);
  void (*ReleaseValue)(OrtValue* value);
  ORT_GAP(97, 98);
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  void (*ReleaseSessionOptions)(OrtSessionOptions* options);
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);
  ORT_GAP(102, 162);
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info, const char* name, int64_t* out,
                                                  size_t* size);
  ORT_GAP(164, 243);
  OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo* info, char* out, size_t* size);
  ORT_GAP(245, 248);
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info, size_t index, int* is_constant,
                                                  const OrtValue** out);
  ORT_GAP(250, 267);
  /* The info belongs to the context. */
  OrtStatus* (*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                    OrtTensorTypeAndShapeInfo** out);
  OrtStatus* (*ShapeInferContext_GetAttribute)(const OrtShapeInferContext* context, const char* name,
                                               const OrtOpAttr** out);
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                     const OrtTensorTypeAndShapeInfo* info);
  OrtStatus* (*SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo* info, const char** names, size_t rank);
  OrtStatus* (*ReadOpAttr)(const OrtOpAttr* attribute, int type, void* data, size_t bytes, size_t* out);
  ORT_GAP(273, 273);
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*task)(void* user, size_t index),
                                          size_t total, size_t batches, void* user);
};

#undef ORT_GAP

#define ORT_AT(member, index) \
  static_assert(offsetof(OrtApi, member) == (index) * sizeof(void*), "OrtApi::" #member " stands at another index")
ORT_AT(GetErrorMessage, 2);
ORT_AT(CreateEnv, 3);
ORT_AT(CreateSession, 7);
ORT_AT(Run, 9);
ORT_AT(CreateSessionOptions, 10);
ORT_AT(CreateCustomOpDomain, 26);
ORT_AT(AddCustomOpDomain, 28);
ORT_AT(RegisterCustomOpsLibrary, 29);
ORT_AT(CreateTensorWithDataAsOrtValue, 49);
ORT_AT(GetTensorMutableData, 51);
ORT_AT(CreateTensorTypeAndShapeInfo, 57);
ORT_AT(GetTensorTypeAndShape, 65);
ORT_AT(CreateCpuMemoryInfo, 69);
ORT_AT(KernelInfoGetAttribute_float, 85);
ORT_AT(KernelInfoGetAttribute_int64, 86);
ORT_AT(KernelContext_GetInput, 90);
ORT_AT(KernelContext_GetOutput, 91);
ORT_AT(ReleaseStatus, 93);
ORT_AT(ReleaseTensorTypeAndShapeInfo, 99);
ORT_AT(ReleaseCustomOpDomain, 101);
ORT_AT(KernelInfoGetAttributeArray_int64, 163);
ORT_AT(KernelInfo_GetNodeName, 244);
ORT_AT(KernelInfoGetConstantInput_tensor, 249);
ORT_AT(ShapeInferContext_GetInputTypeShape, 268);
ORT_AT(ReadOpAttr, 272);
ORT_AT(KernelContext_ParallelFor, 274);
#undef ORT_AT

/* What a custom operator is to ONNX Runtime. Members without a comment are called with the operator, the kernel's with
 * the kernel; those that stay null are optional. */
struct OrtCustomOp {
  uint32_t version;
  void* CreateKernel; /* null: CreateKernelV2 is given */
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  int (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  int (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void* KernelCompute; /* null: KernelComputeV2 is given */
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp* op, size_t index);  /* 0: required */
  int (*GetOutputCharacteristic)(const OrtCustomOp* op, size_t index); /* 0: required */
  int (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);      /* 0: default */
  int (*GetVariadicInputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* op, OrtShapeInferContext* context);
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

static_assert(offsetof(OrtCustomOp, GetName) == 16, "layout of OrtCustomOp");
static_assert(offsetof(OrtCustomOp, KernelDestroy) == 72, "layout of OrtCustomOp");
static_assert(offsetof(OrtCustomOp, CreateKernelV2) == 136, "layout of OrtCustomOp");
static_assert(offsetof(OrtCustomOp, InferOutputShapeFn) == 152, "layout of OrtCustomOp");
static_assert(offsetof(OrtCustomOp, ReleaseAliasMap) == 200, "layout of OrtCustomOp");

#endif
