// Vectors of fp32 through the compiler's vector extensions: one source for AVX-512, AVX2, SSE and NEON.
// Everything here is elementwise or a fixed tree, so a value never depends on its neighbours.
#pragma once

#include <cstdint>

#if defined(__FMA__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Rows of a register tile: 4 rows x 4 columns of accumulators need 32 vector registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRows = 4;
#else
constexpr int kTileRows = 2;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t UintVec __attribute__((vector_size(kLanes * 4)));
typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

static inline Vec load(const float* from) {
    Vec v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

static inline UintVec load_halves(const void* from) {
    HalfVec h;
    __builtin_memcpy(&h, from, sizeof h);
    return __builtin_convertvector(h, UintVec);
}

static inline Vec load(const BFloat16* from) { return (Vec)(load_halves(from) << 16); }

static inline Vec load(const Float16* from) {
    UintVec half = load_halves(from);
    UintVec magnitude = half & 0x7fff;
    // Shifted into place the exponent is 112 too small; the multiplication also makes subnormals right.
    Vec scaled = (Vec)(magnitude << 13) * 0x1p112f;
    UintVec special = (UintVec)(magnitude >= 0x7c00) & 0x7f800000u;
    return (Vec)((UintVec)scaled | special | ((half & 0x8000) << 16));
}

// The first `count` < kLanes elements, zeros behind them; reads nothing beyond.
template <typename T>
static inline Vec load_tail(const T* from, int count) {
    T padded[kLanes] = {};
    __builtin_memcpy(padded, from, sizeof(T) * count);
    return load(padded);
}

static inline void store(float* to, Vec v) { __builtin_memcpy(to, &v, sizeof v); }

// Rounded half to even, as torch does; NaN becomes 0x7fc0.
static inline UintVec bf16_bits(Vec v) {
    UintVec bits = (UintVec)v;
    UintVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    IntVec is_nan = v != v;
    return is_nan ? UintVec{} + 0x7fc0 : rounded;
}

static inline void store(BFloat16* to, Vec v) {
    HalfVec h = __builtin_convertvector(bf16_bits(v), HalfVec);
    __builtin_memcpy(to, &h, sizeof h);
}

// The first `count` < kLanes elements; writes nothing beyond.
template <typename T>
static inline void store_tail(T* to, Vec v, int count) {
    T padded[kLanes];
    store(padded, v);
    __builtin_memcpy(to, padded, sizeof(T) * count);
}

// v as a tensor of T would hold it.
template <typename T>
static inline Vec rounded(Vec v) {
    return v;
}

template <>
inline Vec rounded<BFloat16>(Vec v) {
    return (Vec)(bf16_bits(v) << 16);
}

static inline Vec splat(float x) { return x - Vec{}; }

// a * b + c, rounded once where the processor can. Said outright, because a compiler that is free to contract does so in
// one instantiation of a template and not in the next (seen with g++ 12 on AVX2): the same row then has other bits.
static inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && defined(__AVX__)
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

static inline IntVec lane_numbers() {
    IntVec lanes;
    for (int i = 0; i < kLanes; ++i) lanes[i] = i;
    return lanes;
}

// One level of the transposing sum: lanes with bit `Stride` clear belong to a, the others to b.
template <int Stride>
static inline Vec fold_pair(Vec a, Vec b) {
#if defined(__clang__)
    Vec kept, moved;
    for (int i = 0; i < kLanes; ++i) {
        kept[i] = i & Stride ? b[i] : a[i];
        moved[i] = i & Stride ? b[i ^ Stride] : a[i ^ Stride];
    }
    return kept + moved;
#else
    IntVec kept, moved;
    for (int i = 0; i < kLanes; ++i) {
        int source = i & Stride ? kLanes : 0;
        kept[i] = source + i;
        moved[i] = source + (i ^ Stride);
    }
    return __builtin_shuffle(a, b, kept) + __builtin_shuffle(a, b, moved);
#endif
}

// Lane i of the result is the sum over the lanes of v[i], by the same balanced tree for every i.
static inline Vec sum_each(const Vec* v) {
    Vec level[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) level[i] = fold_pair<1>(v[2 * i], v[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 4; ++i) level[i] = fold_pair<2>(level[2 * i], level[2 * i + 1]);
    if constexpr (kLanes >= 8) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes / 8; ++i) level[i] = fold_pair<4>(level[2 * i], level[2 * i + 1]);
    }
    if constexpr (kLanes >= 16) level[0] = fold_pair<8>(level[0], level[1]);
    return level[0];
}

