#include <algorithm>
#include <cstring>

#include "sparse_chain.h"
#include "../depthwise/depthwise.h"
#include "../sparse_product/sparse_product.h"

namespace {

/* Some output channels of a weight; `first` and `last` are multiples of its block. */
lissom_f32_sparse channels_of(const lissom_f32_sparse& w, int64_t first, int64_t last) {
  lissom_f32_sparse part = w;
  part.rows = last - first;
  part.row_ptr += first / w.block;
  part.bias += first;
  return part;
}

/* Every stride-th element. Rows are short, so that a call of memcpy would cost more than it saves. */
void copy_strided(const float* __restrict from, int64_t stride, int64_t count, float* __restrict to) {
  if (stride == 1) {
    if (count < 4) {
      for (int64_t i = 0; i < count; ++i) to[i] = from[i];
      return;
    }
    for (int64_t i = 0; i < count - 4; i += 4) std::memcpy(to + i, from + i, 16);
    std::memcpy(to + count - 4, from + count - 4, 16);
  } else if (stride == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
  }
}

/* One run of one band. Rows are counted from the first that the band's taps reach, which may lie above the image. */
class Band {
 public:
  Band(const lissom_chain_plan& plan, const lissom_f32_chain& chain, const int32_t* offset, const float* x,
       const float* residual, float* y, int64_t task, float* scratch, bool goes_on)
      : plan_(plan),
        chain_(chain),
        s_(plan.shape),
        in_channels_(chain.expand == nullptr ? plan.shape.in_channels : chain.expand->depth),
        out_channels_(chain.project == nullptr ? plan.shape.out_channels : chain.project->rows),
        expand_offset_(offset),
        middle_offset_(expand_offset_ + (chain.expand == nullptr ? 0 : chain.expand->depth)),
        project_offset_(middle_offset_ + (chain.spatial == nullptr ? s_.kernel[0] * s_.kernel[1] : chain.spatial->depth)),
        image_(task / plan.bands),
        x_(x + image_ * in_channels_ * s_.in[0] * s_.in[1]),
        residual_(residual),
        y_(y),
        panel_(scratch),
        fresh_(scratch + plan.fresh_start),
        rows_(scratch + plan.rows_start),
        kept_(scratch + plan.kept_start),
        sums_(scratch + plan.sums_start),
        out_first_(task % plan.bands * plan.band),
        out_count_(std::min(plan.band, s_.out[0] - out_first_)),
        top_(out_first_ * s_.stride[0] - s_.pad[0]),
        reach_((out_count_ - 1) * s_.stride[0] + plan.span),
        known_(goes_on ? plan.kept : 0),
        first_(std::clamp(-top_, known_, reach_)),
        last_(std::clamp(s_.in[0] - top_, first_, reach_)),
        is_split_(chain.spatial == nullptr),
        is_whole_(plan.split == 1 && plan.row == plan.phase * plan.shape.stride[1]),
        is_last_(out_first_ + out_count_ == s_.out[0]) {}

  void run() const {
    if (chain_.spatial == nullptr) {
      depthwise();
    } else {
      spatial();
    }
    if (chain_.project != nullptr) {
      lissom_f32_sparse_product(chain_.project, 0, chain_.project->rows / chain_.project->block, project_offset_, sums_,
                                out_count_ * s_.out[1], residual_ == nullptr ? nullptr : residual_ + start_of(0),
                                y_ + start_of(0), s_.out[0] * s_.out[1], &chain_.after[2]);
    }
  }

 private:
  /* Where the band begins in an output channel. */
  int64_t start_of(int64_t channel) const {
    return ((image_ * out_channels_ + channel) * s_.out[0] + out_first_) * s_.out[1];
  }

  void depthwise() const {
    const int64_t taps = s_.kernel[0] * s_.kernel[1];
    if (chain_.expand != nullptr) pack(first_, last_);
    for (int64_t begin = 0; begin < s_.in_channels; begin += plan_.group) {
      const int64_t end = std::min(begin + plan_.group, s_.in_channels);
      restore(begin, end);
      fill(begin, end, first_, last_);
      keep(begin, end);
      for (int64_t c = begin; c < end; ++c) {
        float* to = chain_.project == nullptr ? y_ + start_of(c) : sums_ + c * plan_.sums_pitch;
        lissom_f32_depthwise(chain_.depthwise + c * taps, middle_offset_, taps, chain_.depthwise_bias[c],
                             rows_ + (c - begin) * plan_.rows_pitch, s_.stride[0] * plan_.row, out_count_, s_.out[1],
                             to, s_.out[1], &chain_.after[1]);
      }
    }
  }

