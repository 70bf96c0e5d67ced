// Wire codecs: bf16 and int8 by groups with outliers, bit for bit as codecs/layout.py lays them down.
//
// Nothing here adds to a product, so the compiler has nothing to fuse: each step is rounded once, as on every device.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kGroup = 64;
constexpr int kOutliers = 4;
constexpr int64_t kOutlierBytes = 4 * kOutliers;
constexpr uint32_t kMinPeak = (127u - 100u) << 23;
constexpr uint32_t kMaxScale = 0x7C01;
constexpr uint32_t kInfinity = 0x7f800000;
constexpr int64_t kSmall = 16384;  // values below which a second thread costs more than it computes

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// Rounded half to even; what is finite stays finite, NaN becomes 0x7fc0.
inline uint32_t bf16_of(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffffff;
    uint32_t rounded = (std::min(magnitude, kInfinity) + 0x7fff + ((magnitude >> 16) & 1)) >> 16;
    rounded = magnitude < kInfinity ? std::min(rounded, 0x7f7fu) : kInfinity >> 16;
    rounded |= (bits >> 16) & 0x8000;
    return magnitude > kInfinity ? 0x7fc0 : rounded;
}

struct Outliers {
    int32_t magnitude[kOutliers] = {-1, -1, -1, -1};
    int64_t index[kOutliers] = {};

    // Values come in ascending order of index: one that equals a kept magnitude comes behind it.
    void offer(int32_t m, int64_t at) {
        if (m <= magnitude[kOutliers - 1]) return;
        int place = kOutliers - 1;
        for (; place > 0 && magnitude[place - 1] < m; --place) {
            magnitude[place] = magnitude[place - 1];
            index[place] = index[place - 1];
        }
        magnitude[place] = m;
        index[place] = at;
    }
};

inline int32_t peak_of(const float* values) {
    int32_t peak = 0;
    for (int64_t i = 0; i < kGroup; ++i) peak = std::max(peak, int32_t(bits_of(values[i]) & 0x7fffffff));
    return peak;
}

// The group's 64 values, zeros behind the token's end.
inline const float* group_of(const float* token, int64_t width, int64_t group, float* scratch) {
    const int64_t begin = group * kGroup;
    if (begin + kGroup <= width) return token + begin;
    std::memset(scratch, 0, kGroup * sizeof(float));
    std::memcpy(scratch, token + begin, (width - begin) * sizeof(float));
    return scratch;
}

Outliers find_outliers(const float* token, int64_t width, int64_t groups) {
    float scratch[kGroup];
    Outliers found;
    for (int64_t group = 0; group < groups; ++group) {
        const float* values = group_of(token, width, group, scratch);
        if (peak_of(values) <= found.magnitude[kOutliers - 1]) continue;
        for (int64_t i = 0; i < kGroup; ++i)
            found.offer(int32_t(bits_of(values[i]) & 0x7fffffff), group * kGroup + i);
    }
    return found;
}

void pack_token(const float* token, int64_t width, int64_t groups, uint8_t* out) {
    const Outliers outliers = find_outliers(token, width, groups);
    for (int i = 0; i < kOutliers; ++i) {
        const int64_t at = outliers.index[i];
        const uint16_t pair[2] = {uint16_t(at), uint16_t(bf16_of(at < width ? bits_of(token[at]) : 0))};
        std::memcpy(out + 4 * i, pair, 4);
    }
    for (int64_t group = 0; group < groups; ++group) {
        float values[kGroup];
        const float* from = group_of(token, width, group, values);
        if (from != values) std::memcpy(values, from, sizeof values);
        for (int64_t at : outliers.index)
            if (at / kGroup == group) values[at % kGroup] = 0;
        const uint32_t peak = uint32_t(peak_of(values));
        uint32_t scale = peak < kMinPeak ? 0 : std::min(bf16_of(bits_of(float_of(peak) * (1.0f / 127))), kMaxScale);
        const float inverse = scale && peak < kInfinity ? 1.0f / float_of(scale << 16) : 0;
        if (peak >= kInfinity) {
            scale = 0x7fc0;
            std::memset(values, 0, sizeof values);
        }
        const uint16_t half = uint16_t(scale);
        std::memcpy(out + kOutlierBytes + 2 * group, &half, 2);
        int8_t packed[kGroup];
        for (int64_t i = 0; i < kGroup; ++i) {
            const float rounded = std::rint(values[i] * inverse);
            packed[i] = int8_t(int32_t(std::max(-127.0f, std::min(127.0f, rounded))));
        }
        std::memcpy(out + kOutlierBytes + 2 * groups + kGroup * group, packed, kGroup);
    }
}

bool unpack_token(const uint8_t* record, int64_t width, int64_t groups, float* out) {
    for (int64_t group = 0; group < groups; ++group) {
        uint16_t half;
        std::memcpy(&half, record + kOutlierBytes + 2 * group, 2);
        const float scale = float_of(uint32_t(half) << 16);
        const int8_t* packed = reinterpret_cast<const int8_t*>(record) + kOutlierBytes + 2 * groups + kGroup * group;
        const int64_t count = std::min(kGroup, width - group * kGroup);
        for (int64_t i = 0; i < count; ++i) out[group * kGroup + i] = float(packed[i]) * scale;
    }
    for (int i = 0; i < kOutliers; ++i) {
        uint16_t pair[2];
        std::memcpy(pair, record + 4 * i, 4);
        if (pair[0] >= groups * kGroup) return false;
        if (pair[0] < width) out[pair[0]] = float_of(uint32_t(pair[1]) << 16);
    }
    return true;
}

}  // namespace

extern "C" void deserve_round_bf16(const float* values, uint16_t* out, int64_t count, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static) if (count > kSmall)
    for (int64_t i = 0; i < count; ++i) out[i] = uint16_t(bf16_of(bits_of(values[i])));
}

// values [tokens, width] -> out [tokens, 16 + 66 * groups]
extern "C" void deserve_pack_int8(const float* values, uint8_t* out, int64_t tokens, int64_t width, int threads) {
    const int64_t groups = (width + kGroup - 1) / kGroup, record = kOutlierBytes + (kGroup + 2) * groups;
    if (width == 0) std::memset(out, 0, tokens * record);
    if (width == 0) return;
#pragma omp parallel for num_threads(threads) schedule(static) if (tokens * width > kSmall)
    for (int64_t t = 0; t < tokens; ++t) pack_token(values + t * width, width, groups, out + t * record);
}

// The way back. 0: done. 1: an outlier's index lies outside the token.
extern "C" int deserve_unpack_int8(const uint8_t* records, float* out, int64_t tokens, int64_t width, int threads) {
    const int64_t groups = (width + kGroup - 1) / kGroup, record = kOutlierBytes + (kGroup + 2) * groups;
    if (width == 0) return 0;
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : failed) if (tokens * width > kSmall)
    for (int64_t t = 0; t < tokens; ++t)
        failed |= !unpack_token(records + t * record, width, groups, out + t * width);
    return failed;
}
