// Sixteen numbers at a time: bfloat16 in memory, float32 in registers (AVX-512 with its bfloat16 extension).
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

// Loops over constants, written out by the compiler, so that what they go over stays in registers.
#define UNROLLED _Pragma("clang loop unroll(full)")
#define EACH(index, count) UNROLLED for (int index = 0; index < (count); index++)
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

// Numbers of a vector, all of them as a mask; rows of a tile, and outputs whose weights lie together. A tile's 24 sums
// stay in registers.
enum { LANES = 16, ALL = 0xffff, TILE = 6, PANEL = 64 };

INLINE size_t at_most(size_t a, size_t b) { return a < b ? a : b; }

INLINE __mmask16 first(size_t count) { return (__mmask16)(count >= LANES ? 0xffff : (1u << count) - 1); }

// Those of a vector that begins at `at`, of `count` numbers.
INLINE __mmask16 behind(size_t count, size_t at) { return at < count ? first(count - at) : 0; }

INLINE __m512 widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

#define LOG2_E 1.4426950409f

// To the nearest, ties to even.
INLINE __m256i narrowed(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

INLINE __m512 read_half(const bf16 *from, __mmask16 which) { return widened(_mm256_maskz_loadu_epi16(which, from)); }

INLINE void write_half(bf16 *to, __mmask16 which, __m512 x) { _mm256_mask_storeu_epi16(to, which, narrowed(x)); }

// 2^x to 3e-6 of it, a five hundredth of bfloat16's rounding; 0 and infinity far out.
INLINE __m512 power_of_two(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, whole);
    // The polynomial of fourth degree with the least relative error within half a unit.
    __m512 power = _mm512_set1_ps(0.0095701f);
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.05591786f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.24024745f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.69312181f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.99999926f));
    return _mm512_scalef_ps(power, whole);
}

// x / (1 + e^-x), to 7e-5 of it: a thirtieth of bfloat16's rounding.
INLINE __m512 silu(__m512 x) {
    const __m512 fall = power_of_two(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(fall, _mm512_set1_ps(1.0f))));
}

// x Phi(x), to 7e-5 of it or 2e-7: x where it is positive, less |x| Phi(-|x|).
// Source of the polynomial: Abramowitz and Stegun 1964, 7.1.26, here of |x| / sqrt 2 and halved.
INLINE __m512 gelu(__m512 x) {
    const __m512 size = _mm512_abs_ps(x);
    const __m512 t = _mm512_rcp14_ps(_mm512_fmadd_ps(size, _mm512_set1_ps(0.23164190f), _mm512_set1_ps(1.0f)));
    __m512 sum = _mm512_set1_ps(0.5307027145f);
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.7265760135f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.7107068705f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.142248368f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.127414796f));
    const __m512 bell = power_of_two(_mm512_mul_ps(_mm512_mul_ps(size, size), _mm512_set1_ps(-0.5f * LOG2_E)));
    const __m512 beyond = _mm512_mul_ps(_mm512_mul_ps(sum, t), bell);
    return _mm512_fnmadd_ps(size, beyond, _mm512_max_ps(x, _mm512_setzero_ps()));
}

// Sums of products of pairs: `rows` rows of pairs times columns of them, 16 columns a lane group.
// sums[i][j] += row i . columns 16 j to 16 j + 15, whose pairs lie as [pair][16 groups][2].
INLINE void multiply(const int rows, const int groups, __m512 sums[][4], const bf16 *const *row, const bf16 *columns,
                     size_t pairs) {
    const bf16 *start[TILE];
    EACH (i, rows) start[i] = row[i];
    for (size_t pair = 0; pair < pairs; pair++, columns += 2 * LANES * groups) {
        __m512bh column[4];
        EACH (j, groups) column[j] = (__m512bh)_mm512_loadu_si512(columns + 2 * LANES * j);
        EACH (i, rows) {
            const __m512bh both = (__m512bh)_mm512_set1_epi32(*(const int32_t *)(start[i] + 2 * pair));
            EACH (j, groups) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], both, column[j]);
        }
    }
}

// The same of a whole tile, from zero, into rows of float32 that are `stride` apart.
INLINE void products_of(const int groups, const bf16 *const *row, const bf16 *columns, size_t pairs, float *into,
                        size_t stride) {
    __m512 sums[TILE][4];
    EACH (i, TILE)
        EACH (j, groups) sums[i][j] = _mm512_setzero_ps();
    multiply(TILE, groups, sums, row, columns, pairs);
    EACH (i, TILE)
        EACH (j, groups) _mm512_storeu_ps(into + i * stride + LANES * j, sums[i][j]);
}
