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

// The sums of taps of one output and one channel.
INLINE __m256i summed(const Packing *job, const bf16 *taps) {
    __m512 sums = _mm512_setzero_ps();
    for (size_t tap = 0; tap < job->taps; tap++) {
        const __m512 weight = _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)((uint32_t)taps[tap] << 16)));
        sums = _mm512_fmadd_ps(weight, _mm512_loadu_ps(job->sums + LANES * tap), sums);
    }
    return narrowed(sums);
}

static void do_panels(const void *all, size_t from, size_t to) {
    const Packing *job = all;
    const size_t half = PANEL / 2;
    for (size_t panel = from; panel < to; panel++) {
        const size_t width = at_most(PANEL, job->outputs - panel * PANEL), tap_stride = job->channels * width;
        bf16 *target = job->target + panel * PANEL * job->laid_taps * job->channels;
        for (size_t channel = 0; channel < job->channels; channel++)
            for (size_t output = 0; output < width; output++) {
                size_t row = panel * PANEL + output;
                if (job->is_gated)
                    row = output < half ? panel * half + output : job->outputs / 2 + panel * half + output - half;
                bf16 sums[LANES];
                _mm256_storeu_si256((__m256i *)sums, summed(job, job->weight + (row * job->channels + channel) * job->taps));
                bf16 *into = target + (channel / 2 * width + output) * 2 + channel % 2;
                for (size_t tap = 0; tap < job->laid_taps; tap++) into[tap * tap_stride] = sums[tap];
            }
    }
}

EXPORT int stillmotion_pack(const Packing *job, unsigned threads) {
    share((job->outputs + PANEL - 1) / PANEL, threads, do_panels, job);
    return 0;
}
