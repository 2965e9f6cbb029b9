#include "packed.h"

namespace {

/* The matrix [rows, width] of blocks, of which the arrays list the stored ones. */
struct Pattern {
  int64_t rows;
  int64_t width;
};

Pattern pattern_of(const lissom_packed& packed) {
  if (packed.orientation == LISSOM_OUTPUT) return {packed.rows / packed.block, packed.depth};
  return {packed.rows, packed.depth / packed.block};
}

bool between(int64_t low, int64_t value, int64_t high) { return low <= value && value <= high; }

bool is_block(int64_t block) { return block == 1 || block == 2 || block == 4 || block == 8 || block == 16; }

/* Calls found(p) for each set bit begin + p, p in [0, width), in order. */
template <typename Found>
void each_bit(const uint8_t* bitmap, int64_t begin, int64_t width, Found found) {
  for (int64_t p = 0; p < width;) {
    const int64_t in_byte = (begin + p) & 7;
    const int rest = bitmap[(begin + p) >> 3] >> in_byte;
    if (rest == 0) {
      p += 8 - in_byte;
    } else {
      if (rest & 1) found(p);
      ++p;
    }
  }
}

const char* check_bitmap(const uint8_t* bitmap, const int32_t* row_ptr, Pattern pattern) {
  const int64_t bits = pattern.rows * pattern.width;
  if ((bits & 7) != 0 && bitmap[bits >> 3] >> (bits & 7) != 0) {
    return "BitmapPadding: expected bits behind the last block to be 0, but got a 1";
  }
  for (int64_t r = 0; r < pattern.rows; ++r) {
    int64_t count = 0;
    each_bit(bitmap, r * pattern.width, pattern.width, [&count](int64_t) { ++count; });
    if (count != row_ptr[r + 1] - row_ptr[r]) {
      return "BitmapCount: expected as many set bits in each row as row_ptr counts, but got another number";
    }
  }
  return nullptr;
}

const char* const kOutOfRange = "ColumnOutOfRange: expected columns inside the pattern, but got one beyond its width";

const char* check_delta8(const uint8_t* gaps, const int32_t* row_ptr, Pattern pattern) {
  for (int64_t r = 0; r < pattern.rows; ++r) {
    int64_t column = -1;
    for (int64_t n = row_ptr[r]; n < row_ptr[r + 1]; ++n) {
      column += gaps[n] + 1;
      if (column >= pattern.width) return kOutOfRange;
    }
  }
  return nullptr;
}

template <typename Column>
const char* check_indices(const Column* columns, const int32_t* row_ptr, Pattern pattern) {
  for (int64_t n = 0; n < row_ptr[pattern.rows]; ++n) {
    if (static_cast<int64_t>(columns[n]) >= pattern.width) return kOutOfRange;
  }
  for (int64_t r = 0; r < pattern.rows; ++r) {
    for (int64_t n = row_ptr[r] + int64_t{1}; n < row_ptr[r + 1]; ++n) {
      if (columns[n] <= columns[n - 1]) {
        return "ColumnsNotAscending: expected strictly ascending columns in each row, but got one that is not";
      }
    }
  }
  return nullptr;
}

/* What is known before an array is looked into. After it no product of sizes can overflow. */
const char* check_sizes(const lissom_packed& packed) {
  if (!between(LISSOM_OUTPUT, packed.orientation, LISSOM_INPUT)) {
    return "UnknownOrientation: expected 0 (output) or 1 (input), but got another number";
  }
  if (!between(LISSOM_BITMAP, packed.columns_format, LISSOM_U32)) {
    return "UnknownFormat: expected a format of columns from 0 (bitmap) to 3 (u32), but got another number";
  }
  if (packed.rows < 1 || !between(1, packed.depth, INT32_MAX / packed.rows)) {
    return "WrongShape: expected a weight of 1 to 2147483647 elements, but got another number";
  }
  if (!is_block(packed.block)) return "UnknownBlock: expected a block of 1, 2, 4, 8 or 16, but got another size";
  if ((packed.orientation == LISSOM_OUTPUT ? packed.rows : packed.depth) % packed.block != 0) {
    return "IndivisibleBlock: expected a multiple of the block along its axis of the weight, but got another size";
  }
  return nullptr;
}

const char* check_row_ptr(const lissom_packed& packed, int64_t rows) {
  if (packed.row_ptr_length != rows + 1) {
    return "RowPtrLength: expected one element of row_ptr more than rows of the pattern, but got another number";
  }
  const int32_t* row_ptr = packed.row_ptr;
  if (row_ptr == nullptr) return "MissingArray: expected row_ptr, but got a null pointer";
  if (row_ptr[0] != 0) return "RowPtrStart: expected row_ptr to start at 0, but got another number";
  for (int64_t r = 0; r < rows; ++r) {
    if (row_ptr[r + 1] < row_ptr[r]) return "RowPtrDescends: expected row_ptr to ascend, but got a smaller number";
  }
  if (row_ptr[rows] != packed.values_blocks) {
    return "RowPtrEnd: expected row_ptr to end at the number of blocks of values, but got another number";
  }
  return nullptr;
}

const char* check_columns(const lissom_packed& packed, Pattern pattern) {
  if (packed.columns_format == LISSOM_U16 && pattern.width > 65536) {
    return "FormatTooNarrow: expected at most 65536 columns for the format u16, but got more";
  }
  const bool bitmap = packed.columns_format == LISSOM_BITMAP;
  const int64_t bytes = (pattern.rows * pattern.width + 7) / 8;
  if (packed.columns_length != (bitmap ? bytes : packed.values_blocks)) {
    return "ColumnsLength: expected as many columns as the format and the blocks ask for, but got another number";
  }
  if (packed.columns_length == 0) return nullptr;
  if (packed.columns == nullptr) return "MissingArray: expected columns, but got a null pointer";
  switch (packed.columns_format) {
    case LISSOM_BITMAP: return check_bitmap(static_cast<const uint8_t*>(packed.columns), packed.row_ptr, pattern);
    case LISSOM_DELTA8: return check_delta8(static_cast<const uint8_t*>(packed.columns), packed.row_ptr, pattern);
    case LISSOM_U16: return check_indices(static_cast<const uint16_t*>(packed.columns), packed.row_ptr, pattern);
    default: return check_indices(static_cast<const uint32_t*>(packed.columns), packed.row_ptr, pattern);
  }
}

template <typename Column>
void widen(const void* from, int64_t count, int32_t* columns) {
  for (int64_t n = 0; n < count; ++n) columns[n] = static_cast<int32_t>(static_cast<const Column*>(from)[n]);
}

}  // namespace

