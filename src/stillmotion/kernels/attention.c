// Attention of bfloat16 queries over keys and values, with scores and sums in float32: the weights of values alone are
// rounded. The scores of a few queries over all keys are held at once, never those of all.
#include <stdlib.h>
#include <string.h>

#include "team.h"
#include "vector.h"

enum { TILES_AT_ONCE = 4, QUERIES = TILE * TILES_AT_ONCE };

typedef struct {
    const bf16 *queries, *keys, *values;
    bf16 *target;
    size_t rows, heads, tokens, width; // `width` of a head: a multiple of 16 up to 64
    size_t token_stride, row_stride;   // of queries, keys and values alike; heads lie side by side
    size_t target_token_stride, target_row_stride;
    float scale; // of scores
    int *is_short_of_memory;
} Attention;

// Keys as columns of pairs, in panels: [keys / 64][pair][key][2], zeros behind the last.
static void lay_keys(const Attention *job, const bf16 *keys, size_t padded, size_t panel, bf16 *laid) {
    const size_t pairs = job->width / 2;
    uint32_t *columns = (uint32_t *)laid;
    for (size_t key = 0; key < padded; key++) {
        uint32_t *column = columns + key / panel * panel * pairs + key % panel;
        const uint32_t *from = (const uint32_t *)(keys + key * job->token_stride);
        for (size_t pair = 0; pair < pairs; pair++) column[pair * panel] = key < job->tokens ? from[pair] : 0;
    }
}

// Values as pairs of tokens: [token / 2][channel][2].
static void lay_values(const Attention *job, const bf16 *values, size_t padded, bf16 *laid) {
    for (size_t token = 0; token < padded; token += 2)
        for (size_t channel = 0; channel < job->width; channel += LANES, laid += 2 * LANES) {
            const bf16 *one = values + token * job->token_stride + channel, *two = one + job->token_stride;
            const __m256i none = _mm256_setzero_si256();
            const __m256i low = token < job->tokens ? _mm256_loadu_si256((const __m256i *)one) : none;
            const __m256i high = token + 1 < job->tokens ? _mm256_loadu_si256((const __m256i *)two) : none;
            const __m512i both =
                _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
            _mm512_storeu_si512(laid, both);
        }
}

INLINE void mix(const int groups, const bf16 *const *weight, const bf16 *values, size_t pairs, const float *share,
                bf16 *target, size_t stride, size_t rows) {
    __m512 sums[TILE][4];
    EACH (i, TILE)
        EACH (j, groups) sums[i][j] = _mm512_setzero_ps();
    multiply(TILE, groups, sums, weight, values, pairs);
    EACH (i, TILE) {
        if ((size_t)i >= rows) break;
        const __m512 portion = _mm512_set1_ps(share[i]);
        EACH (j, groups) write_half(target + i * stride + LANES * j, ALL, _mm512_mul_ps(sums[i][j], portion));
    }
}

// Softmax of one query's scores, in place as bfloat16 from the row's beginning; 1 over their sum is returned.
static float soften(float *scores, size_t tokens, size_t padded, float scale) {
    __m512 most = _mm512_set1_ps(-__builtin_inff());
    for (size_t key = 0; key < tokens; key += LANES)
        most = _mm512_mask_max_ps(most, first(tokens - key), most, _mm512_loadu_ps(scores + key));
    const __m512 by = _mm512_set1_ps(scale * LOG2_E),
                 top = _mm512_set1_ps(_mm512_reduce_max_ps(most) * (scale * LOG2_E));
    __m512 sum = _mm512_setzero_ps();
    bf16 *weights = (bf16 *)scores;
    for (size_t key = 0; key < padded; key += LANES) {
        const __mmask16 which = key < tokens ? first(tokens - key) : 0;
        const __m512 weight =
            _mm512_maskz_mov_ps(which, power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + key), by, top)));
        sum = _mm512_add_ps(sum, weight);
        write_half(weights + key, ALL, weight);
    }
    return 1 / _mm512_reduce_add_ps(sum);
}

// Queries from `from` on of one head, up to QUERIES of them.
static void attend(const Attention *job, const bf16 *queries, const bf16 *keys, const bf16 *values, size_t from,
                   size_t padded, size_t panel, float *scores, bf16 *target) {
    const size_t count = at_most(QUERIES, job->tokens - from), tiles = (count + TILE - 1) / TILE;
    const bf16 *rows[QUERIES];
    float share_of[QUERIES];
    for (size_t i = 0; i < tiles * TILE; i++)
        rows[i] = queries + at_most(from + i, job->tokens - 1) * job->token_stride;
    for (size_t key = 0; key < padded; key += panel)
        for (size_t tile = 0; tile < tiles; tile++) {
            float *into = scores + tile * TILE * padded + key;
            const bf16 *const *some = rows + tile * TILE;
            const bf16 *columns = keys + key * job->width;
            if (panel == PANEL) products_of(4, some, columns, job->width / 2, into, padded);
            else products_of(1, some, columns, job->width / 2, into, padded);
        }
    for (size_t i = 0; i < tiles * TILE; i++) {
        share_of[i] = soften(scores + i * padded, job->tokens, padded, job->scale);
        rows[i] = (const bf16 *)(scores + i * padded);
    }
    for (size_t tile = 0; tile < tiles; tile++) {
        bf16 *into = target + (from + tile * TILE) * job->target_token_stride;
        const size_t left = at_most(TILE, count - tile * TILE), stride = job->target_token_stride;
        const bf16 *const *weights = rows + tile * TILE;
        const float *portions = share_of + tile * TILE;
        switch (job->width / LANES) {
        case 1: mix(1, weights, values, padded / 2, portions, into, stride, left); break;
        case 2: mix(2, weights, values, padded / 2, portions, into, stride, left); break;
        case 3: mix(3, weights, values, padded / 2, portions, into, stride, left); break;
        default: mix(4, weights, values, padded / 2, portions, into, stride, left);
        }
    }
}

static void do_heads(const void *all, size_t from, size_t to) {
    const Attention *job = all;
    const size_t panel = job->tokens <= LANES ? LANES : PANEL, padded = (job->tokens + panel - 1) / panel * panel;
    bf16 *keys = malloc((sizeof(bf16) * 2 * job->width + sizeof(float) * QUERIES) * padded);
    if (keys == NULL) {
        *job->is_short_of_memory = 1;
        return;
    }
    bf16 *values = keys + padded * job->width;
    float *scores = (float *)(values + padded * job->width);
    for (size_t unit = from; unit < to; unit++) {
        const size_t offset = unit / job->heads * job->row_stride + unit % job->heads * job->width;
        bf16 *target = job->target + unit / job->heads * job->target_row_stride + unit % job->heads * job->width;
        lay_keys(job, job->keys + offset, padded, panel, keys);
        lay_values(job, job->values + offset, padded, values);
        for (size_t query = 0; query < job->tokens; query += QUERIES)
            attend(job, job->queries + offset, keys, values, query, padded, panel, scores, target);
    }
    free(keys);
}

// 0, or 1 where memory is short.
EXPORT int stillmotion_attend(const Attention *asked, unsigned threads) {
    Attention job = *asked;
    int is_short_of_memory = 0;
    job.is_short_of_memory = &is_short_of_memory;
    share(job.rows * job.heads, threads, do_heads, &job);
    return is_short_of_memory;
}
