/* Decodes crop windows of JPEGs with libjpeg-turbo and resizes them bilinearly, one call per batch, on several threads.
 *
 * Each row is resized horizontally as soon as it is decoded, and each output row is computed as soon as its source rows
 * exist, so that the pixels stay in the cache. The arithmetic is in integers (weights of 14 bits, intermediate rows
 * with 7 fractional bits): results are the same on all processors and differ from exact ones by rounding only.
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#ifdef __SSSE3__
#include <tmmintrin.h>
#endif

/* Version of the functions below; native_decoder.py requires the same. */
#define INTERFACE 1

enum status { DECODED, UNDECODABLE, OUT_OF_MEMORY };
enum { WEIGHT_BITS = 14, ROW_BITS = 7, ROWS_AT_ONCE = 8, SLACK = 16, VECTOR = 32, MOST_THREADS = 64 };

/* As `numbers` in crops.py: the pixels to decode, the part of them to resize, whether to flip the result. */
struct window {
    float top, left, height, width, roi_top, roi_left, roi_bottom, roi_right, flip;
};

struct batch {
    const uint8_t *const *jpegs;
    const size_t *lengths;
    const struct window *windows;
    int count, size, antialias, fast;
    uint8_t *images, *statuses;
    atomic_int next;
};

/* For each output pixel: the index of its first source pixel, the number of source pixels, and their weights. `most`,
   the maximum number of weights, is even; the weights after the last source pixel are 0. */
struct axis {
    int *start, *count, most;
    int16_t *weights; /* `most` of them for each output pixel */
};

struct worker {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    jmp_buf jump;
    struct axis across, down;
    uint8_t *rows, *rgb;  /* decoded rows; a converted row of a CMYK image */
    int16_t *ring;        /* rows that are resized horizontally, `line` values each */
    size_t line;
    const int16_t **lines; /* those of one output row */
    uint8_t *output;
};

static void error_exit(j_common_ptr jpeg) { longjmp(((struct worker *)jpeg->client_data)->jump, 1); }

static void ignore_message(j_common_ptr jpeg, int level) { (void)jpeg, (void)level; }

static void ignore_error(j_common_ptr jpeg) { (void)jpeg; }

static void keep_source(j_decompress_ptr jpeg) { (void)jpeg; }

static boolean end_of_input(j_decompress_ptr jpeg) {
    ERREXIT(jpeg, JERR_INPUT_EOF);
    return FALSE;
}

static void skip_input(j_decompress_ptr jpeg, long bytes) {
    if (bytes <= 0)
        return;
    if ((size_t)bytes > jpeg->src->bytes_in_buffer)
        ERREXIT(jpeg, JERR_INPUT_EOF);
    jpeg->src->next_input_byte += bytes;
    jpeg->src->bytes_in_buffer -= (size_t)bytes;
}

/* Allocates memory that `reset` frees; stops decoding this image if the allocation fails. */
static void *allocated(struct worker *worker, size_t bytes) {
    void *found = malloc(bytes);
    if (!found)
        ERREXIT(&worker->jpeg, JERR_OUT_OF_MEMORY);
    return found;
}

static void free_axis(struct axis *axis) {
    free(axis->start), free(axis->count), free(axis->weights);
    memset(axis, 0, sizeof *axis);
}

static void reset(struct worker *worker) {
    jpeg_abort_decompress(&worker->jpeg);
    free_axis(&worker->across), free_axis(&worker->down);
    free(worker->rows), free(worker->rgb), free(worker->ring), free(worker->lines), free(worker->output);
    worker->rows = worker->rgb = worker->output = NULL, worker->ring = NULL, worker->lines = NULL;
}

/* Weights of a triangle filter over `length` source pixels whose part from `begin` to `end` becomes `size` pixels. The
 * filter ends at the border; its radius is one source pixel, or one output pixel if that is larger and `antialias`. */
