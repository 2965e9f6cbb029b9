#include "../../../runtime/kernels/packed/packed.h"

#include <cstring>
#include <limits>

#include "exact.h"
#include "guarded.h"

namespace {

/* A packed weight as a file might hold it; `columns` are cut to the width of the format when they are laid out. */
struct File {
  int64_t rows, depth, block, values_blocks;
  int32_t orientation, format;
  std::vector<int32_t> row_ptr;
  std::vector<uint32_t> columns;
};

/* The size of the pattern of blocks. */
struct Pattern {
  int64_t rows, width;
};

Pattern pattern_of(const File& file) {
  if (file.orientation == LISSOM_OUTPUT) return {file.rows / file.block, file.depth};
  return {file.rows, file.depth / file.block};
}

std::string describe(const File& file) {
  return "packed: " + show("rows", file.rows) + show("depth", file.depth) + show("block", file.block) +
         show("blocks", file.values_blocks) + show("orientation", file.orientation) + show("format", file.format);
}

/* A file as the kernels are given it, in guarded arrays. */
template <class Column, class Use>
void lay_out_as(const File& file, bool front, Use use) {
  std::vector<Column> cut;
  for (const uint32_t c : file.columns) cut.push_back(static_cast<Column>(c));
  const Guarded<Column> columns(cut, front);
  const Guarded<int32_t> row_ptr(file.row_ptr, front);
  use(lissom_packed{file.rows, file.depth, file.orientation, file.format, row_ptr.begin(),
                    static_cast<int64_t>(file.row_ptr.size()), columns.begin(),
                    static_cast<int64_t>(file.columns.size()), file.values_blocks, file.block});
}

template <class Use>
void lay_out(const File& file, bool front, Use use) {
  if (file.format == LISSOM_U16) return lay_out_as<uint16_t>(file, front, use);
  if (file.format == LISSOM_U32) return lay_out_as<uint32_t>(file, front, use);
  lay_out_as<uint8_t>(file, front, use);
}

/* A valid file, and the columns of its blocks. */
File random_file(Random& random, std::vector<int32_t>& decoded) {
  File file{};
  file.block = random.one_of<int64_t>({1, 2, 4, 8, 16});
  file.orientation = static_cast<int32_t>(random.below(2));
  file.format = static_cast<int32_t>(random.below(4));
  const Pattern pattern{random.between(1, 9), random.one_of<int64_t>({1, 2, 7, 8, 9, 31, 64, 200, 256})};
  file.rows = pattern.rows * (file.orientation == LISSOM_OUTPUT ? file.block : 1);
  file.depth = pattern.width * (file.orientation == LISSOM_OUTPUT ? 1 : file.block);
  const int64_t density = random.one_of<int64_t>({0, 3, 30, 100});
  const int64_t bytes = (pattern.rows * pattern.width + 7) / 8;
  if (file.format == LISSOM_BITMAP) file.columns.resize(static_cast<std::size_t>(bytes));
  file.row_ptr.push_back(0);
  decoded.clear();
  for (int64_t r = 0; r < pattern.rows; ++r) {
    int64_t before = -1;
    for (int64_t p = 0; p < pattern.width; ++p) {
      if (!random.percent(density)) continue;
      const int64_t bit = r * pattern.width + p;
      decoded.push_back(static_cast<int32_t>(p));
      if (file.format == LISSOM_BITMAP) {
        file.columns[static_cast<std::size_t>(bit / 8)] |= 1u << (bit % 8);
      } else {
        file.columns.push_back(static_cast<uint32_t>(file.format == LISSOM_DELTA8 ? p - before - 1 : p));
      }
      before = p;
    }
    file.row_ptr.push_back(static_cast<int32_t>(decoded.size()));
  }
  file.values_blocks = static_cast<int64_t>(decoded.size());
  return file;
}

std::vector<int32_t> decode(const lissom_packed& packed, bool front) {
  const Guarded<int32_t> columns(packed.values_blocks, -1, front);
  lissom_packed_columns(&packed, columns.begin());
  return std::vector<int32_t>(columns.begin(), columns.end());
}

void test_valid(const File& file, const std::vector<int32_t>& decoded, bool front) {
  lay_out(file, front, [&](const lissom_packed& packed) {
    if (const char* wrong = lissom_packed_check(&packed)) fail(describe(file) + "expected to pass, but got " + wrong);
    if (decode(packed, front) != decoded) fail(describe(file) + "expected the columns packed, but got others");
  });
}

int64_t extreme(Random& random) {
  constexpr int64_t k = std::numeric_limits<int64_t>::max();
  return random.one_of<int64_t>({-k - 1, -(int64_t{1} << 31) - 1, -1, 0, 1, 2, 3, 16, (int64_t{1} << 31) - 1,
                                 int64_t{1} << 31, (int64_t{1} << 32) + 1, int64_t{1} << 61, k});
}

template <class T>
void spoil_element(std::vector<T>& array, Random& random) {
  if (array.empty()) return;
  T& element = array[static_cast<std::size_t>(random.below(static_cast<int64_t>(array.size())))];
  const auto near = static_cast<T>(static_cast<int64_t>(element) + random.between(-2, 2));
  element = random.percent(75) ? near : static_cast<T>(extreme(random));
}

template <class T>
void spoil_length(std::vector<T>& array, Random& random) {
  if (array.empty() || random.percent(50)) {
    array.push_back(array.empty() ? T{} : array.back());
  } else {
    array.pop_back();
  }
}

void spoil(File& file, Random& random) {
  const auto size = [&](int64_t& value) {
    const bool near = random.percent(60) && -100000 < value && value < 100000;
    value = near ? value + random.between(-2, 2) : extreme(random);
  };
  switch (random.below(11)) {
    case 0:
      return size(file.rows);
    case 1:
      return size(file.depth);
    case 2:
      return size(file.values_blocks);
    case 3:
      file.block = random.percent(50) ? random.one_of<int64_t>({1, 2, 4, 8, 16}) : extreme(random);
      return;
    case 4:
      file.orientation = static_cast<int32_t>(random.between(-1, 2));
      return;
    case 5:
      file.format = static_cast<int32_t>(random.between(-1, 4));
      return;
    case 6:
      return spoil_length(file.row_ptr, random);
    case 7:
      return spoil_length(file.columns, random);
    case 8:
      return spoil_element(file.row_ptr, random);
    default:
      return spoil_element(file.columns, random);
  }
}

/* What decoding and the kernels trust in: sizes that fit each other and the arrays. */
bool consistent(const File& file) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (file.rows < 1 || file.depth < 1 || file.depth > kMost / file.rows) return false;
  const int64_t b = file.block, along = file.orientation == LISSOM_OUTPUT ? file.rows : file.depth;
  if ((b != 1 && b != 2 && b != 4 && b != 8 && b != 16) || along % b != 0) return false;
  const Pattern pattern = pattern_of(file);
  const int64_t bytes = (pattern.rows * pattern.width + 7) / 8;
  return static_cast<int64_t>(file.row_ptr.size()) == pattern.rows + 1 && file.row_ptr.front() == 0 &&
         file.row_ptr.back() == file.values_blocks &&
         static_cast<int64_t>(file.columns.size()) == (file.format == LISSOM_BITMAP ? bytes : file.values_blocks);
}

