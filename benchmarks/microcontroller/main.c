/* Runs the network of the image once and prints, a line each:
 *
 *   loop N TICKS        a loop of two instructions, run N times
 *   layer I TICKS       the I-th layer
 *   total N TICKS       all N layers
 *   output VALUE        each output, in order
 */
#include "board.h"
#include "network.h"

extern const mcu_image board_image;

static void report(const char* name, int32_t which, uint32_t ticks) {
  board_print(name);
  board_print(" ");
  board_print_number(which);
  board_print(" ");
  board_print_number((int32_t)(ticks & 0xffffff));
  board_print("\n");
}

static uint32_t loop_ticks(int32_t turns) {
  const uint32_t begin = board_ticks();
  __asm__ volatile("1: subs %0, #1\n bne 1b" : "+l"(turns) : : "cc");
  return board_ticks() - begin;
}

int main(void) {
  static int16_t buffers[2][kMaxActivations] __attribute__((aligned(4)));
  uint32_t ticks[kMaxLayers + 1];
  const mcu_image* image = &board_image;
  if (image->magic != kMagic || image->layers > kMaxLayers) {
    board_print("expected the image of a network at 1 MiB\n");
    return 1;
  }
  board_start_clock();
  for (int32_t turns = 1000; turns <= 1000000; turns *= 10) report("loop", turns, loop_ticks(turns));

  const int16_t* input = (const int16_t*)((const char*)image + image->input);
  for (int32_t i = 0; i < image->inputs; ++i) buffers[0][i] = input[i];
  ticks[0] = board_ticks();
  for (int32_t i = 0; i < image->layers; ++i) {
    mcu_run_layer(image, i, buffers[i % 2], buffers[(i + 1) % 2]);
    ticks[i + 1] = board_ticks();
  }
  for (int32_t i = 0; i < image->layers; ++i) report("layer", i, ticks[i + 1] - ticks[i]);
  report("total", image->layers, ticks[image->layers] - ticks[0]);
  for (int32_t i = 0; i < image->outputs; ++i) {
    board_print("output ");
    board_print_number(buffers[image->layers % 2][i]);
    board_print("\n");
  }
  return 0;
}
