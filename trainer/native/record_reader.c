/* Reads JPEGs out of TFRecord files and verifies the checksums of their records.
 *
 * resnext_trainer.data.native_reader calls this library through ctypes, which releases the GIL. It
 * parses nothing: positions and sizes come from the index. A record that differs from the index in any way is reported
 * as not read, and the Python reader then determines the reason. */

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

/* Version of the functions below; native_reader.py requires the same. */
#define INTERFACE 1

enum { HEADER = 12, FOOTER = 4, MARGIN = 4096 };

/* A row of the index; native_reader.py declares the same type. */
struct layout {
    uint32_t start; /* of the JPEG, in bytes from the end of the header */
    uint32_t size;  /* of the JPEG */
    int32_t label;
    uint16_t height, width;
    uint32_t checksum; /* of the content, masked */
};

/* CRC-32C (Castagnoli). State is the complement of the checksum. */

static uint32_t by_byte[8][256];

static uint32_t crc_portable(uint32_t state, const uint8_t *at, size_t size) {
    for (; size >= 8; at += 8, size -= 8) {
        uint8_t x[8];
        memcpy(x, at, 8);
        state ^= (uint32_t)x[0] | (uint32_t)x[1] << 8 | (uint32_t)x[2] << 16 | (uint32_t)x[3] << 24;
        state = by_byte[7][state & 255] ^ by_byte[6][state >> 8 & 255] ^ by_byte[5][state >> 16 & 255] ^
                by_byte[4][state >> 24] ^ by_byte[3][x[4]] ^ by_byte[2][x[5]] ^ by_byte[1][x[6]] ^ by_byte[0][x[7]];
    }
    for (; size; at++, size--) state = state >> 8 ^ by_byte[0][(state ^ *at) & 255];
    return state;
}

static uint32_t (*crc_update)(uint32_t, const uint8_t *, size_t) = crc_portable;

#if defined(__x86_64__)

enum { STRIDE = 1360 }; /* a multiple of 8 */

static uint32_t after_stride[4][256]; /* a state after STRIDE zero bytes, as the XOR of one entry per byte */

static uint32_t skip_stride(uint32_t state) {
    return after_stride[0][state & 255] ^ after_stride[1][state >> 8 & 255] ^ after_stride[2][state >> 16 & 255] ^
           after_stride[3][state >> 24];
}

static uint64_t word(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

/* The instruction takes 3 cycles, but one can start in each cycle: three strides are computed at once. */
__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t state, const uint8_t *at, size_t size) {
    uint64_t first = state;
    for (; size >= 3 * STRIDE; at += 3 * STRIDE, size -= 3 * STRIDE) {
        uint64_t second = 0, third = 0;
        for (size_t i = 0; i < STRIDE; i += 8) {
            first = _mm_crc32_u64(first, word(at + i));
            second = _mm_crc32_u64(second, word(at + STRIDE + i));
            third = _mm_crc32_u64(third, word(at + 2 * STRIDE + i));
        }
        first = skip_stride((uint32_t)first) ^ second;
        first = skip_stride((uint32_t)first) ^ third;
    }
    for (; size >= 8; at += 8, size -= 8) first = _mm_crc32_u64(first, word(at));
    state = (uint32_t)first;
    for (; size; at++, size--) state = _mm_crc32_u8(state, *at);
    return state;
}

#endif

__attribute__((constructor)) static void prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; bit++) state = state >> 1 ^ (state & 1 ? 0x82f63b78u : 0);
        by_byte[0][byte] = state;
    }
    for (int table = 1; table < 8; table++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t state = by_byte[table - 1][byte];
            by_byte[table][byte] = state >> 8 ^ by_byte[0][state & 255];
        }
#if defined(__x86_64__)
    static const uint8_t zeros[STRIDE];
    for (int at = 0; at < 4; at++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t state = crc_portable(1u << (8 * at + bit), zeros, STRIDE);
            for (int byte = 0; byte < 256; byte++)
                if (byte >> bit & 1) after_stride[at][byte] ^= state;
        }
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) crc_update = crc_sse42;
#endif
}

