// Means, variances, and what is scaled, shifted and activated by them: of channels-last bfloat16, in float32.
#include <stdlib.h>
#include <string.h>

#include "team.h"
#include "vector.h"

// Pixels whose sums are taken together. Sets, not threads, decide the order of sums.
enum { SET = 1024 };

typedef struct {
    const bf16 *images;
    float
        *sums; // of each set of each image: per channel the sum, and that of squares, each less the image's first pixel
    bf16 *target;
    const float *scale, *shift; // a row of channels for each image, or one for all where `affine_stride` is 0
    const bf16 *weight, *bias;  // of group norm, instead of scale and shift
    size_t count, height, width, channels, groups;
    size_t row_stride, image_stride, target_row_stride, target_image_stride, affine_stride;
    float eps;
    int is_activated;
} Norm;

INLINE size_t sets_of(const Norm *job) { return (job->height * job->width + SET - 1) / SET; }

// Sums over the pixels `from` to `to` of an image, 16 channels by 16.
static void take_sums(const Norm *job, size_t image, size_t from, size_t to, float *sums) {
    const bf16 *start = job->images + image * job->image_stride;
    for (size_t channel = 0; channel < job->channels; channel += LANES) {
        const __mmask16 which = first(job->channels - channel);
        const __m512 pivot = read_half(start + channel, which);
        __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()},
               square[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        size_t y = from / job->width, x = from % job->width;
        for (size_t left = to - from; left > 0; y++, x = 0) {
            const size_t run = at_most(left, job->width - x);
            const bf16 *pixel = start + y * job->row_stride + x * job->channels + channel;
            for (size_t i = 0; i < run; i++, pixel += job->channels) {
                const __m512 value = _mm512_sub_ps(read_half(pixel, which), pivot);
                sum[i & 1] = _mm512_add_ps(sum[i & 1], value);
                square[i & 1] = _mm512_fmadd_ps(value, value, square[i & 1]);
            }
            left -= run;
        }
        _mm512_mask_storeu_ps(sums + channel, which, _mm512_add_ps(sum[0], sum[1]));
        _mm512_mask_storeu_ps(sums + job->channels + channel, which, _mm512_add_ps(square[0], square[1]));
    }
}

static void do_sums(const void *all, size_t from, size_t to) {
    const Norm *job = all;
    const size_t sets = sets_of(job), pixels = job->height * job->width;
    for (size_t unit = from; unit < to; unit++) {
        const size_t first_pixel = unit % sets * SET;
        take_sums(job, unit / sets, first_pixel, at_most(pixels, first_pixel + SET),
                  job->sums + unit * 2 * job->channels);
    }
}

// The mean and the biased variance of a channel, of the image's sums.
static void channel_moments(const Norm *job, const float *sums, double pivot, size_t channel, double *mean,
                            double *variance) {
    const double pixels = (double)(job->height * job->width);
    double sum = 0, square = 0;
    for (size_t set = 0; set < sets_of(job); set++, sums += 2 * job->channels) {
        sum += sums[channel];
        square += sums[job->channels + channel];
    }
    const double off = sum / pixels, spread = square / pixels - off * off;
    *mean = pivot + off;
    *variance = spread > 0 ? spread : 0;
}

