// The memory-bound steps of a CPU forward and backward, one pass over memory each. native.py compiles and calls them.
//
// Values are bf16 or float32, sums and functions are float32 inside. Rows are independent and each is summed in one
// order, so a result depends neither on the number of threads nor on what stands beside a row. Loops are written for
// the compiler to turn into vectors of whatever width the processor has; there is nothing here of one processor only.
#include <cmath>
#include <cstdint>
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

// -- RMSNorm: out = x r (w + offset), r = 1 / sqrt(mean x^2 + epsilon) -------------------------------------------------

template <class T>
static void rms_norm(const T* RESTRICT x, const T* RESTRICT w, T* RESTRICT out, float* r, long rows, long width,
                     float epsilon, float offset) {
#pragma omp parallel for schedule(static) if (rows > 15)
    for (long row = 0; row < rows; row++) {
        const T* RESTRICT in = x + row * width;
        T* RESTRICT to = out + row * width;
        float sum = 0;
        for (long i = 0; i < width; i++) sum += load(in[i]) * load(in[i]);
        const float scale = r[row] = 1.0f / sqrtf(sum / width + epsilon);
        for (long i = 0; i < width; i++) store(to + i, load(in[i]) * scale * (load(w[i]) + offset));
    }
}

// dx = r (g dy - n mean(g dy n)) with n = x r and g = w + offset. Row c of `parts` is the sum of dy n over rows
// c chunk to (c + 1) chunk: whoever adds the parts up in order has a sum that does not depend on threads.
template <class T>
static void rms_norm_backward(const T* RESTRICT x, const T* RESTRICT w, const float* r, const T* RESTRICT dy,
                              T* RESTRICT dx, float* parts, long rows, long width, long chunk, float offset) {
#pragma omp parallel for schedule(static)
    for (long c = 0; c < (rows + chunk - 1) / chunk; c++) {
        float* RESTRICT dw = parts + c * width;
        for (long i = 0; i < width; i++) dw[i] = 0;
        for (long row = c * chunk; row < rows && row < (c + 1) * chunk; row++) {
            const T *RESTRICT in = x + row * width, *RESTRICT grad = dy + row * width;
            T* RESTRICT to = dx + row * width;
            float slope = 0;
            const float scale = r[row];
            for (long i = 0; i < width; i++) {
                float product = load(in[i]) * scale * load(grad[i]);
                dw[i] += product;
                slope += product * (load(w[i]) + offset);
            }
            slope = slope / width * scale;
            for (long i = 0; i < width; i++)
                store(to + i, scale * (load(grad[i]) * (load(w[i]) + offset) - load(in[i]) * slope));
        }
    }
}

// -- Rotary embedding: the halves (a, b) of a head become (a cos - s b sin, b cos + s a sin); s = -1 turns back --------

template <class T>
static void rotate(const T* x, const T* cosine, const T* sine, T* out, long tokens, long heads, long width, float s) {
    const long half = width / 2;
#pragma omp parallel for schedule(static) if (tokens > 15)
    for (long token = 0; token < tokens; token++)
        for (long head = 0; head < heads; head++) {
            const T *low = x + (token * heads + head) * width, *high = low + half;
            const T *c = cosine + token * width, *d = sine + token * width;
            T *to_low = out + (token * heads + head) * width, *to_high = to_low + half;
#pragma omp simd
            for (long i = 0; i < half; i++) {
                float a = load(low[i]), b = load(high[i]);
                store(to_low + i, a * load(c[i]) - s * b * load(d[i]));
                store(to_high + i, b * load(c[i + half]) + s * a * load(d[i + half]));
            }
        }
}

// -- SwiGLU: out = gate sigmoid(gate) up -------------------------------------------------------------------------------

// Row by row, though no row matters here: what the vectors of a loop leave over is computed by other instructions, and
// where an element stands in its row must decide alone which of the two computes it.
template <class T>
static void swiglu(const T* RESTRICT gate, const T* RESTRICT up, T* RESTRICT out, long rows, long width) {
#pragma omp parallel for schedule(static) if (rows > 15)
    for (long row = 0; row < rows; row++) {
        const T *RESTRICT a = gate + row * width, *RESTRICT b = up + row * width;
        T* RESTRICT to = out + row * width;
        for (long i = 0; i < width; i++) store(to + i, load(a[i]) * sigmoid(load(a[i])) * load(b[i]));
    }
}