  void spatial() const {
    restore(0, s_.in_channels);
    for (int64_t row = first_; row < last_; row += plan_.tile) {
      const int64_t end = std::min(row + plan_.tile, last_);
      pack(row, end);
      fill(0, s_.in_channels, row, end);
    }
    keep(0, s_.in_channels);
    const lissom_f32_sparse& w = *chain_.spatial;
    lissom_f32_sparse_product(&w, 0, w.rows / w.block, middle_offset_, rows_, (out_count_ - 1) * plan_.row + s_.out[1],
                              nullptr, sums_, plan_.sums_pitch, &chain_.after[1]);
    if (plan_.row == s_.out[1]) return;
    for (int64_t c = 0; c < s_.out_channels; ++c) { /* what lies between the rows of outputs goes */
      float* sums = sums_ + c * plan_.sums_pitch;
      for (int64_t row = 1; row < out_count_; ++row) {
        std::copy(sums + row * plan_.row, sums + row * plan_.row + s_.out[1], sums + row * s_.out[1]);
      }
    }
  }

  /* Rows [row, end) of x into the panel. */
  void pack(int64_t row, int64_t end) const {
    if (row == end) return;
    const float* from = x_ + (top_ + row) * s_.in[1];
    const int64_t pitch = s_.in[0] * s_.in[1];
    if (is_split_) return spread(from, pitch, in_channels_, {0, 0, end - row}, panel_, plan_.panel_pitch);
    float* to = panel_;
    for (int64_t c = 0; c < in_channels_; ++c, from += pitch, to += plan_.panel_pitch) {
      std::copy(from, from + (end - row) * s_.in[1], to);
    }
  }

  /* Rows [row, row_end) of the channels [begin, end), expanded from the panel or as they are in x. */
  void fill(int64_t begin, int64_t end, int64_t row, int64_t row_end) const {
    if (row == row_end) return;
    const Rows rows = rows_of(row, row_end);
    if (chain_.expand == nullptr) {
      const float* from = x_ + (begin * s_.in[0] + top_ + row) * s_.in[1];
      return spread(from, s_.in[0] * s_.in[1], end - begin, rows, rows_, plan_.rows_pitch);
    }
    const lissom_f32_sparse part = channels_of(*chain_.expand, begin, end);
    const int64_t n = (row_end - row) * (is_split_ ? plan_.row : s_.in[1]);
    lissom_f32_sparse_product(&part, 0, part.rows / part.block, expand_offset_, panel_, n, nullptr,
                              is_split_ ? rows_ + rows.start : fresh_,
                              is_split_ ? plan_.rows_pitch : plan_.fresh_pitch, &chain_.after[0]);
    if (is_split_) return clear_pads(end - begin, rows, rows_, plan_.rows_pitch);
    spread(fresh_, plan_.fresh_pitch, end - begin, rows, rows_, plan_.rows_pitch);
  }

  /* The elements [low, high) of a phase of a row that lie inside the image. */
  struct Inside {
    int64_t shift; /* element i is the image's i * stride + shift */
    int64_t low;
    int64_t high;
  };

  Inside inside(int64_t phase) const {
    const int64_t stride = s_.stride[1], shift = phase - s_.pad[1];
    const int64_t low = std::min(plan_.phase, shift >= 0 ? 0 : (-shift + stride - 1) / stride);
    const int64_t high = shift >= s_.in[1] ? low : std::clamp((s_.in[1] - 1 - shift) / stride + 1, low, plan_.phase);
    return {shift, low, high};
  }

  /* Consecutive rows in `rows`. */
  struct Rows {
    int64_t start; /* where the first begins */
    int64_t split; /* how many of the split rows lie before it */
    int64_t count;
  };

  Rows rows_of(int64_t row, int64_t end) const {
    const int64_t split = row % plan_.split;
    return {row / plan_.split * plan_.row + split * plan_.split_pitch, split, end - row};
  }

  /* Calls f with where each row begins. */
  template <class F>
  void each(Rows rows, F f) const {
    if (is_whole_) {
      for (int64_t i = 0; i < rows.count; ++i) f(rows.start + i * plan_.row);
      return;
    }
    for (; rows.count > 0; --rows.count) {
      f(rows.start);
      rows.start += plan_.split_pitch;
      if (++rows.split == plan_.split) {
        rows.split = 0;
        rows.start += plan_.row - plan_.split * plan_.split_pitch;
      }
    }
  }

