// softmax(scale q k^T) v for one width of heads and one number of queries to a key, forward and backward, a token at a
// time. native.py compiles it with -DWIDTH and -DGROUP for each model that comes along.
//
// A key and a value are read once for all queries of their group, probabilities stay in float32, and no more is
// computed than is seen. Each token is summed in one order, whatever the threads and whatever stands beside it.
#include <cstdlib>

#include "numbers.h"

const long D = WIDTH, G = GROUP;

// Thirty-two values at a time, as a vector of those at even places and one of those at odd places: a bf16 is the upper
// half of a float32, so of two neighbours in a 32-bit word one is shifted up and the other is masked.
typedef float vec __attribute__((vector_size(64)));
typedef float vec_at __attribute__((vector_size(64), aligned(4), may_alias));  // somewhere in memory
typedef uint32_t word __attribute__((vector_size(64)));
typedef uint32_t word_at __attribute__((vector_size(64), aligned(2), may_alias));
const long LANES = 32;

struct Pair { vec even, odd; };

static inline Pair load_pair(const bf16* x) {
    const word both = *(const word_at*)x;
    return {(vec)(both << 16), (vec)(both & 0xffff0000u)};
}
static inline Pair load_pair(const float* x) {  // another split, which is as good: all operands are split alike
    return {*(const vec_at*)x, *(const vec_at*)(x + LANES / 2)};
}
static inline void store_pair(float* place, Pair x) {
    *(vec_at*)place = x.even;
    *(vec_at*)(place + LANES / 2) = x.odd;
}
static inline void store_pair(bf16* place, Pair x) {
    for (long i = 0; i < LANES / 2; i++) store(place + 2 * i, x.even[i]), store(place + 2 * i + 1, x.odd[i]);
}

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

// A stretch of keys and values, `stride` numbers from one to the next, of which those before `from` are not seen.
template <class T>
struct Run {
    const T *keys, *values;
    float *dkeys, *dvalues;  // where backward adds, laid out as Pair
    long from, length;
};

template <class T>
static inline long seen_of(const Run<T>* runs, long count) {
    long seen = 0;
    for (long r = 0; r < count; r++) seen += runs[r].length - runs[r].from;
    return seen;
}

// p[g, t] = softmax over the t keys that are seen of scale q k^T, for the G queries of one token that share a key-value
// head. Queries stay in registers, which is why D and G are known here. `slope` becomes that of the
// softcap at each score, if there is one.
template <class T>
static inline void probabilities(const T* q, const Run<T>* runs, long count, long stride, float scale, float softcap,
                                 float* p, float* slope) {
    Pair query[G][D / LANES];
    for (long g = 0; g < G; g++)
#pragma GCC unroll 8
        for (long i = 0; i < D / LANES; i++) query[g][i] = load_pair(q + g * D + i * LANES);
    const long seen = seen_of(runs, count);
    for (long r = 0, place = 0; r < count; r++)
        for (long t = runs[r].from; t < runs[r].length; t++, place++) {
            vec dot[G] = {};
#pragma GCC unroll 8
            for (long i = 0; i < D / LANES; i++) {
                const Pair key = load_pair(runs[r].keys + t * stride + i * LANES);
#pragma GCC unroll 8
                for (long g = 0; g < G; g++) dot[g] += query[g][i].even * key.even + query[g][i].odd * key.odd;
            }
            for (long g = 0; g < G; g++) p[g * seen + place] = sum_of(dot[g]) * scale;
        }
    for (long g = 0; g < G; g++) {
        float *weights = p + g * seen, top = -INFINITY, sum = 0;
        if (softcap > 0)
            for (long t = 0; t < seen; t++) {
                const float squashed = tanhf(weights[t] / softcap);
                weights[t] = softcap * squashed;
                if (slope) slope[g * seen + t] = 1 - squashed * squashed;
            }
        for (long t = 0; t < seen; t++) top = weights[t] > top ? weights[t] : top;
        for (long t = 0; t < seen; t++) weights[t] = exponential(weights[t] - top);
        for (long t = 0; t < seen; t++) sum += weights[t];
        for (long t = 0; t < seen; t++) weights[t] /= sum;
    }
}

// out = p v. `p` has room for G numbers a key.
template <class T>
static inline void attend(const T* q, const Run<T>* runs, long count, long stride, float scale, float softcap, float* p,
                          T* out) {
    probabilities(q, runs, count, stride, scale, softcap, p, nullptr);
    Pair mean[G][D / LANES] = {};
    const long seen = seen_of(runs, count);
    for (long r = 0, place = 0; r < count; r++)
        for (long t = runs[r].from; t < runs[r].length; t++, place++)
#pragma GCC unroll 8
            for (long i = 0; i < D / LANES; i++) {
                const Pair value = load_pair(runs[r].values + t * stride + i * LANES);
#pragma GCC unroll 8
                for (long g = 0; g < G; g++) {
                    mean[g][i].even += value.even * p[g * seen + place];
                    mean[g][i].odd += value.odd * p[g * seen + place];
                }
            }
    for (long g = 0; g < G; g++)
#pragma GCC unroll 8
        for (long i = 0; i < D / LANES; i++) store_pair(out + g * D + i * LANES, mean[g][i]);
}

