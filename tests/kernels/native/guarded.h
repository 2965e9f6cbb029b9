/* Arrays that end, or begin, at a page that no one may touch: an access beyond them kills the process. */
#ifndef LISSOM_TESTS_GUARDED_H_
#define LISSOM_TESTS_GUARDED_H_

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

template <class T>
class Guarded {
 public:
  /* `size` elements that may be written. `front`: they begin right after a guard page, not end right before one. */
  Guarded(int64_t size, T fill, bool front = false) : size_(static_cast<std::size_t>(size)) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), bytes = size_ * sizeof(T);
    inside_ = std::max(page, (bytes + page - 1) / page * page);
    page_ = page;
    void* base = mmap(nullptr, inside_ + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
      std::perror("mmap");
      std::abort();
    }
    base_ = static_cast<char*>(base);
    protect(base_, page, PROT_NONE);
    protect(base_ + page + inside_, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(base_ + page + (front ? 0 : inside_ - bytes));
    std::fill(begin(), end(), fill);
  }

  /* A copy that may only be read. */
  explicit Guarded(const std::vector<T>& from, bool front = false)
      : Guarded(static_cast<int64_t>(from.size()), T{}, front) {
    std::copy(from.begin(), from.end(), begin());
    protect(base_ + page_, inside_, PROT_READ);
  }

  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, inside_ + 2 * page_); }

  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  static void protect(char* address, std::size_t size, int protection) {
    if (mprotect(address, size, protection) != 0) {
      std::perror("mprotect");
      std::abort();
    }
  }

  std::size_t size_, inside_, page_;
  char* base_;
  T* data_;
};

#endif
