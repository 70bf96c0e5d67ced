// Gumbel noise that is a pure function of (row seed, position, token id).
//
// The integers are splitmix64's finalizer, chained over seed and position, then its sequence over token ids; they equal
// the torch reference's bit for bit. The fraction v comes from 63 bits, rounded to fp32, so that it keeps its relative
// precision near 0, where the largest noise comes from: E = -log(1 - v) is exponential and -log(E) is Gumbel.

#include <omp.h>

#include <cmath>
#include <cstdint>

#include "vector.h"

namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;

inline uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

inline uint64_t row_key(int64_t seed, int64_t position) {
    return mix(mix(uint64_t(seed) + kGolden) + uint64_t(position) * kGolden + kGolden);
}

inline float fraction(uint64_t key, int64_t token) {
    const uint64_t h = mix(key + (uint64_t(token) + 1) * kGolden);
    const float v = (float(int64_t(h >> 1)) + 1.0f) * 0x1p-63f;
    return v < 0x1.fffffep-1f ? v : 0x1.fffffep-1f;
}

// -log(-log(1 - v)); below 1/16 a series replaces the outer subtraction, which would lose v's low bits.
inline Vec gumbel_vec(Vec v) {
    Vec series = splat(1.0f / 6);
    series = series * v + 0.2f;
    series = series * v + 0.25f;
    series = series * v + (1.0f / 3);
    series = series * v + 0.5f;
    series = series * v + 1.0f;
    Vec exponential = v < splat(0.0625f) ? series * v : -log_vec(1.0f - v);
    return -log_vec(exponential);
}

}  // namespace

// out [rows, count]; token ids are tokens[row * count + i], or i where `tokens` is null.
extern "C" void deserve_gumbel(const int64_t* seeds, const int64_t* positions, const int64_t* tokens, float* out,
                               int64_t rows, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * count > 20000)
    for (int64_t row = 0; row < rows; ++row) {
        const uint64_t key = row_key(seeds[row], positions[row]);
        for (int64_t i = 0; i < count; i += kLanes) {
            const int wanted = count - i < kLanes ? int(count - i) : kLanes;
            float v[kLanes];
            for (int lane = 0; lane < kLanes; ++lane) {
                const int64_t at = lane < wanted ? i + lane : i;
                v[lane] = fraction(key, tokens ? tokens[row * count + at] : at);
            }
            float noise[kLanes];
            store(noise, gumbel_vec(load(v)));
            __builtin_memcpy(out + row * count + i, noise, sizeof(float) * wanted);
        }
    }
}

// The hashes themselves, for comparison with the reference. out [count]
extern "C" void deserve_noise_bits(int64_t seed, int64_t position, uint64_t* out, int64_t count) {
    const uint64_t key = row_key(seed, position);
    for (int64_t token = 0; token < count; ++token) out[token] = mix(key + (uint64_t(token) + 1) * kGolden);
}
