/* libcuda, libnvcuvid and libnvidia-encode as far as PyNvVideoCodec calls them to decode, over host memory. "Decoding" a
   packet gives one picture in which the byte at (x, y) of the surface is 7 y + x. The environment scripts the stream
   (STAND_IN_WIDTH, _HEIGHT, _BITS, _CHROMA) and faults (STAND_IN_FAULT=memory|decoder|decode|size); what arrives here
   is written to stderr, a line each. Structures as in cuda.h 13 and nvcuvid.h 13, on 64-bit Linux. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address;
enum { SURFACE_PITCH = 1024, SURFACE_ROWS = 1024, OUT_OF_MEMORY = 2, HOST = 1, DEVICE = 2 };

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int fault(const char *name) {
    const char *text = getenv("STAND_IN_FAULT");
    return text && !strcmp(text, name);
}

/* libnvidia-encode: asked for its version when the library is imported. */
int NvEncodeAPIGetMaxSupportedVersion(unsigned *version) { *version = 13 << 4; return 0; }

/* libcuda */
typedef struct {
    size_t source_x, source_y; int source_kind; const char *source_host; Address source_device; void *source_array;
    size_t source_pitch;
    size_t target_x, target_y; int target_kind; char *target_host; Address target_device; void *target_array;
    size_t target_pitch;
    size_t width_bytes, height;
} Copy;

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0xC0; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) { *context = (void *)0xC1; return 0; }
int cuCtxDestroy_v2(void *context) { return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxPushCurrent_v2(void *context) { return 0; }
int cuCtxPopCurrent_v2(void **context) { return 0; }
int cuEventCreate(void **event, unsigned flags) { *event = (void *)0xE0; return 0; }
int cuEventDestroy_v2(void *event) { return 0; }
int cuEventRecord(void *event, void *stream) { return 0; }
int cuEventSynchronize(void *event) { return 0; }
int cuStreamGetCtx(void *stream, void **context) { *context = (void *)0xC0; return 0; }
int cuStreamSynchronize(void *stream) { return 0; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
int cuGetErrorName(int error, const char **name) { *name = "CUDA_ERROR_OUT_OF_MEMORY"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "out of memory"; return 0; }
int cuPointerGetAttribute(void *value, int attribute, Address address) { *(unsigned *)value = DEVICE; return 0; }
int cuMemFree_v2(Address address) { free((void *)address); return 0; }
int cuMemAlloc_v2(Address *address, size_t nbytes) {
    if (fault("memory")) return OUT_OF_MEMORY;
    fprintf(stderr, "allocate %zu\n", nbytes);
    *address = (Address)malloc(nbytes);
    return 0;
}
int cuMemcpy2DAsync_v2(const Copy *copy, void *stream) {
    const char *source = copy->source_kind == HOST ? copy->source_host : (const char *)copy->source_device;
    char *target = copy->target_kind == HOST ? copy->target_host : (char *)copy->target_device;
    fprintf(stderr, "copy on %p\n", stream);
    for (size_t row = 0; row < copy->height; row++)
        memcpy(target + row * copy->target_pitch, source + row * copy->source_pitch, copy->width_bytes);
    return 0;
}

/* libnvcuvid */
typedef struct {
    int codec; unsigned rate, scale; unsigned char progressive, luma_bits, chroma_bits, surfaces;
    unsigned coded_width, coded_height; int left, top, right, bottom; int chroma; unsigned rest[5];
} Format;
typedef struct { int picture, progressive, top_first, repeat; long long timestamp; } Display;
typedef struct { unsigned long flags, nbytes; const unsigned char *data; long long timestamp; } Packet;
typedef struct {
    int codec; unsigned surfaces, clock, errors, delay, reserved[5]; void *user;
    int (*on_sequence)(void *, Format *); int (*on_decode)(void *, void *); int (*on_display)(void *, Display *);
} Parameters;
typedef struct { Parameters how; int pictures; } Parser;

int cuvidCreateVideoParser(Parser **parser, const Parameters *how) {
    fprintf(stderr, "parser codec %d delay %u\n", how->codec, how->delay);
    *parser = calloc(1, sizeof **parser);
    (*parser)->how = *how;
    return 0;
}
int cuvidDestroyVideoParser(Parser *parser) { fprintf(stderr, "parser gone\n"); free(parser); return 0; }
int cuvidParseVideoData(Parser *parser, const Packet *packet) {
    int grown = fault("size") && parser->pictures > 0 ? 4 : 1;
    int width = grown * number("STAND_IN_WIDTH", 97), height = grown * number("STAND_IN_HEIGHT", 65);
    int bits = number("STAND_IN_BITS", 8) - 8, shown = parser->pictures % 4;
    int description[2048] = {0};
    Display display = {shown, 1, 0, 0, packet->timestamp};
    fprintf(stderr, "packet flags %lu bytes %.*s\n", packet->flags, (int)packet->nbytes, packet->data);
    if (!packet->nbytes) return 0;
    if (parser->pictures == 0 || grown > 1) {
        Format format = {parser->how.codec, 25, 1, 1, bits, bits, 4, (width + 15) / 16 * 16, (height + 15) / 16 * 16,
                         0, 0, width, height, number("STAND_IN_CHROMA", 1), {0}};
        parser->how.on_sequence(parser->how.user, &format);
    }
    parser->pictures++;
    description[2] = shown;
    parser->how.on_decode(parser->how.user, description);
    parser->how.on_display(parser->how.user, &display);
    return 0;
}
int cuvidGetDecoderCaps(unsigned char *caps) {
    unsigned *words = (unsigned *)caps;
    fprintf(stderr, "caps codec %u chroma %u bits %u\n", words[0], words[1], words[2] + 8);
    caps[24] = 1;                                  /* supported */
    caps[25] = 7;                                  /* engines */
    *(unsigned short *)(caps + 26) = 0x3F;         /* surface formats */
    words[7] = 4096, words[8] = 2304, words[9] = 36864;
    *(unsigned short *)(caps + 40) = 48, *(unsigned short *)(caps + 42) = 16;
    return 0;
}
int cuvidCreateDecoder(void **decoder, const unsigned long *how) {
    if (fault("decoder")) return OUT_OF_MEMORY;
    fprintf(stderr, "decoder %lux%lu\n", how[0], how[1]);
    *decoder = malloc(1);
    return 0;
}
int cuvidDestroyDecoder(void *decoder) { fprintf(stderr, "decoder gone\n"); free(decoder); return 0; }
int cuvidDecodePicture(void *decoder, void *picture) { return fault("decode") ? 999 : 0; }
int cuvidGetDecodeStatus(void *decoder, int picture, int *status) { *status = 2; return 0; }
int cuvidMapVideoFrame64(void *decoder, int picture, Address *address, unsigned *pitch, void *how) {
    unsigned char *surface = malloc(SURFACE_PITCH * SURFACE_ROWS);
    for (int row = 0; row < SURFACE_ROWS; row++)
        for (int column = 0; column < SURFACE_PITCH; column++) surface[row * SURFACE_PITCH + column] = 7 * row + column;
    *address = (Address)surface;
    *pitch = SURFACE_PITCH;
    return 0;
}
int cuvidUnmapVideoFrame64(void *decoder, Address address) { free((void *)address); return 0; }
int cuvidReconfigureDecoder(void *decoder, void *how) { fprintf(stderr, "reconfigured\n"); return 0; }

/* Looked up when a decoder is made, never called. */
#define ABSENT(name) int name(void) { return 801; }
ABSENT(cuvidCreateVideoSource) ABSENT(cuvidCreateVideoSourceW) ABSENT(cuvidDestroyVideoSource)
ABSENT(cuvidSetVideoSourceState) ABSENT(cuvidGetVideoSourceState) ABSENT(cuvidGetSourceVideoFormat)
ABSENT(cuvidGetSourceAudioFormat) ABSENT(cuvidCtxLock) ABSENT(cuvidCtxLockCreate) ABSENT(cuvidCtxLockDestroy)
ABSENT(cuvidCtxUnlock)
ABSENT(cuMemAllocAsync) ABSENT(cuMemFreeAsync) ABSENT(cuMemAllocPitch_v2) ABSENT(cuMemcpy2D_v2)
ABSENT(cuMemcpyDtoH_v2) ABSENT(cuMemcpyDtoHAsync_v2) ABSENT(cuMemcpyHtoD_v2) ABSENT(cuStreamCreate)
ABSENT(cuStreamDestroy_v2)
