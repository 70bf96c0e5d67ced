// Scatter of new keys or values into their slots of the pages.

#include <cstdint>
#include <cstring>

// `row_bytes` is one head's vector. 0: done. 1: a slot lies outside the pool (nothing is written then).
extern "C" int deserve_write_pages(char* pages, const char* rows, const int64_t* slots, int64_t tokens,
                                   int64_t kv_heads, int64_t page_tokens, int64_t pool_slots, int64_t row_bytes,
                                   int64_t token_stride_bytes, int64_t head_stride_bytes) {
    for (int64_t t = 0; t < tokens; ++t)
        if (slots[t] < 0 || slots[t] >= pool_slots) return 1;
    for (int64_t t = 0; t < tokens; ++t) {
        const int64_t page = slots[t] / page_tokens, offset = slots[t] % page_tokens;
        for (int64_t head = 0; head < kv_heads; ++head)
            std::memcpy(pages + ((page * kv_heads + head) * page_tokens + offset) * row_bytes,
                        rows + t * token_stride_bytes + head * head_stride_bytes, row_bytes);
    }
    return 0;
}