static void fill_axis(struct worker *worker, struct axis *axis, int length, double begin, double end, int size,
                      int antialias, int reversed) {
    double step = (end - begin) / size, radius = antialias && step > 1 ? step : 1;
    int taps = ((int)ceil(2 * radius) + 1) & ~1;
    axis->start = allocated(worker, sizeof(int) * size);
    axis->count = allocated(worker, sizeof(int) * size);
    axis->weights = allocated(worker, sizeof(int16_t) * size * taps);
    axis->most = taps;
    for (int at = 0; at < size; at++) {
        double center = begin + ((reversed ? size - 1 - at : at) + 0.5) * step, total = 0;
        int first = (int)floor(center - radius + 0.5), last = (int)ceil(center + radius - 0.5) - 1, peak = 0, rest;
        int16_t *weights = axis->weights + (size_t)at * taps;
        first = first < 0 ? 0 : first > length - 1 ? length - 1 : first;
        last = last > length - 1 ? length - 1 : last < first ? first : last;
        memset(weights, 0, sizeof(int16_t) * taps);
        axis->start[at] = first, axis->count[at] = last - first + 1;
#define WEIGHT(pixel) fmax(0, 1 - fabs((pixel) + 0.5 - center) / radius)
        for (int pixel = first; pixel <= last; pixel++)
            total += WEIGHT(pixel);
        rest = 1 << WEIGHT_BITS;
        for (int pixel = first; pixel <= last; pixel++) {
            int weight = total > 0 ? (int)lround(WEIGHT(pixel) / total * (1 << WEIGHT_BITS)) : 0;
            weights[pixel - first] = (int16_t)weight, rest -= weight;
            if (weight > weights[peak])
                peak = pixel - first;
        }
        weights[peak] = (int16_t)(weights[peak] + rest);
#undef WEIGHT
    }
}

#ifdef __SSSE3__
static __m128i weight_pair(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, sizeof pair);
    return _mm_set1_epi32(pair);
}
#endif

/* Resizes a row of RGB pixels. After their ends, `row` has SLACK readable bytes, and `line` SLACK writable bytes.
 * `most` is axis->most; the caller passes 2 as a constant, so that the compiler removes the inner loop. */
static inline __attribute__((always_inline)) void resize_row(const struct axis *axis, const int most,
                                                             const uint8_t *row, int16_t *line, int size) {
    const int *start = axis->start, *count = axis->count;
    const int16_t *weights = axis->weights;
#ifdef __SSSE3__
    const __m128i interleave = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
    const __m128i half = _mm_set1_epi32(1 << (WEIGHT_BITS - ROW_BITS - 1));
    for (int at = 0; at < size; at++, line += 3, weights += most) {
        const uint8_t *pixel = row + 3 * start[at];
        __m128i sum = half;
        for (int tap = 0, end = most == 2 ? 2 : count[at]; tap < end; tap += 2) {
            __m128i two = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i *)(pixel + 3 * tap)), interleave);
            sum = _mm_add_epi32(sum, _mm_madd_epi16(two, weight_pair(weights + tap)));
        }
        sum = _mm_srai_epi32(sum, WEIGHT_BITS - ROW_BITS);
        _mm_storel_epi64((__m128i *)line, _mm_packs_epi32(sum, sum));
    }
#else
    for (int at = 0; at < size; at++, line += 3, weights += most)
        for (int channel = 0; channel < 3; channel++) {
            int sum = 1 << (WEIGHT_BITS - ROW_BITS - 1);
            for (int tap = 0; tap < count[at]; tap++)
                sum += weights[tap] * row[3 * (start[at] + tap) + channel];
            line[channel] = (int16_t)(sum >> (WEIGHT_BITS - ROW_BITS));
        }
#endif
}

static void resize_across(const struct axis *axis, const uint8_t *row, int16_t *line, int size) {
    if (axis->most == 2)
        resize_row(axis, 2, row, line, size);
    else
        resize_row(axis, axis->most, row, line, size);
}