static double as_double(bf16 x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// What group norm comes down to for each channel of one image: `affine` takes the scales, and then the shifts.
static void take_affine(const Norm *job, size_t image, float *affine) {
    const size_t width = job->channels / job->groups;
    const float *sums = job->sums + image * sets_of(job) * 2 * job->channels;
    const bf16 *pivot = job->images + image * job->image_stride;
    for (size_t group = 0; group < job->groups; group++) {
        double mean = 0, square = 0;
        for (size_t channel = group * width; channel < (group + 1) * width; channel++) {
            double its_mean, its_variance;
            channel_moments(job, sums, as_double(pivot[channel]), channel, &its_mean, &its_variance);
            mean += its_mean / (double)width;
            square += (its_variance + its_mean * its_mean) / (double)width;
        }
        const double spread = square - mean * mean, slope = 1 / __builtin_sqrt((spread > 0 ? spread : 0) + job->eps);
        for (size_t channel = group * width; channel < (group + 1) * width; channel++) {
            const double scale = as_double(job->weight[channel]) * slope;
            affine[channel] = (float)scale;
            affine[job->channels + channel] = (float)(as_double(job->bias[channel]) - mean * scale);
        }
    }
}

// Scale, shift and activate the pixels `from` to `to` of an image.
static void apply(const Norm *job, size_t image, size_t from, size_t to, const float *scale, const float *shift) {
    size_t y = from / job->width, x = from % job->width;
    for (size_t left = to - from; left > 0; y++, x = 0) {
        const size_t run = at_most(left, job->width - x);
        const bf16 *pixel = job->images + image * job->image_stride + y * job->row_stride + x * job->channels;
        bf16 *into = job->target + image * job->target_image_stride + y * job->target_row_stride + x * job->channels;
        for (size_t i = 0; i < run; i++, pixel += job->channels, into += job->channels)
            for (size_t channel = 0; channel < job->channels; channel += LANES) {
                const __mmask16 which = first(job->channels - channel);
                const __m512 slope = _mm512_maskz_loadu_ps(which, scale + channel);
                const __m512 offset = _mm512_maskz_loadu_ps(which, shift + channel);
                const __m512 value = _mm512_fmadd_ps(read_half(pixel + channel, which), slope, offset);
                write_half(into + channel, which, job->is_activated ? silu(value) : value);
            }
        left -= run;
    }
}

static void do_apply(const void *all, size_t from, size_t to) {
    const Norm *job = all;
    const size_t sets = sets_of(job), pixels = job->height * job->width;
    for (size_t unit = from; unit < to; unit++) {
        const size_t image = unit / sets, first_pixel = unit % sets * SET;
        apply(job, image, first_pixel, at_most(pixels, first_pixel + SET), job->scale + image * job->affine_stride,
              job->shift + image * job->affine_stride);
    }
}

static void do_affine(const void *all, size_t from, size_t to) {
    const Norm *job = all;
    for (size_t image = from; image < to; image++)
        take_affine(job, image, (float *)job->scale + image * job->affine_stride);
}

// Images that are a set each go through all three while they are in the cache.
static void do_images(const void *all, size_t from, size_t to) {
    for (size_t image = from; image < to; image++) {
        do_sums(all, image, image + 1);
        do_affine(all, image, image + 1);
        do_apply(all, image, image + 1);
    }
}

// Each pixel by the mean and the variance of its own channels, which are near while it is passed three times.
static void do_pixels(const void *all, size_t from, size_t to) {
    const Norm *job = all;
    const float share_of_one = 1 / (float)job->channels;
    const bf16 *pixel = job->images + from * job->channels;
    bf16 *into = job->target + from * job->channels;
    for (size_t left = to - from; left > 0; left--, pixel += job->channels, into += job->channels) {
        __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (size_t channel = 0; channel < job->channels; channel += 2 * LANES)
            EACH (i, 2) {
                const size_t at = channel + i * LANES;
                sum[i] = _mm512_add_ps(sum[i], read_half(pixel + at, behind(job->channels, at)));
            }
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1])) * share_of_one);
        __m512 square[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (size_t channel = 0; channel < job->channels; channel += 2 * LANES)
            EACH (i, 2) {
                const size_t at = channel + i * LANES;
                const __mmask16 which = behind(job->channels, at);
                const __m512 off = _mm512_maskz_sub_ps(which, read_half(pixel + at, which), mean);
                square[i] = _mm512_fmadd_ps(off, off, square[i]);
            }
        const float spread = _mm512_reduce_add_ps(_mm512_add_ps(square[0], square[1])) * share_of_one;
        const __m512 slope = _mm512_set1_ps(1 / __builtin_sqrtf(spread + job->eps));
        for (size_t channel = 0; channel < job->channels; channel += LANES) {
            const __mmask16 which = first(job->channels - channel);
            const __m512 scale = _mm512_mul_ps(slope, read_half(job->weight + channel, which));
            const __m512 off = _mm512_sub_ps(read_half(pixel + channel, which), mean);
            write_half(into + channel, which, _mm512_fmadd_ps(off, scale, read_half(job->bias + channel, which)));
        }
    }
}

// Layer norm: images that lie without gaps, and a target that does.
EXPORT int stillmotion_layer_norm(const Norm *job, unsigned threads) {
    share(job->count * job->height * job->width, threads, do_pixels, job);
    return 0;
}

// SiLU, where asked for, of images scaled and shifted.
EXPORT int stillmotion_apply(const Norm *job, unsigned threads) {
    share(job->count * sets_of(job), threads, do_apply, job);
    return 0;
}

// Group norm, and SiLU where asked for. 0, or 1 where memory is short.
EXPORT int stillmotion_group_norm(const Norm *asked, unsigned threads) {
    Norm job = *asked;
    const size_t sets = sets_of(asked);
    float *room = malloc(sizeof(float) * 2 * job.channels * job.count * (sets + 1));
    if (room == NULL) return 1;
    job.sums = room + 2 * job.channels * job.count;
    job.scale = room;
    job.shift = room + job.channels;
    job.affine_stride = 2 * job.channels;
    if (sets == 1) {
        share(job.count, threads, do_images, &job);
    } else {
        share(job.count * sets, threads, do_sums, &job);
        do_affine(&job, 0, job.count);
        share(job.count * sets, threads, do_apply, &job);
    }
    free(room);
    return 0;
}

// Mean and biased variance of each channel of each image, into two float32 arrays of images x channels. As above.
EXPORT int stillmotion_moments(const Norm *asked, float *mean, float *variance, unsigned threads) {
    Norm job = *asked;
    const size_t sets = sets_of(asked);
    job.sums = malloc(sizeof(float) * 2 * job.channels * job.count * sets);
    if (job.sums == NULL) return 1;
    share(job.count * sets, threads, do_sums, &job);
    for (size_t image = 0; image < job.count; image++)
        for (size_t channel = 0; channel < job.channels; channel++) {
            double its_mean, its_variance;
            channel_moments(&job, job.sums + image * sets * 2 * job.channels,
                            as_double(job.images[image * job.image_stride + channel]), channel, &its_mean,
                            &its_variance);
            mean[image * job.channels + channel] = (float)its_mean;
            variance[image * job.channels + channel] = (float)its_variance;
        }
    free(job.sums);
    return 0;
}
