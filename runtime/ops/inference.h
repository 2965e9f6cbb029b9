/* Shape inference, which graph optimisations and plugin execution providers ask for. */
#ifndef LISSOM_OPS_INFERENCE_H_
#define LISSOM_OPS_INFERENCE_H_

#include "ort_abi.h"
#include "signature.h"

namespace lissom {

/* Tells the output's shape as far as the inputs' shapes say it; their values are not known here. Extents that remain
 * free get names of their own. Of inputs that cannot fit together nothing is told: ONNX Runtime passes over errors of
 * inference, and the run names what is wrong. */
void infer_shape(const OrtApi* api, const Signature& signature, OrtShapeInferContext* context);

}  // namespace lissom

#endif