/* Output row `at` from `count` rows of the ring; `values` is a multiple of 8. */
static inline __attribute__((always_inline)) void combine(const struct worker *worker, int at, const int count,
                                                          size_t values) {
    const struct axis *axis = &worker->down;
    const int16_t *weights = axis->weights + (size_t)at * axis->most, **lines = worker->lines;
    for (int tap = 0; tap < count; tap++)
        lines[tap] = worker->ring + (size_t)((axis->start[at] + tap) % axis->most) * worker->line;
    lines[count] = lines[count - 1]; /* with weight 0, if the count is odd */
    for (size_t value = 0; value < values; value += 8) {
#ifdef __SSSE3__
        __m128i low = _mm_set1_epi32(1 << (WEIGHT_BITS + ROW_BITS - 1)), high = low;
        for (int tap = 0; tap < count; tap += 2) {
            __m128i one = _mm_loadu_si128((const __m128i *)(lines[tap] + value));
            __m128i two = _mm_loadu_si128((const __m128i *)(lines[tap + 1] + value));
            __m128i pair = weight_pair(weights + tap);
            low = _mm_add_epi32(low, _mm_madd_epi16(_mm_unpacklo_epi16(one, two), pair));
            high = _mm_add_epi32(high, _mm_madd_epi16(_mm_unpackhi_epi16(one, two), pair));
        }
        low = _mm_srai_epi32(low, WEIGHT_BITS + ROW_BITS), high = _mm_srai_epi32(high, WEIGHT_BITS + ROW_BITS);
        low = _mm_packs_epi32(low, high);
        _mm_storel_epi64((__m128i *)(worker->output + value), _mm_packus_epi16(low, low));
#else
        for (size_t each = value; each < value + 8; each++) {
            int sum = 1 << (WEIGHT_BITS + ROW_BITS - 1);
            for (int tap = 0; tap < count; tap++)
                sum += weights[tap] * lines[tap][each];
            worker->output[each] = (uint8_t)(sum >> (WEIGHT_BITS + ROW_BITS));
        }
#endif
    }
}

static void resize_down(const struct worker *worker, int at, size_t values) {
    if (worker->down.count[at] == 2)
        combine(worker, at, 2, values);
    else
        combine(worker, at, worker->down.count[at], values);
}

/* Adobe's CMYK JPEGs store inverted values. */
static void rgb_of_cmyk(const uint8_t *cmyk, uint8_t *rgb, int width, int inverted) {
    for (int pixel = 0; pixel < width; pixel++, cmyk += 4)
        for (int channel = 0; channel < 3; channel++)
            *rgb++ = (uint8_t)(inverted ? cmyk[3] * cmyk[channel] / 255 : (255 - cmyk[3]) * (255 - cmyk[channel]) / 255);
}

/* Reads the header and positions libjpeg at the first row of the window; returns the offset of the window in a row. */
static int begin(struct worker *worker, const uint8_t *content, size_t length, const struct window *window, int fast) {
    struct jpeg_decompress_struct *jpeg = &worker->jpeg;
    JDIMENSION top = (JDIMENSION)window->top, left = (JDIMENSION)window->left, offset = left - (left > 0);
    JDIMENSION height = (JDIMENSION)window->height, width = (JDIMENSION)window->width;
    worker->source.next_input_byte = content, worker->source.bytes_in_buffer = length;
    jpeg_read_header(jpeg, TRUE);
    if (!width || !height || left + width > jpeg->image_width || top + height > jpeg->image_height)
        ERREXIT(jpeg, JERR_BAD_CROP_SPEC);
    int cmyk = jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK;
    jpeg->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg->dct_method = fast ? JDCT_IFAST : JDCT_ISLOW;
    jpeg_start_decompress(jpeg);
    /* With subsampled chroma, libjpeg-turbo gets the last column of a window wrong by up to 20 of 255, and the first
     * one by up to 36 if a block of 16 pixels begins there. */
    width += (left > 0) + (left + width < jpeg->output_width);
    jpeg_crop_scanline(jpeg, &offset, &width);
    if (top && jpeg_skip_scanlines(jpeg, top) != top)
        ERREXIT(jpeg, JERR_INPUT_EOF);
    return (int)(left - offset);
}