  /* Some rows of some channels from the image's, `from_pitch` between its channels and `pitch` between those of `to`. */
  void spread(const float* from, int64_t from_pitch, int64_t channels, const Rows& rows, float* to,
              int64_t pitch) const {
    for (int64_t phase = 0; phase < s_.stride[1]; ++phase) {
      const Inside in = inside(phase);
      for (int64_t c = 0; c < channels; ++c) {
        const float* source = from + c * from_pitch + in.low * s_.stride[1] + in.shift;
        float* target = to + c * pitch + phase * plan_.phase_pitch + in.low;
        each(rows, [&](int64_t start) {
          copy_strided(source, s_.stride[1], in.high - in.low, target + start);
          source += s_.in[1];
        });
      }
    }
    clear_pads(channels, rows, to, pitch);
  }

  /* Zeros where rows lie outside the image. */
  void clear_pads(int64_t channels, const Rows& rows, float* to, int64_t pitch) const {
    for (int64_t phase = 0; phase < s_.stride[1]; ++phase) {
      const Inside in = inside(phase);
      for (int64_t c = 0; c < channels; ++c) {
        float* column = to + c * pitch + phase * plan_.phase_pitch;
        for (int64_t i = 0; i < plan_.phase; ++i) {
          if (i == in.low) i = in.high;
          if (i < plan_.phase) each(rows, [&](int64_t start) { column[start + i] = 0.0f; });
        }
      }
    }
  }

  /* The rows that the band above has made, and zeros where rows lie outside the image. */
  void restore(int64_t begin, int64_t end) const {
    const Rows known = rows_of(0, known_), above = rows_of(known_, first_), below = rows_of(last_, reach_);
    for (int64_t c = begin; c < end; ++c) {
      float* to = rows_ + (c - begin) * plan_.rows_pitch;
      const float* kept = kept_ + c * plan_.kept_pitch;
      if (is_whole_) {
        std::copy(kept, kept + known_ * plan_.row, to);
        std::fill(to + known_ * plan_.row, to + first_ * plan_.row, 0.0f);
        std::fill(to + last_ * plan_.row, to + reach_ * plan_.row, 0.0f);
        continue;
      }
      for (int64_t phase = 0; phase < s_.stride[1]; ++phase, to += plan_.phase_pitch) {
        each(known, [&](int64_t start) {
          copy_strided(kept, 1, plan_.phase, to + start);
          kept += plan_.phase;
        });
        each(above, [&](int64_t start) { clear_row(to + start); });
        each(below, [&](int64_t start) { clear_row(to + start); });
      }
    }
  }

  /* Keeps the rows that the band below reads too. */
  void keep(int64_t begin, int64_t end) const {
    if (is_last_) return;
    const Rows last = rows_of(reach_ - plan_.kept, reach_);
    for (int64_t c = begin; c < end; ++c) {
      const float* from = rows_ + (c - begin) * plan_.rows_pitch;
      float* kept = kept_ + c * plan_.kept_pitch;
      if (is_whole_) {
        std::copy(from + last.start, from + last.start + plan_.kept_pitch, kept);
        continue;
      }
      for (int64_t phase = 0; phase < s_.stride[1]; ++phase, from += plan_.phase_pitch) {
        each(last, [&](int64_t start) {
          copy_strided(from + start, 1, plan_.phase, kept);
          kept += plan_.phase;
        });
      }
    }
  }

  void clear_row(float* row) const {
    for (int64_t i = 0; i < plan_.phase; ++i) row[i] = 0.0f;
  }

  const lissom_chain_plan& plan_;
  const lissom_f32_chain& chain_;
  const lissom_conv2d& s_;
  const int64_t in_channels_;  /* of x */
  const int64_t out_channels_; /* of y */
  const int32_t* expand_offset_;
  const int32_t* middle_offset_;
  const int32_t* project_offset_;
  const int64_t image_;
  const float* x_; /* of the image */
  const float* residual_;
  float* y_;
  float* panel_;
  float* fresh_;
  float* rows_;
  float* kept_;
  float* sums_;
  const int64_t out_first_; /* rows of outputs */
  const int64_t out_count_;
  const int64_t top_;   /* the image's row that is row 0 */
  const int64_t reach_; /* rows that the taps reach */
  const int64_t known_; /* rows that the band above has made */
  const int64_t first_; /* the rows [first, last) are inside the image and not known */
  const int64_t last_;
  const bool is_split_; /* the panel has the form of the rows, and so has what is expanded from it */
  const bool is_whole_; /* rows follow each other, whole */
  const bool is_last_;  /* of its image */
};

}  // namespace

LISSOM_EXPORT void lissom_f32_sparse_chain_task(const lissom_chain_plan* plan, const lissom_f32_chain* chain,
                                                const int32_t* offset, const float* x, const float* residual, float* y,
                                                int64_t task, float* scratch, int64_t* packed) {
  const bool goes_on = task % plan->bands != 0 && *packed == task - 1;
  *packed = task;
  Band(*plan, *chain, offset, x, residual, y, task, scratch, goes_on).run();
}
