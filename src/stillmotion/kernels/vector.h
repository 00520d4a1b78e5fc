// Sixteen numbers at a time: bfloat16 in memory, float32 in registers (AVX-512 with its bfloat16 extension).
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define UNROLLED _Pragma("clang loop unroll(full)")
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

// Numbers of a vector, all of them as a mask, and outputs whose weights lie together.
enum { LANES = 16, ALL = 0xffff, PANEL = 64 };

INLINE size_t at_most(size_t a, size_t b) { return a < b ? a : b; }

INLINE __mmask16 first(size_t count) { return (__mmask16)(count >= LANES ? 0xffff : (1u << count) - 1); }

INLINE __m512 widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

// To the nearest, ties to even.
INLINE __m256i narrowed(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

INLINE __m512 read_half(const bf16 *from, __mmask16 which) { return widened(_mm256_maskz_loadu_epi16(which, from)); }

INLINE void write_half(bf16 *to, __mmask16 which, __m512 x) { _mm256_mask_storeu_epi16(to, which, narrowed(x)); }

// e^x to about 2e-7 of it; 0 and infinity far out.
INLINE __m512 exponential(__m512 x) {
    const __m512 doublings = _mm512_mul_ps(x, _mm512_set1_ps(1.4426950409f));
    const __m512 whole = _mm512_roundscale_ps(doublings, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(doublings, whole);
    // 2^rest within half a unit, by the terms (ln 2)^k / k! of its series, the last two fitted to that range.
    __m512 power = _mm512_set1_ps(1.3333558e-3f);
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(9.6181291e-3f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(5.5504109e-2f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(2.4022651e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(6.9314718e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

// x / (1 + e^-x), to 6e-5 of it: a thirtieth of bfloat16's rounding.
INLINE __m512 silu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 fall = exponential(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(one, fall)));
}

// x Phi(x), to 6e-5 of it or 2e-7. Source of the polynomial: Abramowitz and Stegun 1964, 7.1.26.
INLINE __m512 gelu(__m512 x) {
    const __m512 size = _mm512_abs_ps(x), z = _mm512_mul_ps(size, _mm512_set1_ps(0.70710678f));
    const __m512 t = _mm512_rcp14_ps(_mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), _mm512_set1_ps(1.0f)));
    __m512 sum = _mm512_set1_ps(1.061405429f);
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-1.453152027f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(1.421413741f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.284496736f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.254829592f));
    const __m512 bell = exponential(_mm512_fnmadd_ps(z, z, _mm512_setzero_ps()));
    const __m512 beyond = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(sum, t), bell), _mm512_set1_ps(0.5f));
    const __mmask16 is_negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    return _mm512_mask_blend_ps(is_negative, _mm512_fnmadd_ps(size, beyond, size), _mm512_mul_ps(x, beyond));
}

// Sums of products of pairs: `rows` rows of pairs times columns of them, 16 columns a lane group.
// sums[i][j] += row i . columns 16 j to 16 j + 15, whose pairs lie as [pair][16 groups][2].
INLINE void multiply(const int rows, const int groups, __m512 sums[][4], const bf16 *const *row, const bf16 *columns,
                     size_t pairs) {
    const bf16 *start[6];
    UNROLLED for (int i = 0; i < rows; i++) start[i] = row[i];
    for (size_t pair = 0; pair < pairs; pair++, columns += 2 * LANES * groups) {
        __m512bh column[4];
        UNROLLED for (int j = 0; j < groups; j++) column[j] = (__m512bh)_mm512_loadu_si512(columns + 2 * LANES * j);
        UNROLLED for (int i = 0; i < rows; i++) {
            const __m512bh both = (__m512bh)_mm512_set1_epi32(*(const int32_t *)(start[i] + 2 * pair));
            UNROLLED for (int j = 0; j < groups; j++) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], both, column[j]);
        }
    }
}