// With dp = dout v^T and ds = scale p (dp - sum p dp): dv += p dout, dk += ds q, dq = ds k. Three passes over the keys,
// each with as much in registers as there is room for. `room` is that of three times G numbers a key.
template <class T>
static inline void attend_backward(const T* q, const T* dout, const Run<T>* runs, long count, long stride, float scale,
                                   float softcap, float* room, T* dq) {
    const long seen = seen_of(runs, count);
    float *p = room, *ds = p + G * seen, *slope = softcap > 0 ? ds + G * seen : nullptr;
    probabilities(q, runs, count, stride, scale, softcap, p, slope);
    Pair of_head[G][D / LANES], sum[G][D / LANES] = {};
    for (long g = 0; g < G; g++)
#pragma GCC unroll 8
        for (long i = 0; i < D / LANES; i++) of_head[g][i] = load_pair(dout + g * D + i * LANES);
    for (long r = 0, place = 0; r < count; r++)
        for (long t = runs[r].from; t < runs[r].length; t++, place++) {
            vec dot[G] = {};
#pragma GCC unroll 8
            for (long i = 0; i < D / LANES; i++) {
                const Pair value = load_pair(runs[r].values + t * stride + i * LANES);
                Pair dvalue = load_pair(runs[r].dvalues + t * stride + i * LANES);
#pragma GCC unroll 8
                for (long g = 0; g < G; g++) {
                    dot[g] += of_head[g][i].even * value.even + of_head[g][i].odd * value.odd;
                    dvalue.even += of_head[g][i].even * p[g * seen + place];
                    dvalue.odd += of_head[g][i].odd * p[g * seen + place];
                }
                store_pair(runs[r].dvalues + t * stride + i * LANES, dvalue);
            }
            for (long g = 0; g < G; g++) ds[g * seen + place] = sum_of(dot[g]);
        }
    for (long g = 0; g < G; g++) {
        float *of_p = p + g * seen, *of_s = ds + g * seen, mean = 0;
        for (long t = 0; t < seen; t++) mean += of_p[t] * of_s[t];
        for (long t = 0; t < seen; t++) of_s[t] = scale * of_p[t] * (of_s[t] - mean);
        if (slope)
            for (long t = 0; t < seen; t++) of_s[t] *= slope[g * seen + t];
    }
    for (long g = 0; g < G; g++)
#pragma GCC unroll 8
        for (long i = 0; i < D / LANES; i++) of_head[g][i] = load_pair(q + g * D + i * LANES);
    for (long r = 0, place = 0; r < count; r++)
        for (long t = runs[r].from; t < runs[r].length; t++, place++)
#pragma GCC unroll 8
            for (long i = 0; i < D / LANES; i++) {
                const Pair key = load_pair(runs[r].keys + t * stride + i * LANES);
                Pair dkey = load_pair(runs[r].dkeys + t * stride + i * LANES);
#pragma GCC unroll 8
                for (long g = 0; g < G; g++) {
                    const float share = ds[g * seen + place];
                    sum[g][i].even += key.even * share;
                    sum[g][i].odd += key.odd * share;
                    dkey.even += of_head[g][i].even * share;
                    dkey.odd += of_head[g][i].odd * share;
                }
                store_pair(runs[r].dkeys + t * stride + i * LANES, dkey);
            }
    for (long g = 0; g < G; g++)
#pragma GCC unroll 8
        for (long i = 0; i < D / LANES; i++) store_pair(dq + g * D + i * LANES, sum[g][i]);
}

template <class T>
struct Attention {
    const T *q, *k, *v;      // [N, kv_heads G, D], [N, kv_heads, D] twice
    T* out;                  // as q
    T *cached_k, *cached_v;  // [rows, kv_heads, capacity, D] twice
    const int64_t* where;    // of a step: tokens each row holds; of documents: see below
    long count, kv_heads, capacity, longest, window;  // rows or documents; a window of 0 is none
    float scale, softcap;                             // a softcap of 0 is none
};

// A decoding step: one new token a row. Its key and value join the row's, of which it then sees all.
template <class T>
static void attend_step(Attention<T> a) {
#pragma omp parallel
    {
        float* p = (float*)malloc(sizeof(float) * G * a.longest);
#pragma omp for collapse(2) schedule(dynamic, 4)
        for (long row = 0; row < a.count; row++)
            for (long kv = 0; kv < a.kv_heads; kv++) {
                const long pair = row * a.kv_heads + kv, last = a.where[row];
                T *keys = a.cached_k + pair * a.capacity * D, *values = a.cached_v + pair * a.capacity * D;
                memcpy(keys + last * D, a.k + pair * D, D * sizeof(T));
                memcpy(values + last * D, a.v + pair * D, D * sizeof(T));
                const Run<T> run{keys, values, nullptr, nullptr, a.window && last >= a.window ? last + 1 - a.window : 0, last + 1};
                attend(a.q + pair * G * D, &run, 1, D, a.scale, a.softcap, p, a.out + pair * G * D);
            }
        free(p);
    }
}