LISSOM_EXPORT const char* lissom_packed_check(const lissom_packed* packed) {
  if (const char* wrong = check_sizes(*packed)) return wrong;
  const Pattern pattern = pattern_of(*packed);
  if (const char* wrong = check_row_ptr(*packed, pattern.rows)) return wrong;
  return check_columns(*packed, pattern);
}

LISSOM_EXPORT void lissom_packed_columns(const lissom_packed* packed, int32_t* columns) {
  const Pattern pattern = pattern_of(*packed);
  const auto* bytes = static_cast<const uint8_t*>(packed->columns);
  switch (packed->columns_format) {
    case LISSOM_BITMAP:
      for (int64_t r = 0; r < pattern.rows; ++r) {
        each_bit(bytes, r * pattern.width, pattern.width,
                 [&columns](int64_t p) { *columns++ = static_cast<int32_t>(p); });
      }
      break;
    case LISSOM_DELTA8:
      for (int64_t r = 0; r < pattern.rows; ++r) {
        int32_t column = -1;
        for (int64_t n = packed->row_ptr[r]; n < packed->row_ptr[r + 1]; ++n) {
          column += bytes[n] + 1;
          columns[n] = column;
        }
      }
      break;
    case LISSOM_U16: widen<uint16_t>(packed->columns, packed->values_blocks, columns); break;
    default: widen<uint32_t>(packed->columns, packed->values_blocks, columns); break;
  }
}
