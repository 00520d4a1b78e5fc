// Convolutions with fewer multiplications, of channels-last bfloat16: sums of inputs times sums of taps, which make two
// neighbouring outputs of four products instead of six, along each axis; behind a doubling, of three.
//
// Sums are taken in float32: those of inputs are rounded once, those of products not before the result.
// Source: Lavin and Gray 2016 (arXiv 1509.09308), section 4.
#include <stdlib.h>

#include "team.h"
#include "vector.h"

// Tiles of a block, whose sums lie in the cache together while all outputs are made of them: few where these are many,
// measured at 128 to 1,280 channels, but enough for the taps, which then come from farther away.
enum { BLOCK = 24, WIDE_BLOCK = 48, WIDE_CHANNELS = 1024, MOST_SUMS = 16 };

// What an axis does: nothing, pairs of outputs under three taps, or each pixel twice, under three taps.
enum { ALONE, PAIRED, DOUBLED };

typedef struct {
    const bf16 *images, *weights, *other;
    const float *bias;
    bf16 *target;
    size_t count, height, width, channels, outputs; // of images, without their margins
    size_t row_stride, image_stride;                // of images
    size_t target_row_stride, target_image_stride, other_row_stride, other_image_stride;
    float portion; // of the result that is added to `other`, where there is one
    int down, across, is_padded;
    size_t tiles_at_once, block; // set here: tiles of a block, and places for them
    int *is_short_of_memory;
} Winograd;

INLINE int inputs_of(const int kind) { return kind == PAIRED ? 4 : kind == DOUBLED ? 3 : 1; }
INLINE int outputs_of(const int kind) { return kind == ALONE ? 1 : 2; }
INLINE size_t tiles_along(const int kind, size_t length) { return kind == PAIRED ? (length + 1) / 2 : length; }

// The sums of inputs along one axis, in place; entries are `step` apart.
INLINE void sum_inputs(const int kind, __m512 *x, const int step) {
    if (kind == PAIRED) {
        const __m512 d0 = x[0], d1 = x[step], d2 = x[2 * step], d3 = x[3 * step];
        x[0] = _mm512_sub_ps(d0, d2);
        x[step] = _mm512_add_ps(d1, d2);
        x[2 * step] = _mm512_sub_ps(d2, d1);
        x[3 * step] = _mm512_sub_ps(d3, d1);
    } else if (kind == DOUBLED) {
        x[0] = _mm512_sub_ps(x[0], x[step]);
        x[2 * step] = _mm512_sub_ps(x[2 * step], x[step]);
    }
}

// The two outputs of the products along one axis, in place.
INLINE void sum_products(const int kind, __m512 *m, const int step) {
    if (kind == PAIRED) {
        const __m512 sum = _mm512_add_ps(m[step], m[2 * step]), difference = _mm512_sub_ps(m[step], m[2 * step]);
        m[0] = _mm512_add_ps(m[0], sum);
        m[step] = _mm512_add_ps(m[3 * step], difference);
    } else if (kind == DOUBLED) {
        m[0] = _mm512_add_ps(m[0], m[step]);
        m[step] = _mm512_add_ps(m[step], m[2 * step]);
    }
}

typedef struct {
    size_t image, row, column; // of the first output's pixel among inputs
} Tile;

INLINE Tile tile_at(const int down, const int across, const Winograd *job, size_t index) {
    const size_t wide = tiles_along(across, job->width), area = wide * tiles_along(down, job->height);
    const size_t within = index % area;
    return (Tile){index / area, within / wide * (down == PAIRED ? 2 : 1), within % wide * (across == PAIRED ? 2 : 1)};
}

// The sums of a tile's inputs: [sum][tile of the block][channel].
INLINE void take_tile(const int down, const int across, const Winograd *job, Tile tile, size_t place, bf16 *sums) {
    const int tall = inputs_of(down), wide = inputs_of(across);
    const size_t above = down != ALONE, before = across != ALONE; // rows and columns of margin
    const bf16 *from[4][4];
    const bf16 *image = job->images + tile.image * job->image_stride;
    for (int v = 0; v < tall; v++)
        for (int u = 0; u < wide; u++) {
            const size_t row = tile.row + v, column = tile.column + u; // in an image with its margins
            const size_t low_row = job->is_padded ? 0 : above, low_column = job->is_padded ? 0 : before;
            const size_t rows = job->height + (job->is_padded ? 2 * above : 0);
            const size_t columns = job->width + (job->is_padded ? 2 * before : 0);
            const int is_inside =
                row >= low_row && row - low_row < rows && column >= low_column && column - low_column < columns;
            from[v][u] =
                is_inside ? image + (row - low_row) * job->row_stride + (column - low_column) * job->channels : NULL;
        }
    for (size_t channel = 0; channel < job->channels; channel += LANES) {
        const __mmask16 which = first(job->channels - channel);
        __m512 x[MOST_SUMS];
        EACH (v, tall)
            EACH (u, wide)
                x[v * wide + u] = from[v][u] == NULL ? _mm512_setzero_ps() : read_half(from[v][u] + channel, which);
        EACH (v, tall) sum_inputs(across, x + v * wide, 1);
        EACH (u, wide) sum_inputs(down, x + u, wide);
        EACH (i, tall * wide) write_half(sums + (i * job->block + place) * job->channels + channel, which, x[i]);
    }
}

