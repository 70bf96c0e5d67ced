// Attention over pages of keys and values, without gathering them.
//
// A work item is (sequence, tile of consecutive queries, kv head); its rows are the tile's queries times the query heads
// that share the kv head, so that every key and value loaded serves all of them. Keys come in blocks of kBlock that are
// aligned to absolute positions, and each row folds the blocks in ascending order into a running softmax. A row's
// operations and their order therefore follow from its own position, window and chunk alone: tiles, batches, chunked
// prefill and decode give the same bits. Three things keep it so: rows whose key range differs within a block are
// computed apart, sums are fixed trees or ascending chains, and products are contracted where `multiply_add` says so and
// nowhere else (the build passes -ffp-contract=off).

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "vector.h"

namespace {

constexpr int kBlock = 64;      // keys folded into the running softmax at a time
constexpr int kTargetRows = 32;  // rows of an item where the sequence brings enough queries
// About 25 us of a core. Waking a thread for less does not pay, least of all where processes share the cores.
constexpr int64_t kWorkPerThread = 1'000'000;
static_assert(kBlock % kLanes == 0, "a block is whole vectors");

struct Arguments {
    const float* queries;
    int64_t query_token_stride, query_head_stride;
    const void* key_pages;
    const void* value_pages;
    const int32_t* page_table;
    const int32_t* query_start;
    const int32_t* context;
    const float* sinks;
    float* out;
    int64_t sequences, max_pages, pages, page_tokens;
    int64_t heads, kv_heads, key_dim, value_dim;
    int64_t window, chunk;
    float scale, softcap;
};

struct Item {
    int64_t cost;
    int32_t sequence, first, count, kv_head;
};

struct Range {
    int64_t begin, end;
    bool operator==(const Range& other) const { return begin == other.begin && end == other.end; }
};

int64_t first_key(const Arguments& a, int64_t position) {
    int64_t lo = a.window > 0 ? std::max<int64_t>(0, position - a.window + 1) : 0;
    return a.chunk > 0 ? std::max(lo, position / a.chunk * a.chunk) : lo;
}

int64_t padded(int64_t dim) { return (dim + kLanes - 1) / kLanes * kLanes; }

// What one thread keeps while it works on an item; rows are (query, head) pairs.
struct Scratch {
    std::vector<float> memory;
    float *query, *score, *out, *peak, *total;
    int64_t query_width, out_width;
    int64_t slot[kBlock];

    void reserve(int64_t rows, int64_t key_dim, int64_t value_dim) {
        query_width = padded(key_dim);
        out_width = padded(value_dim);
        memory.resize(rows * (query_width + out_width + kBlock + kLanes + 1));
        query = memory.data();
        out = query + rows * query_width;
        score = out + rows * out_width;
        total = score + rows * kBlock;
        peak = total + rows * kLanes;
    }
};

// Lane partials of `Rows` x `Keys` dot products, keys given by their slots.
template <int Rows, int Keys, typename T>
inline void dot(const float* query, int64_t query_width, const T* keys, const int64_t* slot, int64_t dim,
                Vec (*partial)[kLanes]) {
    Vec sum[Rows][Keys] = {};
    const T* key[Keys];
    for (int k = 0; k < Keys; ++k) key[k] = keys + slot[k] * dim;
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
        Vec loaded[Keys];
#pragma GCC unroll 4
        for (int k = 0; k < Keys; ++k) loaded[k] = load(key[k] + d);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
            Vec q = load(query + r * query_width + d);
#pragma GCC unroll 4
            for (int k = 0; k < Keys; ++k) sum[r][k] = multiply_add(q, loaded[k], sum[r][k]);
        }
    }
    if (d < dim) {
        for (int k = 0; k < Keys; ++k) {
            Vec tail = load_tail(key[k] + d, int(dim - d));
            for (int r = 0; r < Rows; ++r)
                sum[r][k] = multiply_add(load(query + r * query_width + d), tail, sum[r][k]);
        }
    }
    for (int r = 0; r < Rows; ++r)
        for (int k = 0; k < Keys; ++k) partial[r][k] = sum[r][k];
}