static inline float sum_lanes(Vec v) {
    float lanes[kLanes];
    store(lanes, v);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    return lanes[0];
}

static inline float max_lanes(Vec v) {
    float lanes[kLanes];
    store(lanes, v);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    return lanes[0];
}

// exp within 2 ulp on [-87, 88]; 0 below, the value at 88 above; NaN stays NaN. Cephes' polynomial.
static inline Vec exp_vec(Vec x) {
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    IntVec vanishes = x < splat(-87.0f);
    x = x > splat(88.0f) ? splat(88.0f) : x;
    Vec shifted = multiply_add(x, splat(1.44269504088896341f), magic);
    IntVec exponent = (IntVec)shifted - (IntVec)magic;
    Vec n = shifted - magic;
    Vec r = multiply_add(n, splat(-0.693359375f), x);
    r = multiply_add(n, splat(2.12194440e-4f), r);
    Vec p = splat(1.9875691500e-4f);
    p = multiply_add(p, r, splat(1.3981999507e-3f));
    p = multiply_add(p, r, splat(8.3334519073e-3f));
    p = multiply_add(p, r, splat(4.1665795894e-2f));
    p = multiply_add(p, r, splat(1.6666665459e-1f));
    p = multiply_add(p, r, splat(5.0000001201e-1f));
    Vec squared = r * r;
    Vec y = multiply_add(p, squared, r);
    y = y + 1.0f;
    y = y * (Vec)((exponent + 127) << 23);
    return vanishes ? Vec{} : y;
}

// tanh within 2 ulp. Near 0 a polynomial (Cephes) keeps the digits that 1 - 2 / (exp(2x) + 1) would lose.
static inline Vec tanh_vec(Vec x) {
    Vec z = x * x;
    Vec p = splat(-5.70498872745e-3f);
    p = multiply_add(p, z, splat(2.06390887954e-2f));
    p = multiply_add(p, z, splat(-5.37397155531e-2f));
    p = multiply_add(p, z, splat(1.33314422036e-1f));
    p = multiply_add(p, z, splat(-3.33332819422e-1f));
    p = p * z;
    Vec near = multiply_add(p, x, x);
    Vec far = 1.0f - 2.0f / (exp_vec(x + x) + 1.0f);
    return z < splat(0.625f * 0.625f) ? near : far;
}

// log of positive normal numbers within 2 ulp. Cephes' polynomial.
static inline Vec log_vec(Vec x) {
    IntVec bits = (IntVec)x;
    IntVec exponent = ((bits >> 23) & 0xff) - 126;
    Vec m = (Vec)((bits & 0x007fffff) | 0x3f000000);  // in [0.5, 1)
    IntVec small = m < splat(0.70710678118654752f);
    exponent = exponent + small;  // true is -1
    m = small ? m + m - 1.0f : m - 1.0f;
    Vec e = __builtin_convertvector(exponent, Vec);
    Vec squared = m * m;
    Vec p = splat(7.0376836292e-2f);
    p = multiply_add(p, m, splat(-1.1514610310e-1f));
    p = multiply_add(p, m, splat(1.1676998740e-1f));
    p = multiply_add(p, m, splat(-1.2420140846e-1f));
    p = multiply_add(p, m, splat(1.4249322787e-1f));
    p = multiply_add(p, m, splat(-1.6668057665e-1f));
    p = multiply_add(p, m, splat(2.0000714765e-1f));
    p = multiply_add(p, m, splat(-2.4999993993e-1f));
    p = multiply_add(p, m, splat(3.3333331174e-1f));
    Vec y = m * squared;
    y = y * p;
    y = y + e * -2.12194440e-4f;
    y = y - squared * 0.5f;
    Vec sum = m + y;
    return sum + e * 0.693359375f;
}
