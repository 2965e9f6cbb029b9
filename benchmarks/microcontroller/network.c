/* Convolutions are products with two output positions at a time, whose columns are copied out first (im2col): whatever
 * the format, so that an index costs the same for both positions and pairs of weights lie beside pairs of inputs. */
#include "network.h"

#define INLINE static inline __attribute__((always_inline))
#define EACH _Pragma("GCC unroll 8") for

/* The sizes that are compiled with the size known, besides any other. */
enum { kUsualKernel = 5, kUsualPool = 2 };

static const mcu_product_fn kProducts[] = {[kDense] = mcu_dense, [kCsr] = mcu_csr, [kGrouped] = mcu_grouped};

static const void* at(const mcu_image* image, int32_t offset) { return (const char*)image + offset; }

static uint32_t even(uint32_t count) { return (count + 1) & ~1u; }

static mcu_weight weight_of(const mcu_image* image, const mcu_layer* layer) {
  return (mcu_weight){
      .rows = (uint32_t)layer->rows,
      .pairs = even((uint32_t)layer->columns) / 2,
      .values = at(image, layer->values),
      .index = at(image, layer->index),
      .row_ptr = at(image, layer->row_ptr),
      .bias = at(image, layer->bias),
      .shift = layer->shift,
      .relu = layer->relu,
  };
}

/* Copies two elements at a time: the processor loads and stores words that are not aligned. */
INLINE void copy(const int16_t* from, int16_t* to, uint32_t count) {
  EACH(uint32_t i = 0; i < count / 2; ++i) __builtin_memcpy(to + 2 * i, from + 2 * i, 2 * sizeof *to);
  if (count % 2) to[count - 1] = from[count - 1];
}

/* to[channels * kernel * kernel] = the inputs of the output at `from`'s place. */
INLINE void im2col(const mcu_layer* layer, uint32_t kernel, const int16_t* from, int16_t* to) {
  const int32_t plane = layer->height * layer->width, width = layer->width;
  for (int32_t left = layer->channels; left; --left) {
    const int16_t* row = from;
    EACH(uint32_t ky = 0; ky < kernel; ++ky) {
      copy(row, to, kernel);
      to += kernel;
      row += width;
    }
    from += plane;
  }
}

static void convolve(const mcu_layer* layer, const mcu_weight* weight, const int16_t* x, int16_t* y) {
  static int16_t columns[2 * kMaxColumns] __attribute__((aligned(4)));
  const uint32_t ldx = even((uint32_t)layer->columns);
  const int32_t height = layer->height - layer->kernel + 1, width = layer->width - layer->kernel + 1;
  const uint32_t positions = (uint32_t)(height * width);
  const mcu_product_fn product = kProducts[layer->format];
  uint32_t waiting = 0;
  for (int32_t oy = 0; oy < height; ++oy) {
    for (int32_t ox = 0; ox < width; ++ox) {
      const int16_t* from = x + oy * layer->width + ox;
      int16_t* to = columns + waiting * ldx;
      if (layer->kernel == kUsualKernel) {
        im2col(layer, kUsualKernel, from, to);
      } else {
        im2col(layer, (uint32_t)layer->kernel, from, to);
      }
      if (++waiting == 2) {
        product(weight, columns, ldx, 2, y, positions);
        y += 2;
        waiting = 0;
      }
    }
  }
  if (waiting) product(weight, columns, ldx, 1, y, positions);
}

/* The largest value of each window of side `pool`, in place: what is written has been read. Windows that do not fit are
 * left out. */
INLINE void pool_in_place(int32_t channels, int32_t height, int32_t width, int32_t pool, int16_t* y) {
  int16_t* to = y;
  for (; channels; --channels) {
    for (int32_t oy = 0; oy + pool <= height; oy += pool) {
      for (int32_t ox = 0; ox + pool <= width; ox += pool) {
        int32_t largest = INT16_MIN;
        EACH(int32_t ky = 0; ky < pool; ++ky) {
          EACH(int32_t kx = 0; kx < pool; ++kx) {
            const int32_t value = y[(oy + ky) * width + ox + kx];
            largest = largest < value ? value : largest;
          }
        }
        *to++ = (int16_t)largest;
      }
    }
    y += height * width;
  }
}

void mcu_run_layer(const mcu_image* image, int32_t number, const int16_t* x, int16_t* y) {
  const mcu_layer* layer = &image->layer[number];
  const mcu_weight weight = weight_of(image, layer);
  if (layer->kernel == 0) {
    kProducts[layer->format](&weight, x, even((uint32_t)layer->columns), 1, y, 1);
    return;
  }
  convolve(layer, &weight, x, y);
  const int32_t height = layer->height - layer->kernel + 1, width = layer->width - layer->kernel + 1;
  if (layer->pool == kUsualPool) {
    pool_in_place(layer->rows, height, width, kUsualPool, y);
  } else if (layer->pool > 1) {
    pool_in_place(layer->rows, height, width, layer->pool, y);
  }
}
