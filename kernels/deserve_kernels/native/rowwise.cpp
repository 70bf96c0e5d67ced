// What a decoder layer does to each token by itself: its RMS norm, the rotation of its heads, and the gate of its MLP.
//
// Rounding follows transformers: fp32 inside, and in bf16 a result is rounded wherever a torch operation would end. A
// norm's sum has one order per width, and every element of a gate goes through the same vector code, those of a last
// partial vector too: neither the rows beside nor the threads change a bit.

#include <omp.h>

#include <cmath>
#include <cstdint>

#include "vector.h"

namespace {

constexpr int kSums = 4;  // enough to hide the latency of an addition
// About 20 us of a core: waking the other threads for less does not pay.
constexpr int64_t kSmallNorm = 1 << 17, kSmallRotation = 1 << 17, kSmallGate = 1 << 15;

// Vector `at` of a row; zeros behind its end.
template <typename T>
inline Vec load_within(const T* row, int64_t at, int64_t width) {
    return at + kLanes <= width ? load(row + at) : load_tail(row + at, int(width - at));
}

template <typename T>
inline void store_within(T* row, int64_t at, int64_t width, Vec v) {
    if (at + kLanes <= width)
        store(row + at, v);
    else
        store_tail(row + at, v, int(width - at));
}

template <typename T>
void norm_row(const T* x, const T* weight, T* out, int64_t width, float eps) {
    Vec sum[kSums] = {};
    int64_t at = 0;
    for (; at + kSums * kLanes <= width; at += kSums * kLanes)
#pragma GCC unroll 4
        for (int i = 0; i < kSums; ++i) {
            const Vec v = load(x + at + i * kLanes);
            sum[i] = multiply_add(v, v, sum[i]);
        }
    for (; at < width; at += kLanes) {
        const Vec v = load_within(x, at, width);
        sum[0] = multiply_add(v, v, sum[0]);
    }
    const float mean = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) / float(width);
    const Vec scale = splat(1.0f / std::sqrt(mean + eps));
    for (at = 0; at < width; at += kLanes) {
        const Vec normed = rounded<T>(load_within(x, at, width) * scale);
        store_within(out, at, width, load_within(weight, at, width) * normed);
    }
}

template <typename T>
void norm(const T* x, const T* weight, T* out, int64_t rows, int64_t width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > kSmallNorm)
    for (int64_t row = 0; row < rows; ++row) norm_row(x + row * width, weight, out + row * width, width, eps);
}

// The two halves of a head are the coordinates of points in the plane.
template <typename T>
void rotate_head(const T* x, const T* cos, const T* sin, T* out, int64_t half) {
    for (int64_t at = 0; at < half; at += kLanes) {
        const Vec first = load_within(x, at, half), second = load_within(x + half, at, half);
        const Vec first_cos = load_within(cos, at, half), second_cos = load_within(cos + half, at, half);
        const Vec first_sin = load_within(sin, at, half), second_sin = load_within(sin + half, at, half);
        store_within(out, at, half, rounded<T>(first * first_cos) - rounded<T>(second * first_sin));
        store_within(out + half, at, half, rounded<T>(second * second_cos) + rounded<T>(first * second_sin));
    }
}

template <typename T>
struct Heads {
    const T* from;
    T* to;
    int64_t token_stride, head_stride, count;

    void rotate(int64_t token, const T* cos, const T* sin, int64_t dim) const {
        for (int64_t head = 0; head < count; ++head)
            rotate_head(from + token * token_stride + head * head_stride, cos, sin, to + (token * count + head) * dim,
                        dim / 2);
    }
};

template <typename T>
void rotate(Heads<T> queries, Heads<T> keys, const T* cos, const T* sin, int64_t tokens, int64_t dim, int threads) {
    const bool small = tokens * (queries.count + keys.count) * dim <= kSmallRotation;
#pragma omp parallel for num_threads(threads) schedule(static) if (!small)
    for (int64_t t = 0; t < tokens; ++t) {
        queries.rotate(t, cos + t * dim, sin + t * dim, dim);
        keys.rotate(t, cos + t * dim, sin + t * dim, dim);
    }
}

// x * sigmoid(x). exp_vec ends at 88; what is below -88 is taken for -0, which is off by less than 1e-36.
inline Vec silu(Vec x) {
    const Vec sigmoid_inverse = 1.0f + exp_vec(-x);
    return x < splat(-88.0f) ? x * 0.0f : x / sigmoid_inverse;
}

template <typename T>
void gate(const T* gates, const T* values, T* out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (count > kSmallGate)
    for (int64_t at = 0; at < count; at += kLanes) {
        const Vec opened = rounded<T>(silu(load_within(gates, at, count)));
        store_within(out, at, count, opened * load_within(values, at, count));
    }
}

}  // namespace

// x [rows, width], weight [width] -> out [rows, width]; fp32 or, where `halves`, bf16
extern "C" void deserve_rms_norm(const void* x, const void* weight, void* out, int64_t rows, int64_t width, float eps,
                                 int halves, int threads) {
    if (halves)
        norm((const BFloat16*)x, (const BFloat16*)weight, (BFloat16*)out, rows, width, eps, threads);
    else
        norm((const float*)x, (const float*)weight, (float*)out, rows, width, eps, threads);
}

// q [tokens, heads, dim] and k [tokens, kv_heads, dim] with strides in elements, cos and sin [tokens, dim] -> the same,
// contiguous; fp32 or, where `halves`, bf16
extern "C" void deserve_rotate(const void* q, int64_t q_token_stride, int64_t q_head_stride, void* q_out, int64_t heads,
                               const void* k, int64_t k_token_stride, int64_t k_head_stride, void* k_out,
                               int64_t kv_heads, const void* cos, const void* sin, int64_t tokens, int64_t dim,
                               int halves, int threads) {
    auto run = [&](auto type) {
        using T = decltype(type);
        rotate<T>({(const T*)q, (T*)q_out, q_token_stride, q_head_stride, heads},
                  {(const T*)k, (T*)k_out, k_token_stride, k_head_stride, kv_heads}, (const T*)cos, (const T*)sin,
                  tokens, dim, threads);
    };
    if (halves)
        run(BFloat16{});
    else
        run(float{});
}

// out [count] = silu(gates [count]) * values [count]; fp32 or, where `halves`, bf16. `out` may be one of the two.
extern "C" void deserve_silu_mul(const void* gates, const void* values, void* out, int64_t count, int halves,
                                 int threads) {
    if (halves)
        gate((const BFloat16*)gates, (const BFloat16*)values, (BFloat16*)out, count, threads);
    else
        gate((const float*)gates, (const float*)values, (float*)out, count, threads);
}
