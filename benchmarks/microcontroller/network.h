/* network: runs the layers of an image of a network, one after the other.
 *
 * The image is what `image.py` writes: a header, the layers, and behind them the arrays, at offsets in bytes from the
 * header, each a multiple of four. The program trusts it: it comes from the same driver.
 */
#ifndef LISSOM_MICROCONTROLLER_NETWORK_H_
#define LISSOM_MICROCONTROLLER_NETWORK_H_

#include "kernels.h"

enum { kMagic = 0x5343414c, kMaxLayers = 8, kMaxActivations = 16384, kMaxColumns = 1024 };

enum { kDense = 0, kCsr = 1, kGrouped = 2 };

/* A product of weight[rows, columns], and what is around it. A kernel of 0 is a fully-connected layer; else the layer
 * is a convolution by kernel x kernel taps, stride 1, no padding. pool is the side of the windows whose largest value
 * is kept, 1 for none. A dense weight has no index and no row_ptr. */
typedef struct {
  int32_t format;
  int32_t rows;
  int32_t columns;
  int32_t shift;
  int32_t relu;
  int32_t kernel;
  int32_t channels;
  int32_t height;
  int32_t width;
  int32_t pool;
  int32_t values;
  int32_t index;
  int32_t row_ptr;
  int32_t bias;
} mcu_layer;

typedef struct {
  int32_t magic;
  int32_t layers;
  int32_t inputs;
  int32_t input;
  int32_t outputs;
  mcu_layer layer[];
} mcu_image;

/* y = layer `number` of `image` on x. Both hold kMaxActivations and are 4-byte aligned. */
void mcu_run_layer(const mcu_image* image, int32_t number, const int16_t* x, int16_t* y);

#endif