// Scores of `Rows` rows against keys [begin, end) of the block; the rest of the touched vectors is garbage.
template <int Rows, typename T>
__attribute__((noinline)) void score_rows(Scratch& s, int64_t row, const T* keys, int64_t dim, Range keep) {
    Vec partial[Rows][kLanes] = {};
    for (int64_t strip = keep.begin / kLanes * kLanes; strip < keep.end; strip += kLanes) {
        for (int quad = 0; quad < kLanes; quad += 4) {
            if (strip + quad + 4 <= keep.begin || strip + quad >= keep.end) continue;
            int64_t slot[4];
            for (int k = 0; k < 4; ++k)
                slot[k] = s.slot[std::clamp(strip + quad + k, keep.begin, keep.end - 1)];
            dot<Rows, 4>(s.query + row * s.query_width, s.query_width, keys, slot, dim,
                         reinterpret_cast<Vec(*)[kLanes]>(&partial[0][quad]));
        }
        for (int r = 0; r < Rows; ++r) store(s.score + (row + r) * kBlock + strip, sum_each(partial[r]));
    }
}

// Turns one row's scores of the block into weights and rescales what it has summed so far.
__attribute__((noinline)) void fold_softmax(Scratch& s, int64_t row, Range keep, float softcap) {
    float* score = s.score + row * kBlock;
    const IntVec lanes = lane_numbers();
    const Vec nothing = splat(-std::numeric_limits<float>::infinity());
    const int64_t start = keep.begin / kLanes * kLanes;
    Vec highest = nothing;
    for (int64_t strip = start; strip < keep.end; strip += kLanes) {
        Vec x = load(score + strip);
        if (softcap > 0) x = tanh_vec(x / softcap) * softcap;
        IntVec key = lanes + int32_t(strip);
        IntVec inside = (key >= int32_t(keep.begin)) & (key < int32_t(keep.end));
        x = inside ? x : nothing;
        store(score + strip, x);
        highest = x > highest ? x : highest;
    }
    float* total = s.total + row * kLanes;
    float peak = max_lanes(highest);
    if (peak > s.peak[row]) {
        const Vec shrink = exp_vec(splat(s.peak[row]) - splat(peak));
        store(total, load(total) * shrink);
        float* out = s.out + row * s.out_width;
        for (int64_t d = 0; d < s.out_width; d += kLanes) store(out + d, load(out + d) * shrink);
        s.peak[row] = peak;
    }
    const Vec reference = splat(s.peak[row]);
    Vec sum = load(total);
    for (int64_t strip = start; strip < keep.end; strip += kLanes) {
        Vec weight = exp_vec(load(score + strip) - reference);
        store(score + strip, weight);
        sum = sum + weight;
    }
    store(total, sum);
}

// Adds weights times values to `Rows` x (`Columns` vectors) of the output, keys ascending.
template <int Rows, int Columns, typename T>
inline void weigh(Scratch& s, int64_t row, const T* values, int64_t dim, Range keep, int64_t d) {
    Vec sum[Rows][Columns];
    float* out = s.out + row * s.out_width + d;
    const float* weight = s.score + row * kBlock;
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < Columns; ++c) sum[r][c] = load(out + r * s.out_width + c * kLanes);
    const bool partly = d + Columns * kLanes > dim;
    for (int64_t k = keep.begin; k < keep.end; ++k) {
        const T* value = values + s.slot[k] * dim + d;
        Vec loaded[Columns];
        if (Columns == 1 && partly) {
            loaded[0] = load_tail(value, int(dim - d));
        } else {
#pragma GCC unroll 4
            for (int c = 0; c < Columns; ++c) loaded[c] = load(value + c * kLanes);
        }
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
            Vec w = splat(weight[r * kBlock + k]);
#pragma GCC unroll 4
            for (int c = 0; c < Columns; ++c) sum[r][c] = multiply_add(w, loaded[c], sum[r][c]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < Columns; ++c) store(out + r * s.out_width + c * kLanes, sum[r][c]);
}

