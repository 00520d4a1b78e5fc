// Convolutions, and products as those of one tap, of channels-last bfloat16 with sums in float32.
//
// A tile is 6 pixels by 64 outputs, whose 24 sums stay in registers while all taps and channels pass by. The weights of
// 64 outputs, a panel, stay in the second cache while all pixels pass by.
#include "team.h"
#include "vector.h"

enum { MOST_TAPS = 9, NEAR_BYTES = 1 << 18 };

// What becomes of a sum: itself, with `other` in its place plus `portion` times it, or one half of outputs times GELU
// of the other half, which lie in each panel as 32 and 32.
enum { PLAIN, ADDED, GATED };

typedef struct {
    const bf16 *images, *weights, *other;
    const float *bias;
    bf16 *target;
    size_t count, height, width, channels; // of images; a product has one of one row
    size_t made_height, made_width;        // of what becomes of an image
    size_t taps_down, taps_across, outputs;
    size_t stride;        // from one output to the next, in pixels of the image
    size_t above, before; // how far beyond the image the first output's taps begin
    size_t pixel_stride, row_stride, image_stride; // of images
    size_t target_stride, target_image_stride;     // from one pixel to the next; rows lie one behind the other
    size_t other_stride, other_image_stride;
    float portion;
    int how;
} Convolution;

INLINE size_t pixels_of(const Convolution *job) { return job->count * job->made_height * job->made_width; }

// Where the pixels of a tile are read under each tap, written, and where what is added to them lies.
typedef struct {
    const bf16 *images[MOST_TAPS][TILE], *other[TILE];
    bf16 *target[TILE];
} Places;

INLINE void write_tile(const int rows, const int groups, const Convolution *job, const Places *places,
                       __m512 sums[][4]) {
    if (job->how == GATED) {
        EACH (i, rows)
            EACH (j, groups / 2)
                write_half(places->target[i] + LANES * j, ALL,
                           _mm512_mul_ps(sums[i][j], gelu(sums[i][j + groups / 2])));
        return;
    }
    const __m512 portion = _mm512_set1_ps(job->portion);
    EACH (i, rows)
        EACH (j, groups) {
            __m512 sum = sums[i][j];
            if (job->how == ADDED) sum = _mm512_fmadd_ps(sum, portion, read_half(places->other[i] + LANES * j, ALL));
            write_half(places->target[i] + LANES * j, ALL, sum);
        }
}

INLINE void do_tile(const int rows, const int groups, const Convolution *job, const Places *places, size_t output) {
    const size_t taps = job->taps_down * job->taps_across;
    const bf16 *weights = job->weights + output * taps * job->channels;
    __m512 sums[TILE][4];
    EACH (j, groups) {
        const __m512 bias = _mm512_loadu_ps(job->bias + output + LANES * j);
        EACH (i, rows) sums[i][j] = bias;
    }
    for (size_t tap = 0; tap < taps; tap++) {
        multiply(rows, groups, sums, places->images[tap], weights, job->channels / 2);
        weights += (size_t)LANES * groups * job->channels;
    }
    write_tile(rows, groups, job, places, sums);
}

static void tile_of(const Convolution *job, size_t rows, size_t groups, const Places *places, size_t output) {
#define ROWS(r)                                                                                                        \
    case r:                                                                                                            \
        if (groups == 4) do_tile(r, 4, job, places, output);                                                           \
        else if (groups == 3) do_tile(r, 3, job, places, output);                                                      \
        else if (groups == 2) do_tile(r, 2, job, places, output);                                                      \
        else do_tile(r, 1, job, places, output);                                                                       \
        return;
    switch (rows) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) }
#undef ROWS
}

// Beyond the border of an image its taps read zeros.
static void find_places(const Convolution *job, const bf16 *zeros, size_t pixel, size_t rows, size_t output,
                        Places *places) {
    const size_t area = job->made_height * job->made_width, across = job->taps_across;
    const size_t taps = job->taps_down * across;
    size_t image = pixel / area, within = pixel % area;
    size_t y = within / job->made_width, x = within % job->made_width;
    for (size_t i = 0; i < rows; i++) {
        const bf16 *from = job->images + image * job->image_stride;
        for (size_t tap = 0, down = 0, right = 0; tap < taps; tap++) {
            // Before the first row or column these wrap around, to more than any image has.
            const size_t row = y * job->stride + down - job->above, column = x * job->stride + right - job->before;
            const int is_inside = row < job->height && column < job->width;
            places->images[tap][i] = is_inside ? from + row * job->row_stride + column * job->pixel_stride : zeros;
            if (++right == across) right = 0, down++;
        }
        places->target[i] = job->target + image * job->target_image_stride + within * job->target_stride + output;
        places->other[i] = job->other + image * job->other_image_stride + within * job->other_stride + output;
        within++;
        if (++x == job->made_width) x = 0, y++;
        if (y == job->made_height) y = 0, within = 0, image++;
    }
}

// The lines that a tile reads or writes once it is summed come nearer while it is being summed.
INLINE void fetch_tile(const Convolution *job, const Places *places, size_t rows, size_t width) {
    for (size_t i = 0; i < rows; i++)
        for (size_t output = 0; output < width; output += 2 * LANES) {
            __builtin_prefetch(places->target[i] + output, 1);
            if (job->how == ADDED) __builtin_prefetch(places->other[i] + output, 0);
        }
}

// As many as any pixel has channels; `stillmotion_most_channels` says how many.
static const bf16 ZEROS[1 << 14];

// Units of work: a tile under a panel. Pixels whose channels fill a quarter of the second cache stay there while all
// panels pass by, and a panel while all tiles of these pixels do.
static void find_unit(const Convolution *job, size_t unit, size_t *pixel, size_t *output) {
    const size_t tiles = (pixels_of(job) + TILE - 1) / TILE;
    const size_t panels = (job->outputs + PANEL - 1) / PANEL;
    const size_t wanted = NEAR_BYTES / (sizeof(bf16) * TILE * job->channels), most = wanted < 4 ? 4 : wanted;
    const size_t block = unit / (most * panels), rest = unit - block * most * panels;
    const size_t some = at_most(most, tiles - block * most);
    *pixel = (block * most + rest % some) * TILE;
    *output = rest / some * PANEL;
}

static void do_tiles(const void *all, size_t from, size_t to) {
    const Convolution *job = all;
    const size_t pixels = pixels_of(job);
    const size_t halves = job->how == GATED ? 2 : 1; // of a panel, that make one output
    Places places;
    for (size_t unit = from; unit < to; unit++) {
        size_t pixel, output;
        find_unit(job, unit, &pixel, &output);
        const size_t rows = at_most(TILE, pixels - pixel), width = at_most(PANEL, job->outputs - output);
        find_places(job, ZEROS, pixel, rows, output / halves, &places);
        fetch_tile(job, &places, rows, width / halves);
        tile_of(job, rows, width / LANES, &places, output);
    }
}

EXPORT int stillmotion_convolve(const Convolution *job, unsigned threads) {
    const size_t tiles = (pixels_of(job) + TILE - 1) / TILE;
    share(tiles * ((job->outputs + PANEL - 1) / PANEL), threads, do_tiles, job);
    return 0;
}

EXPORT size_t stillmotion_most_channels(void) { return sizeof(ZEROS) / sizeof(ZEROS[0]); }