// The products of all sums of a block with those of a panel's taps: [sum][tile of the block][output].
static void multiply_block(const Winograd *job, size_t sums, size_t tiles, size_t output, const bf16 *inputs,
                           float *products) {
    const size_t groups = at_most(PANEL, job->outputs - output) / LANES, pairs = job->channels / 2;
    const bf16 *weights = job->weights + output * sums * job->channels;
    for (size_t sum = 0; sum < sums; sum++, weights += LANES * groups * job->channels)
        for (size_t tile = 0; tile < tiles; tile += TILE) {
            const bf16 *rows[TILE];
            for (size_t i = 0; i < TILE; i++)
                rows[i] = inputs + (sum * job->block + at_most(tile + i, tiles - 1)) * job->channels;
            float *into = products + (sum * job->block + tile) * PANEL;
            switch (groups) {
            case 1: products_of(1, rows, weights, pairs, into, PANEL); break;
            case 2: products_of(2, rows, weights, pairs, into, PANEL); break;
            case 3: products_of(3, rows, weights, pairs, into, PANEL); break;
            default: products_of(4, rows, weights, pairs, into, PANEL);
            }
        }
}

// The outputs of a tile, from the products, with bias and what they are added to.
INLINE void leave_tile(const int down, const int across, const Winograd *job, Tile tile, size_t place, size_t output,
                       const float *products) {
    const int tall = inputs_of(down), wide = inputs_of(across), high = outputs_of(down), broad = outputs_of(across);
    const size_t width = at_most(PANEL, job->outputs - output);
    const size_t grown_down = down == DOUBLED ? 2 : 1, grown_across = across == DOUBLED ? 2 : 1;
    const size_t row = tile.row * grown_down, column = tile.column * grown_across;
    const size_t rows = job->height * grown_down, columns = job->width * grown_across;
    const __m512 portion = _mm512_set1_ps(job->portion);
    for (size_t group = 0; group < width; group += LANES) {
        __m512 m[MOST_SUMS];
        EACH (i, tall * wide) m[i] = _mm512_loadu_ps(products + (i * job->block + place) * PANEL + group);
        EACH (v, tall) sum_products(across, m + v * wide, 1);
        EACH (u, broad) sum_products(down, m + u, wide);
        const __m512 bias = _mm512_loadu_ps(job->bias + output + group);
        EACH (v, high)
            EACH (u, broad) {
                if (row + v >= rows || column + u >= columns) continue;
                __m512 made = _mm512_add_ps(m[v * wide + u], bias);
                if (job->other != NULL) {
                    const bf16 *other =
                        job->other + tile.image * job->other_image_stride + (row + v) * job->other_row_stride;
                    made = _mm512_fmadd_ps(made, portion,
                                           read_half(other + (column + u) * job->outputs + output + group, ALL));
                }
                bf16 *into = job->target + tile.image * job->target_image_stride + (row + v) * job->target_row_stride;
                write_half(into + (column + u) * job->outputs + output + group, ALL, made);
            }
    }
}

INLINE void do_block(const int down, const int across, const Winograd *job, size_t from, size_t tiles, bf16 *inputs,
                     float *products) {
    for (size_t i = 0; i < tiles; i++) take_tile(down, across, job, tile_at(down, across, job, from + i), i, inputs);
    for (size_t output = 0; output < job->outputs; output += PANEL) {
        multiply_block(job, inputs_of(down) * inputs_of(across), tiles, output, inputs, products);
        for (size_t i = 0; i < tiles; i++)
            leave_tile(down, across, job, tile_at(down, across, job, from + i), i, output, products);
    }
}

static size_t all_tiles(const Winograd *job) {
    return job->count * tiles_along(job->down, job->height) * tiles_along(job->across, job->width);
}

static void do_blocks(const void *all, size_t from, size_t to) {
    const Winograd *job = all;
    const size_t sums = inputs_of(job->down) * inputs_of(job->across), tiles = all_tiles(job);
    float *products = malloc(sums * job->block * (sizeof(float) * PANEL + sizeof(bf16) * job->channels));
    if (products == NULL) {
        *job->is_short_of_memory = 1;
        return;
    }
    bf16 *inputs = (bf16 *)(products + sums * job->block * PANEL);
    for (size_t unit = from; unit < to; unit++) {
        const size_t start = unit * job->tiles_at_once;
        if (start >= tiles) break;
        const size_t some = at_most(job->tiles_at_once, tiles - start);
        if (job->down == DOUBLED) do_block(DOUBLED, DOUBLED, job, start, some, inputs, products);
        else if (job->across == PAIRED) do_block(PAIRED, PAIRED, job, start, some, inputs, products);
        else do_block(PAIRED, ALONE, job, start, some, inputs, products);
    }
    free(products);
}

// 0, or 1 where memory is short.
EXPORT int stillmotion_convolve_in_sums(const Winograd *asked, unsigned threads) {
    Winograd job = *asked;
    int is_short_of_memory = 0;
    job.is_short_of_memory = &is_short_of_memory;
    // As many blocks as make the threads' work come out even.
    const size_t most = (job.channels < WIDE_CHANNELS ? BLOCK : WIDE_BLOCK) * threads, tiles = all_tiles(asked);
    const size_t blocks = (tiles + most - 1) / most * threads;
    if (tiles == 0) return 0;
    job.tiles_at_once = (tiles + blocks - 1) / blocks;
    job.block = (job.tiles_at_once + TILE - 1) / TILE * TILE;
    share((tiles + job.tiles_at_once - 1) / job.tiles_at_once, threads, do_blocks, &job);
    return is_short_of_memory;
}