template <int Rows, typename T>
__attribute__((noinline)) void weigh_rows(Scratch& s, int64_t row, const T* values, int64_t dim, Range keep) {
    int64_t d = 0;
    for (; d + 4 * kLanes <= dim; d += 4 * kLanes) weigh<Rows, 4>(s, row, values, dim, keep, d);
    for (; d < dim; d += kLanes) weigh<Rows, 1>(s, row, values, dim, keep, d);
}

// Rows [row, row + count) attend to keys `keep` of the block.
template <typename T>
void attend_rows(const Arguments& a, Scratch& s, int64_t row, int64_t count, Range keep) {
    const T* keys = static_cast<const T*>(a.key_pages);
    const T* values = static_cast<const T*>(a.value_pages);
    auto grouped = [&](auto&& call) {
        int64_t r = 0;
        for (; r + kTileRows <= count; r += kTileRows) call(std::integral_constant<int, kTileRows>{}, row + r);
        switch (count - r) {
            case 3: if constexpr (kTileRows > 3) call(std::integral_constant<int, 3>{}, row + r); break;
            case 2: if constexpr (kTileRows > 2) call(std::integral_constant<int, 2>{}, row + r); break;
            case 1: call(std::integral_constant<int, 1>{}, row + r); break;
        }
    };
    grouped([&](auto rows, int64_t r) { score_rows<rows.value>(s, r, keys, a.key_dim, keep); });
    for (int64_t r = row; r < row + count; ++r) fold_softmax(s, r, keep, a.softcap);
    grouped([&](auto rows, int64_t r) { weigh_rows<rows.value>(s, r, values, a.value_dim, keep); });
}

// False where the page table names a page that does not exist.
template <typename T>
bool attend_item(const Arguments& a, Scratch& s, const Item& item) {
    const int64_t group = a.heads / a.kv_heads, rows = item.count * group;
    const int64_t token = a.query_start[item.sequence] + item.first;
    const int64_t queries = a.query_start[item.sequence + 1] - a.query_start[item.sequence];
    const int64_t position = a.context[item.sequence] - queries + item.first;
    const int64_t head = item.kv_head * group;
    const int32_t* table = a.page_table + item.sequence * a.max_pages;
    s.reserve(rows, a.key_dim, a.value_dim);
    for (int64_t j = 0; j < item.count; ++j) {
        for (int64_t g = 0; g < group; ++g) {
            const int64_t r = j * group + g;
            const float* from = a.queries + (token + j) * a.query_token_stride + (head + g) * a.query_head_stride;
            float* to = s.query + r * s.query_width;
            for (int64_t d = 0; d < a.key_dim; ++d) to[d] = from[d] * a.scale;
            std::fill(to + a.key_dim, to + s.query_width, 0.0f);
            // A sink is a key with this score and no value.
            s.peak[r] = a.sinks ? a.sinks[head + g] : -std::numeric_limits<float>::infinity();
            std::fill_n(s.total + r * kLanes, kLanes, 0.0f);
            s.total[r * kLanes] = a.sinks ? 1.0f : 0.0f;
        }
    }
    std::fill_n(s.out, rows * s.out_width, 0.0f);

    const int64_t last = position + item.count;
    for (int64_t block = first_key(a, position) / kBlock * kBlock; block < last; block += kBlock) {
        const int64_t begin = std::max(block, first_key(a, position)), end = std::min(block + kBlock, last);
        for (int64_t k = begin; k < end;) {
            const int64_t page_number = k / a.page_tokens;
            const int64_t page = page_number < a.max_pages ? table[page_number] : -1;
            if (page < 0 || page >= a.pages) return false;
            const int64_t first_slot = (page * a.kv_heads + item.kv_head) * a.page_tokens;
            const int64_t stop = std::min(end, (page_number + 1) * a.page_tokens);
            for (int64_t slot = k - page_number * a.page_tokens; k < stop; ++k, ++slot)
                s.slot[k - block] = first_slot + slot;
        }
        auto range = [&](int64_t j) {
            const int64_t p = position + j;
            return Range{std::max(block, first_key(a, p)) - block, std::min(block + kBlock, p + 1) - block};
        };
        for (int64_t j = 0; j < item.count;) {
            const Range keep = range(j);
            int64_t next = j + 1;
            while (next < item.count && range(next) == keep) ++next;
            if (keep.begin < keep.end) attend_rows<T>(a, s, j * group, (next - j) * group, keep);
            j = next;
        }
    }
    for (int64_t r = 0; r < rows; ++r) {
        const float share = 1.0f / sum_lanes(load(s.total + r * kLanes));
        float* to = a.out + ((token + r / group) * a.heads + head + r % group) * a.value_dim;
        for (int64_t d = 0; d < a.value_dim; ++d) to[d] = s.out[r * s.out_width + d] * share;
    }
    return true;
}