template <class T>
static void swiglu_backward(const T* RESTRICT gate, const T* RESTRICT up, const T* RESTRICT dy, T* RESTRICT dgate,
                            T* RESTRICT dup, long rows, long width) {
#pragma omp parallel for schedule(static) if (rows > 15)
    for (long row = 0; row < rows; row++) {
        const T *a = gate + row * width, *b = up + row * width, *grad = dy + row * width;
        T *to_a = dgate + row * width, *to_b = dup + row * width;
#pragma omp simd
        for (long i = 0; i < width; i++) {
            float g = load(a[i]), share = sigmoid(g);
            store(to_b + i, load(grad[i]) * g * share);
            store(to_a + i, load(grad[i]) * load(b[i]) * share * (1 + g * (1 - share)));
        }
    }
}

// -- Attention of a decoding step --------------------------------------------------------------------------------------

// Thirty-two values at a time, as a vector of those at even places and one of those at odd places: a bf16 is the upper
// half of a float32, so of two neighbours in a 32-bit word one is shifted up and the other is masked.
typedef float vec __attribute__((vector_size(64)));
typedef uint32_t word __attribute__((vector_size(64)));
const long LANES = 32;

struct Pair { vec even, odd; };

static inline Pair load_pair(const bf16* x) {
    word both;
    memcpy(&both, x, sizeof both);
    return {(vec)(both << 16), (vec)(both & 0xffff0000u)};
}
static inline Pair load_pair(const float* x) {  // another split, which is as good: all operands are split alike
    Pair pair;
    memcpy(&pair, x, sizeof pair);
    return pair;
}
static inline void store_pair(bf16* place, Pair x) {
    for (long i = 0; i < LANES / 2; i++) store(place + 2 * i, x.even[i]), store(place + 2 * i + 1, x.odd[i]);
}
static inline void store_pair(float* place, Pair x) { memcpy(place, &x, sizeof x); }

static inline float sum_of(vec x) {
    typedef float vec8 __attribute__((vector_size(32)));
    typedef float vec4 __attribute__((vector_size(16)));
    vec8 low, high;
    memcpy(&low, &x, 32), memcpy(&high, (char*)&x + 32, 32);
    low += high;
    vec4 front, back;
    memcpy(&front, &low, 16), memcpy(&back, (char*)&low + 16, 16);
    front += back;
    return (front[0] + front[2]) + (front[1] + front[3]);
}

template <class T>
struct Step {
    const T *q, *new_k, *new_v;  // [rows, kv_heads G, D], [rows, kv_heads, D] twice
    T *k, *v, *out;              // [slots, kv_heads, capacity, D] twice, [rows, kv_heads G, D]
    const int64_t* lengths;      // of each row before this token
    float* scratch;              // [rows, kv_heads G, capacity]
    long rows, kv_heads, capacity, window;  // a window of 0 is none
    float scale, softcap;                   // a softcap of 0 is none
};