static uint32_t masked(uint32_t state) {
    uint32_t crc = ~state;
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static uint64_t little_endian(const uint8_t *at, int size) {
    uint64_t value = 0;
    while (size--) value = value << 8 | at[size];
    return value;
}

/* Whether a record of this length can contain what the layout says, with a short margin on both sides. */
static int plausible(int64_t length, const struct layout *it) {
    int64_t before = HEADER + (int64_t)it->start, after = length - before - (int64_t)it->size;
    return it->size >= 2 && before <= MARGIN && after >= FOOTER && after <= MARGIN;
}

/* Opening does not block, even if the file has been replaced by a pipe. */
static int open_regular(const char *path) {
    struct stat status;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &status) || !S_ISREG(status.st_mode))) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Fetches a record in three parts: before the JPEG, the JPEG, and after it. */
static int fetch(int fd, const char *path, const uint8_t *memory, int64_t offset, struct iovec part[3]) {
    ssize_t total = 0;
    for (int i = 0; i < 3; i++) {
        if (memory) memcpy(part[i].iov_base, memory + total, part[i].iov_len);
        total += (ssize_t)part[i].iov_len;
    }
    if (memory) return 1;
    if (fd >= 0) return preadv(fd, part, 3, offset) == total;
    if ((fd = open_regular(path)) < 0) return 0;
    int read = preadv(fd, part, 3, offset) == total;
    close(fd);
    return read;
}

/* Whether the field before a JPEG says that `size` bytes follow. The checksum does not prove where the JPEG begins and
 * ends. */
static int announced(const uint8_t *jpeg_start, uint32_t start, uint32_t size) {
    uint8_t field[6] = {0x0a}; /* the tag of a value of a BytesList, then its length, seven bits per byte */
    uint32_t length = 1;
    for (; size > 127; size >>= 7) field[length++] = (uint8_t)(size & 127) | 128;
    field[length++] = (uint8_t)size;
    return length <= start && !memcmp(jpeg_start - length, field, length);
}

static int verified(int64_t length, const struct layout *it, const struct iovec part[3]) {
    const uint8_t *header = part[0].iov_base, *jpeg = part[1].iov_base, *rest = part[2].iov_base;
    size_t tail = part[2].iov_len - FOOTER;
    if (little_endian(header, 8) != (uint64_t)length - HEADER - FOOTER) return 0;
    if (masked(crc_update(~0u, header, 8)) != little_endian(header + 8, 4)) return 0;
    uint32_t state = crc_update(~0u, header + HEADER, it->start);
    state = crc_update(crc_update(state, jpeg, it->size), rest, tail);
    return masked(state) == it->checksum && it->checksum == little_endian(rest + tail, 4) &&
           announced(header + HEADER + it->start, it->start, it->size) && jpeg[0] == 0xff && jpeg[1] == 0xd8;
}

int record_reader_interface(void) { return INTERFACE; }

/* CRC-32C of a buffer; portable: without the instruction of SSE 4.2. */
uint32_t record_reader_crc32c(const uint8_t *at, size_t size, int portable) {
    return ~(portable ? crc_portable : crc_update)(~0u, at, size);
}

/* Reads `count` JPEGs. Record i has `lengths[i]` bytes, in memory at `memory[i]` or, if that is NULL, at `offsets[i]` of
 * the open file `files[i]` or, if that is -1, of the file `paths[i]`. jpegs[i]: buffer of layouts[i].size bytes. good[i] becomes 1 if the record was read, its
 * length and both checksums are right, and the JPEG is where its layout says; 0 otherwise. */
void record_reader_read(int64_t count, const int32_t *files, const uint8_t *const *memory, const char *const *paths,
                        const int64_t *offsets, const int64_t *lengths, const struct layout *layouts,
                        uint8_t *const *jpegs, uint8_t *good) {
    for (int64_t i = 0; i < count; i++) {
        const struct layout *it = &layouts[i];
        uint8_t before[MARGIN], after[MARGIN];
        good[i] = 0;
        if (!plausible(lengths[i], it)) continue;
        struct iovec part[3] = {
            {before, HEADER + it->start},
            {jpegs[i], it->size},
            {after, (size_t)lengths[i] - HEADER - it->start - it->size},
        };
        good[i] = fetch(files[i], paths[i], memory[i], offsets[i], part) && verified(lengths[i], it, part);
    }
}