// Longest first, so that the last items to be taken are small ones.
std::vector<Item> plan(const Arguments& a) {
    const int64_t group = a.heads / a.kv_heads;
    const int64_t tile = std::max<int64_t>(1, kTargetRows / group);
    std::vector<Item> items;
    for (int64_t sequence = 0; sequence < a.sequences; ++sequence) {
        const int64_t queries = a.query_start[sequence + 1] - a.query_start[sequence];
        for (int64_t first = 0; first < queries; first += tile) {
            const int64_t count = std::min(tile, queries - first);
            const int64_t position = a.context[sequence] - queries + first;
            const int64_t cost = (position + count - first_key(a, position)) * (count * group + 4);
            for (int64_t head = 0; head < a.kv_heads; ++head)
                items.push_back({cost, int32_t(sequence), int32_t(first), int32_t(count), int32_t(head)});
        }
    }
    std::stable_sort(items.begin(), items.end(), [](const Item& x, const Item& y) { return x.cost > y.cost; });
    return items;
}

template <typename T>
int run(const Arguments& a, int threads) {
    const std::vector<Item> items = plan(a);
    int64_t work = 0;
    for (const Item& item : items) work += item.cost * (a.key_dim + a.value_dim);
    threads = int(std::min<int64_t>(threads, 1 + work / kWorkPerThread));
    std::atomic<bool> sound{true};
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < items.size(); ++i)
            if (!attend_item<T>(a, scratch, items[i])) sound.store(false, std::memory_order_relaxed);
    }
    return sound.load() ? 0 : 1;
}

}  // namespace

// 0: done. 1: the page table names a page outside the pool within a range that is needed. 2: unknown page type.
extern "C" int deserve_paged_attention(
    const float* queries, int64_t query_token_stride, int64_t query_head_stride, const void* key_pages,
    const void* value_pages, int page_type, const int32_t* page_table, const int32_t* query_start,
    const int32_t* context, const float* sinks, float* out, int64_t sequences, int64_t max_pages, int64_t pages,
    int64_t page_tokens, int64_t heads, int64_t kv_heads, int64_t key_dim, int64_t value_dim, int64_t window,
    int64_t chunk, float scale, float softcap, int threads) {
    const Arguments a{queries,   query_token_stride, query_head_stride, key_pages,   value_pages, page_table,
                      query_start, context,          sinks,             out,         sequences,   max_pages,
                      pages,     page_tokens,        heads,             kv_heads,    key_dim,     value_dim,
                      window,    chunk,              scale,             softcap};
    switch (page_type) {
        case 0: return run<float>(a, threads);
        case 1: return run<BFloat16>(a, threads);
        case 2: return run<Float16>(a, threads);
        default: return 2;
    }
}