static void decode(struct worker *worker, const struct batch *batch, int number) {
    struct jpeg_decompress_struct *jpeg = &worker->jpeg;
    const struct window *window = batch->windows + number;
    const uint8_t *content = batch->jpegs[number];
    const size_t length = batch->lengths[number];
    const int size = batch->size, height = (int)window->height, width = (int)window->width;
    const size_t values = ((size_t)3 * size + 7) & ~(size_t)7;
    const int offset = begin(worker, content, length, window, batch->fast);
    const int channels = jpeg->output_components, converted = channels == 4;
    const size_t stride = ((size_t)jpeg->output_width * channels + SLACK + VECTOR - 1) & ~(size_t)(VECTOR - 1);
    uint8_t *image = batch->images + (size_t)number * size * size * 3;
    JSAMPROW rows[ROWS_AT_ONCE];
    int done = 0, row = 0;

    fill_axis(worker, &worker->across, width, window->roi_left, window->roi_right, size, batch->antialias,
              window->flip > 0);
    fill_axis(worker, &worker->down, height, window->roi_top, window->roi_bottom, size, batch->antialias, 0);
    worker->rows = allocated(worker, stride * ROWS_AT_ONCE + 2 * VECTOR);
    worker->rgb = converted ? allocated(worker, (size_t)width * 3 + SLACK) : NULL;
    worker->line = values + SLACK / sizeof(int16_t);
    worker->ring = allocated(worker, worker->down.most * worker->line * sizeof(int16_t));
    worker->lines = allocated(worker, (worker->down.most + 1) * sizeof *worker->lines);
    worker->output = allocated(worker, values);
    memset(worker->ring, 0, worker->down.most * worker->line * sizeof(int16_t));
    /* No row is aligned to a vector: libjpeg-turbo writes aligned rows with non-temporal stores, which bypass the
     * cache, so the resize would have to read them from memory. */
    for (int at = 0; at < ROWS_AT_ONCE; at++)
        rows[at] = worker->rows + VECTOR - (uintptr_t)worker->rows % VECTOR + VECTOR / 2 + at * stride;

    while (done < size) {
        int wanted = height - row < ROWS_AT_ONCE ? height - row : ROWS_AT_ONCE;
        int read = (int)jpeg_read_scanlines(jpeg, rows, (JDIMENSION)wanted);
        if (!read)
            ERREXIT(jpeg, JERR_INPUT_EOF);
        for (int at = 0; at < read && done < size; at++, row++) {
            const uint8_t *pixels = rows[at] + offset * channels;
            if (row < worker->down.start[done])
                continue;
            if (converted) {
                rgb_of_cmyk(pixels, worker->rgb, width, jpeg->saw_Adobe_marker);
                pixels = worker->rgb;
            }
            int16_t *line = worker->ring + (size_t)(row % worker->down.most) * worker->line;
            resize_across(&worker->across, pixels, line, size);
            for (; done < size && worker->down.start[done] + worker->down.count[done] <= row + 1; done++) {
                resize_down(worker, done, values);
                memcpy(image + (size_t)done * size * 3, worker->output, (size_t)3 * size);
            }
        }
    }
}

static int created(struct worker *worker) {
    /* Not jpeg_std_error, which writes to stderr and cannot be part of a shared library on Debian. */
    worker->errors.error_exit = error_exit;
    worker->errors.emit_message = ignore_message;
    worker->errors.output_message = worker->errors.reset_error_mgr = ignore_error;
    worker->jpeg.err = &worker->errors;
    worker->jpeg.client_data = worker;
    if (setjmp(worker->jump))
        return 0;
    jpeg_create_decompress(&worker->jpeg);
    worker->source.init_source = worker->source.term_source = keep_source;
    worker->source.fill_input_buffer = end_of_input;
    worker->source.skip_input_data = skip_input;
    worker->source.resync_to_restart = jpeg_resync_to_restart;
    worker->jpeg.src = &worker->source;
    return 1;
}

static enum status attempt(struct worker *worker, const struct batch *batch, int number) {
    if (setjmp(worker->jump))
        return worker->errors.msg_code == JERR_OUT_OF_MEMORY ? OUT_OF_MEMORY : UNDECODABLE;
    decode(worker, batch, number);
    return DECODED;
}

static void *work(void *argument) {
    struct batch *batch = argument;
    struct worker *worker = calloc(1, sizeof *worker);
    int number;
    if (!worker)
        return NULL;
    if (created(worker))
        while ((number = atomic_fetch_add(&batch->next, 1)) < batch->count) {
            batch->statuses[number] = (uint8_t)attempt(worker, batch, number);
            reset(worker);
        }
    jpeg_destroy_decompress(&worker->jpeg);
    free(worker);
    return NULL;
}

int image_decoder_interface(void) { return INTERFACE; }

/* Decodes `count` images on up to `threads` threads, including the caller's. images: uint8 [count, size, size, 3];
 * statuses: uint8 [count], an `enum status` for each image. */
void image_decoder_decode(const uint8_t *const *jpegs, const size_t *lengths, const struct window *windows, int count,
                          int size, int antialias, int fast, int threads, uint8_t *images, uint8_t *statuses) {
    struct batch batch = {jpegs, lengths, windows, count, size, antialias, fast, images, statuses, 0};
    pthread_t others[MOST_THREADS];
    int started = 0;
    memset(statuses, OUT_OF_MEMORY, (size_t)count);
    while (started < MOST_THREADS && started < threads - 1 && started < count - 1 &&
           !pthread_create(&others[started], NULL, work, &batch))
        started++;
    work(&batch);
    while (started)
        pthread_join(others[--started], NULL);
}
