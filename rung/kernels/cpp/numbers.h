// Numbers as the kernels see them: bf16 or float32 in memory, float32 in registers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define RESTRICT __restrict__

struct bf16 { uint16_t bits; };

static inline float load(float x) { return x; }
static inline float load(bf16 x) {
    uint32_t wide = uint32_t(x.bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}
static inline void store(float* place, float x) { *place = x; }
static inline void store(bf16* place, float x) {  // to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    place->bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

// e^x = 2^n e^r with |r| <= ln 2 / 2, e^r by its Taylor polynomial (relative error 2e-7). 0 below -87, infinite
// above 88; NaN stays NaN.
static inline float exponential(float x) {
    float inside = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = nearbyintf(inside * 1.44269504f);
    float r = (inside - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first without rounding
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    int32_t power = (int32_t(n) + 127) << 23;
    float scale;
    memcpy(&scale, &power, 4);
    return x < -87.0f ? 0.0f : x > 88.0f ? INFINITY : x != x ? x : p * scale;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
