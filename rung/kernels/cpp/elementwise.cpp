// RMSNorm, rotary embedding and SwiGLU, forward and backward, one pass over memory each. native.py compiles and calls them.
//
// Rows are independent and each is summed in one order, so a result depends neither on the number of threads nor on what
// stands beside a row. Loops are written for the compiler to turn into vectors of whatever width the processor has.
#include "numbers.h"

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
    }
FOR(bf16)
FOR(float)
