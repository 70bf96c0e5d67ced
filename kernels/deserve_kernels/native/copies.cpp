// Pages between the tensors of many layers and a host arena in which all layers of a page lie side by side.

#include <cstdint>
#include <cstring>

// Tensor t holds `sizes[t]` bytes a page and has its part of an arena page at the sum of the sizes before it.
// 0: done. 1: a slot or a place lies outside (nothing is copied then).
extern "C" int deserve_copy_pages(char* const* tensors, const int64_t* sizes, int64_t count, int64_t slots_there,
                                  char* arena, int64_t places_there, int64_t arena_page_bytes, const int64_t* slots,
                                  const int64_t* places, int64_t pages, int inward) {
    for (int64_t p = 0; p < pages; ++p)
        if (slots[p] < 0 || slots[p] >= slots_there || places[p] < 0 || places[p] >= places_there) return 1;
    for (int64_t p = 0; p < pages; ++p) {
        char* at_host = arena + places[p] * arena_page_bytes;
        for (int64_t t = 0; t < count; ++t) {
            char* on_device = tensors[t] + slots[p] * sizes[t];
            if (inward)
                std::memcpy(on_device, at_host, sizes[t]);
            else
                std::memcpy(at_host, on_device, sizes[t]);
            at_host += sizes[t];
        }
    }
    return 0;
}
