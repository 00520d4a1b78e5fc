// Weights in the order in which products read them: [panel of 64 outputs][tap][pair of channels][output][2].
#include "team.h"
#include "vector.h"

typedef struct {
    const bf16 *weight; // [output][channel][tap]
    const float *sums;  // [tap][16]: what each tap gives to each of `laid_taps` sums of taps
    bf16 *target;
    size_t outputs, channels, taps, laid_taps;
    int is_gated; // the first half of outputs are values, the second their gates: 32 and 32 of them in a panel
} Packing;

// The sums of taps of one output and one channel, in float32.
INLINE __m512 summed(const Packing *job, const bf16 *taps) {
    __m512 sums = _mm512_setzero_ps();
    for (size_t tap = 0; tap < job->taps; tap++) {
        const __m512 weight = _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)((uint32_t)taps[tap] << 16)));
        sums = _mm512_fmadd_ps(weight, _mm512_loadu_ps(job->sums + LANES * tap), sums);
    }
    return sums;
}

// Rows become columns: of 16 vectors of 16 numbers of 32 bits.
INLINE void transpose(__m512i *x) {
    __m512i y[LANES];
    UNROLLED for (int i = 0; i < LANES; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    UNROLLED for (int i = 0; i < LANES; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    UNROLLED for (int half = 0; half < LANES; half += 8)
        EACH (i, 4) {
            y[half + i] = _mm512_shuffle_i32x4(x[half + i], x[half + i + 4], 0x88);
            y[half + i + 4] = _mm512_shuffle_i32x4(x[half + i], x[half + i + 4], 0xdd);
        }
    EACH (i, 8) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    }
}

// One pair of channels of 16 outputs: a whole line of the cache for each tap.
static void do_pair(const Packing *job, const bf16 *const *rows, size_t channel, bf16 *target, size_t tap_stride) {
    __m512i pairs[LANES];
    for (int i = 0; i < LANES; i++) {
        const bf16 *taps = rows[i] + channel * job->taps;
        const __m512i low = _mm512_cvtepu16_epi32(narrowed(summed(job, taps)));
        const __m512i high = _mm512_cvtepu16_epi32(narrowed(summed(job, taps + job->taps)));
        pairs[i] = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
    }
    transpose(pairs);
    for (size_t tap = 0; tap < job->laid_taps; tap++) _mm512_storeu_si512(target + tap * tap_stride, pairs[tap]);
}

static void do_panels(const void *all, size_t from, size_t to) {
    const Packing *job = all;
    const size_t half = PANEL / 2;
    for (size_t panel = from; panel < to; panel++) {
        const size_t width = at_most(PANEL, job->outputs - panel * PANEL), tap_stride = job->channels * width;
        bf16 *target = job->target + panel * PANEL * job->laid_taps * job->channels;
        for (size_t group = 0; group < width; group += LANES) {
            size_t row = panel * PANEL + group;
            if (job->is_gated)
                row = group < half ? panel * half + group : job->outputs / 2 + panel * half + group - half;
            const bf16 *rows[LANES];
            for (size_t i = 0; i < LANES; i++) rows[i] = job->weight + (row + i) * job->channels * job->taps;
            for (size_t channel = 0; channel < job->channels; channel += 2)
                do_pair(job, rows, channel, target + channel * width + group * 2, tap_stride);
        }
    }
}

EXPORT int stillmotion_pack(const Packing *job, unsigned threads) {
    share((job->outputs + PANEL - 1) / PANEL, threads, do_panels, job);
    return 0;
}