// Documents laid end to end, `(start, length, start of its trunk, length of its trunk)` each: a token sees the trunk its
// document continues and its document up to itself. What token s of a document sees of key-value head kv:
template <class T>
static inline void runs_of(const Attention<T>& a, const int64_t* place, long s, long kv, float* dk, float* dv,
                           Run<T>* runs) {
    const long stride = a.kv_heads * D, shared = place[3];
    const long hidden = a.window && shared + s >= a.window ? shared + s + 1 - a.window : 0;
    const long at[2] = {place[2] * stride + kv * D, place[0] * stride + kv * D};
    runs[0] = {a.k + at[0], a.v + at[0], dk + at[0], dv + at[0], hidden < shared ? hidden : shared, shared};
    runs[1] = {a.k + at[1], a.v + at[1], dk + at[1], dv + at[1], hidden < shared ? 0 : hidden - shared, s + 1};
}

template <class T>
static void attend_documents(Attention<T> a) {
#pragma omp parallel
    {
        float* p = (float*)malloc(sizeof(float) * G * a.longest);
        for (long document = 0; document < a.count; document++) {
            const int64_t* place = a.where + 4 * document;
            const long start = place[0], length = place[1];
#pragma omp for collapse(2) schedule(dynamic, 16) nowait
            for (long s = 0; s < length; s++)
                for (long kv = 0; kv < a.kv_heads; kv++) {
                    Run<T> runs[2];
                    runs_of(a, place, s, kv, nullptr, nullptr, runs);
                    const long head = ((start + s) * a.kv_heads + kv) * G * D;
                    attend(a.q + head, runs, 2, a.kv_heads * D, a.scale, a.softcap, p, a.out + head);
                }
        }
        free(p);
    }
}

// Families are documents and what continues them, `(first, behind last)` in the list of places: only within a family do
// gradients of keys and values meet, and there one thread adds them in order. wide_k, wide_v: zeros, [N, kv_heads, D].
template <class T>
static void attend_documents_backward(Attention<T> a, const T* dout, T* dq, T* dk, T* dv, float* wide_k, float* wide_v,
                                      const int64_t* families, long family_count) {
#pragma omp parallel
    {
        float* room = (float*)malloc(sizeof(float) * 3 * G * a.longest);
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (long family = 0; family < family_count; family++)
            for (long kv = 0; kv < a.kv_heads; kv++) {
                for (long document = families[2 * family]; document < families[2 * family + 1]; document++) {
                    const int64_t* place = a.where + 4 * document;
                    for (long s = 0; s < place[1]; s++) {
                        Run<T> runs[2];
                        runs_of(a, place, s, kv, wide_k, wide_v, runs);
                        const long head = ((place[0] + s) * a.kv_heads + kv) * G * D;
                        attend_backward(a.q + head, dout + head, runs, 2, a.kv_heads * D, a.scale, a.softcap,
                                                 room, dq + head);
                    }
                }
                for (long document = families[2 * family]; document < families[2 * family + 1]; document++) {
                    const int64_t* place = a.where + 4 * document;
                    for (long s = place[0]; s < place[0] + place[1]; s++)
#pragma GCC unroll 8
                        for (long i = 0; i < D / LANES; i++) {
                            const long at = (s * a.kv_heads + kv) * D + i * LANES;
                            store_pair(dk + at, load_pair(wide_k + at));
                            store_pair(dv + at, load_pair(wide_v + at));
                        }
                }
            }
        free(room);
    }
}

#define FOR(T)                                                                                                        \
    extern "C" void attend_step_##T(const T* q, const T* k, const T* v, T* out, T* cached_k, T* cached_v,             \
                                    const int64_t* lengths, long rows, long kv_heads, long capacity, long window,     \
                                    float scale, float softcap) {                                                     \
        attend_step(Attention<T>{q, k, v, out, cached_k, cached_v, lengths, rows, kv_heads, capacity, capacity,       \
                                 window, scale, softcap});                                                            \
    }                                                                                                                 \
    extern "C" void attend_documents_##T(const T* q, const T* k, const T* v, T* out, const int64_t* places,           \
                                         long documents, long kv_heads, long longest, long window, float scale,       \
                                         float softcap) {                                                             \
        attend_documents(Attention<T>{q, k, v, out, nullptr, nullptr, places, documents, kv_heads, 0, longest,        \
                                      window, scale, softcap});                                                       \
    }                                                                                                                 \
    extern "C" void attend_documents_backward_##T(                                                                    \
        const T* q, const T* k, const T* v, const T* dout, T* dq, T* dk, T* dv, float* wide_k, float* wide_v,         \
        const int64_t* places, const int64_t* families, long documents, long family_count, long kv_heads,             \
        long longest, long window, float scale, float softcap) {                                                      \
        attend_documents_backward(Attention<T>{q, k, v, nullptr, nullptr, nullptr, places, documents, kv_heads, 0,    \
                                               longest, window, scale, softcap},                                      \
                                  dout, dq, dk, dv, wide_k, wide_v, families, family_count);                          \
    }
FOR(bf16)
FOR(float)