// The new token's key and value join the row's, then its G queries a key-value head attend to all, itself included.
template <class T, long D, long G>
static void attend(Step<T> s) {
#pragma omp parallel for collapse(2) schedule(dynamic, 4)
    for (long row = 0; row < s.rows; row++)
        for (long kv = 0; kv < s.kv_heads; kv++) {
            const long pair = row * s.kv_heads + kv, last = s.lengths[row];
            const long first = s.window && last >= s.window ? last + 1 - s.window : 0;
            T *keys = s.k + pair * s.capacity * D, *values = s.v + pair * s.capacity * D;
            memcpy(keys + last * D, s.new_k + pair * D, D * sizeof(T));
            memcpy(values + last * D, s.new_v + pair * D, D * sizeof(T));
            Pair query[G][D / LANES], mean[G][D / LANES];
            for (long g = 0; g < G; g++)
                for (long i = 0; i < D / LANES; i++) {
                    query[g][i] = load_pair(s.q + (pair * G + g) * D + i * LANES);
                    mean[g][i] = Pair();
                }
            float *p = s.scratch + pair * G * s.capacity, total[G];
            for (long t = first; t <= last; t++) {
                vec dot[G] = {};
                for (long i = 0; i < D / LANES; i++) {
                    const Pair key = load_pair(keys + t * D + i * LANES);
                    for (long g = 0; g < G; g++) dot[g] += query[g][i].even * key.even + query[g][i].odd * key.odd;
                }
                for (long g = 0; g < G; g++) p[g * s.capacity + t] = sum_of(dot[g]) * s.scale;
            }
            for (long g = 0; g < G; g++) {
                float *weights = p + g * s.capacity, top = -INFINITY, sum = 0;
                if (s.softcap > 0)
                    for (long t = first; t <= last; t++) weights[t] = s.softcap * tanhf(weights[t] / s.softcap);
                for (long t = first; t <= last; t++) top = weights[t] > top ? weights[t] : top;
                for (long t = first; t <= last; t++) weights[t] = exponential(weights[t] - top);
                for (long t = first; t <= last; t++) sum += weights[t];
                total[g] = sum;
            }
            for (long t = first; t <= last; t++)
                for (long i = 0; i < D / LANES; i++) {
                    const Pair value = load_pair(values + t * D + i * LANES);
                    for (long g = 0; g < G; g++) {
                        mean[g][i].even += value.even * p[g * s.capacity + t];
                        mean[g][i].odd += value.odd * p[g * s.capacity + t];
                    }
                }
            for (long g = 0; g < G; g++)
                for (long i = 0; i < D / LANES; i++) {
                    mean[g][i].even /= total[g], mean[g][i].odd /= total[g];
                    store_pair(s.out + (pair * G + g) * D + i * LANES, mean[g][i]);
                }
        }
}

template <class T, long D>
static auto attend_with(long group) {  // queries in registers need their number at compile time
    switch (group) {
        case 1: return attend<T, D, 1>;
        case 2: return attend<T, D, 2>;
        case 3: return attend<T, D, 3>;
        case 4: return attend<T, D, 4>;
        case 5: return attend<T, D, 5>;
        case 6: return attend<T, D, 6>;
        case 7: return attend<T, D, 7>;
        default: return attend<T, D, 8>;
    }
}

// -- What Python calls, once for each type -----------------------------------------------------------------------------

#define FOR(T)                                                                                                        \
    extern "C" void rms_norm_##T(const T* x, const T* w, T* out, float* r, long rows, long width, float epsilon,      \
                                 float offset) {                                                                      \
        rms_norm(x, w, out, r, rows, width, epsilon, offset);                                                         \
    }                                                                                                                 \
    extern "C" void rms_norm_backward_##T(const T* x, const T* w, const float* r, const T* dy, T* dx, float* parts,   \
                                          long rows, long width, long chunk, float offset) {                          \
        rms_norm_backward(x, w, r, dy, dx, parts, rows, width, chunk, offset);                                        \
    }                                                                                                                 \
    extern "C" void rotate_##T(const T* x, const T* cosine, const T* sine, T* out, long tokens, long heads,           \
                               long width, float s) {                                                                 \
        rotate(x, cosine, sine, out, tokens, heads, width, s);                                                        \
    }                                                                                                                 \
    extern "C" void swiglu_##T(const T* gate, const T* up, T* out, long rows, long width) {                           \
        swiglu(gate, up, out, rows, width);                                                                           \
    }                                                                                                                 \
    extern "C" void swiglu_backward_##T(const T* gate, const T* up, const T* dy, T* dgate, T* dup, long rows,         \
                                        long width) {                                                                 \
        swiglu_backward(gate, up, dy, dgate, dup, rows, width);                                                       \
    }                                                                                                                 \
    extern "C" void attend_##T(const T* q, const T* new_k, const T* new_v, T* k, T* v, T* out, const int64_t* lengths, \
                               float* scratch, long rows, long kv_heads, long group, long width, long capacity,       \
                               long window, float scale, float softcap) {                                             \
        Step<T> step{q, new_k, new_v, k, v, out, lengths, scratch, rows, kv_heads, capacity, window, scale, softcap}; \
        (width == 64 ? attend_with<T, 64>(group) : attend_with<T, 128>(group))(step);                                 \
    }
FOR(bf16)
FOR(float)