/* As above: row_ptr ascends, and the columns of each row ascend inside the pattern. */
bool ascending(const File& file, const std::vector<int32_t>& columns) {
  const Pattern pattern = pattern_of(file);
  for (std::size_t r = 0; r + 1 < file.row_ptr.size(); ++r) {
    if (file.row_ptr[r + 1] < file.row_ptr[r]) return false;
    int64_t before = -1;
    for (int32_t n = file.row_ptr[r]; n < file.row_ptr[r + 1]; ++n) {
      const int64_t column = columns[static_cast<std::size_t>(n)];
      if (column <= before || column >= pattern.width) return false;
      before = column;
    }
  }
  return true;
}

/* Whether a spoilt file passes: then its columns must be decoded inside the arrays and be fit for the kernels. */
bool test_spoilt(const File& file, bool front) {
  bool passed = false;
  lay_out(file, front, [&](const lissom_packed& packed) {
    const char* wrong = lissom_packed_check(&packed);
    if (wrong != nullptr) {
      if (std::strstr(wrong, ": expected ") == nullptr || std::strstr(wrong, ", but got ") == nullptr) {
        fail(describe(file) + "expected a message of the form \"Name: expected ..., but got ...\", but got " + wrong);
      }
      return;
    }
    passed = true;
    if (!consistent(file) || !ascending(file, decode(packed, front))) {
      fail(describe(file) + "expected a refusal, but got none");
    }
  });
  return passed;
}

}  // namespace

void test_packed(bool quick) {
  Random random(5);
  const int64_t files = quick ? 300 : 2000, spoilt_each = 8;
  int64_t passed = 0;
  for (int64_t i = 0; i < files; ++i) {
    std::vector<int32_t> decoded;
    const File file = random_file(random, decoded);
    test_valid(file, decoded, i % 2 != 0);
    for (int64_t k = 0; k < spoilt_each; ++k) {
      File spoilt = file;
      for (int64_t times = random.between(1, 3); times > 0; --times) spoil(spoilt, random);
      passed += test_spoilt(spoilt, k % 2 != 0);
    }
  }
  report("packed, as written", files);
  report("packed, spoilt and refused", files * spoilt_each - passed);
  report("packed, spoilt and still valid", passed);
}
