// SPDX-License-Identifier: Apache-2.0
// Copies to and from memory that other threads read and write meanwhile. Each
// aligned word is copied by one relaxed atomic access, so that no value of 8
// bytes or less is ever torn; whether the words belong together is for
// RowChanges to say.
#ifndef LINTF_CUSTOM_OPS_CORE_RACY_COPY_H_
#define LINTF_CUSTOM_OPS_CORE_RACY_COPY_H_

#include <cstdint>
#include <cstring>

namespace lintf {
namespace racy_copy_internal {

template <typename Word>
inline bool Fits(const void* shared, int64_t bytes) {
  return bytes >= static_cast<int64_t>(sizeof(Word)) &&
         reinterpret_cast<uintptr_t>(shared) % sizeof(Word) == 0;
}

// Words of tables of any type are accessed by their bytes.
template <typename Word>
struct Aliasing {
  typedef Word Type __attribute__((may_alias));
};

template <typename Word>
inline void StoreWord(void* shared, const void* from) {
  Word word;
  std::memcpy(&word, from, sizeof(word));
  __atomic_store_n(static_cast<typename Aliasing<Word>::Type*>(shared), word,
                   __ATOMIC_RELAXED);
}

template <typename Word>
inline void LoadWord(const void* shared, void* to) {
  const Word word =
      __atomic_load_n(static_cast<const typename Aliasing<Word>::Type*>(shared),
                      __ATOMIC_RELAXED);
  std::memcpy(to, &word, sizeof(word));
}

// Calls `copy` with a value of the widest word that fits, until all is copied.
template <typename Copy>
inline void ForEachWord(const void* shared, int64_t bytes, const Copy& copy) {
  const char* const base = static_cast<const char*>(shared);
  int64_t at = 0;
  while (at < bytes) {
    const int64_t left = bytes - at;
    if (Fits<uint64_t>(base + at, left)) {
      copy(at, uint64_t{});
      at += 8;
    } else if (Fits<uint32_t>(base + at, left)) {
      copy(at, uint32_t{});
      at += 4;
    } else if (Fits<uint16_t>(base + at, left)) {
      copy(at, uint16_t{});
      at += 2;
    } else {
      copy(at, uint8_t{});
      at += 1;
    }
  }
}

}  // namespace racy_copy_internal

// Copies private memory into shared memory.
inline void StoreRacy(void* shared, const void* from, int64_t bytes) {
  namespace internal = racy_copy_internal;
  internal::ForEachWord(shared, bytes, [&](int64_t at, auto word) {
    internal::StoreWord<decltype(word)>(static_cast<char*>(shared) + at,
                                        static_cast<const char*>(from) + at);
  });
}

// Copies shared memory into private memory.
inline void LoadRacy(void* to, const void* shared, int64_t bytes) {
  namespace internal = racy_copy_internal;
  internal::ForEachWord(shared, bytes, [&](int64_t at, auto word) {
    internal::LoadWord<decltype(word)>(static_cast<const char*>(shared) + at,
                                       static_cast<char*>(to) + at);
  });
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_RACY_COPY_H_
