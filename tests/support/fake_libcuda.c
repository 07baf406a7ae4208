/* A libcuda.so.1 over host memory: enough of it for the real pycuda and cuda-bindings to run against.

   It knows which context each thread has, runs what is queued at once or records it while a stream is captured, counts
   what exists, and fails where the test says so. Built by test_pycuda_driver.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, NO_BINARY = 209, NOT_FOUND = 500 };
enum { MEMORY, PINNED, STREAM, EVENT, MODULE, GRAPH, EXECUTABLE, KINDS };

typedef struct { int kind; uint64_t target, source; size_t bytes; int value; } Work;
typedef struct { size_t count; Work work[64]; } Graph;
typedef struct { unsigned flags; Graph *capture; int mode; } Stream;
typedef struct {
    size_t src_x, src_y; unsigned src_type; const void *src_host; uint64_t src_device; void *src_array; size_t src_pitch;
    size_t dst_x, dst_y; unsigned dst_type; void *dst_host; uint64_t dst_device; void *dst_array; size_t dst_pitch;
    size_t width, height;
} Copy2D;

static int exist[KINDS], retained, context, wild_frees;
static unsigned event_flags, stream_flags;
static __thread int depth;
static char failing[64];
static int fail_code, fail_after;

static int refused(const char *name) {
    if (strcmp(name, failing) != 0) return OK;
    if (fail_after-- > 0) return OK;
    failing[0] = 0;
    return fail_code;
}
#define ENTER(name) do { int code = refused(name); if (code) return code; } while (0)
#define BOUND(name) do { ENTER(name); if (!depth || !retained) { wild_frees++; return INVALID_CONTEXT; } } while (0)

/* What the test asks for. */
void fake_fail(const char *name, int code, int after) { snprintf(failing, sizeof failing, "%s", name); fail_code = code; fail_after = after; }
int fake_exist(int kind) { return exist[kind]; }
int fake_retained(void) { return retained; }
int fake_wild(void) { return wild_frees; }
int fake_depth(void) { return depth; }
unsigned fake_event_flags(void) { return event_flags; }
unsigned fake_stream_flags(void) { return stream_flags; }

int cuInit(unsigned flags) { ENTER("cuInit"); return OK; }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : OK; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "NVIDIA Fake"); return OK; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8; *minor = 9; return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 9; return OK; }
int cuDevicePrimaryCtxRetain(void **made, int device) { ENTER("cuDevicePrimaryCtxRetain"); retained++; *made = &context; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return OK; }
int cuCtxPushCurrent_v2(void *pushed) { ENTER("cuCtxPushCurrent"); depth++; return OK; }
int cuCtxPopCurrent_v2(void **popped) { ENTER("cuCtxPopCurrent"); if (!depth) return INVALID_CONTEXT; depth--; *popped = &context; return OK; }
int cuCtxDetach(void *detached) { return INVALID_CONTEXT; } /* of a primary context */
int cuGetErrorString(int error, const char **text) {
    switch (error) {
    case 2: *text = "out of memory"; return OK;
    case INVALID_CONTEXT: *text = "invalid device context"; return OK;
    case NO_BINARY: *text = "no kernel image is available for execution on the device"; return OK;
    case NOT_FOUND: *text = "named symbol not found"; return OK;
    case 700: *text = "an illegal memory access was encountered"; return OK;
    case 900: *text = "operation not permitted when stream is capturing"; return OK;
    default: *text = "an error of the test"; return OK;
    }
}
int cuMemGetInfo_v2(size_t *left, size_t *total) { BOUND("cuMemGetInfo"); *left = 3 << 20; *total = 4 << 20; return OK; }
int cuMemAlloc_v2(uint64_t *made, size_t size) { BOUND("cuMemAlloc"); *made = (uint64_t)malloc(size); exist[MEMORY]++; return OK; }
int cuMemFree_v2(uint64_t freed) { BOUND("cuMemFree"); free((void *)freed); exist[MEMORY]--; return OK; }
int cuMemHostAlloc(void **made, size_t size, unsigned flags) { BOUND("cuMemHostAlloc"); *made = malloc(size); exist[PINNED]++; return OK; }
int cuMemFreeHost(void *freed) { BOUND("cuMemFreeHost"); free(freed); exist[PINNED]--; return OK; }

int cuStreamCreate(Stream **made, unsigned flags) { BOUND("cuStreamCreate"); *made = calloc(1, sizeof(Stream)); stream_flags = flags; exist[STREAM]++; return OK; }
int cuStreamDestroy_v2(Stream *gone) { BOUND("cuStreamDestroy"); free(gone); exist[STREAM]--; return OK; }
int cuStreamSynchronize(Stream *stream) { BOUND("cuStreamSynchronize"); return OK; }
int cuEventCreate(void **made, unsigned flags) { BOUND("cuEventCreate"); *made = malloc(1); event_flags = flags; exist[EVENT]++; return OK; }
int cuEventDestroy_v2(void *gone) { BOUND("cuEventDestroy"); free(gone); exist[EVENT]--; return OK; }
int cuEventRecord(void *event, Stream *stream) { BOUND("cuEventRecord"); return stream ? OK : INVALID_VALUE; }
int cuEventSynchronize(void *event) { BOUND("cuEventSynchronize"); return OK; }
int cuEventElapsedTime(float *ms, void *first, void *last) { BOUND("cuEventElapsedTime"); *ms = event_flags & 2 ? -1 : 2.5f; return OK; }
int cuEventElapsedTime_v2(float *ms, void *first, void *last) { return cuEventElapsedTime(ms, first, last); }

static void run(const Work *work) {
    if (work->kind == 0) memcpy((void *)work->target, (void *)work->source, work->bytes);
    if (work->kind == 1) memset((void *)work->target, work->value, work->bytes);
    if (work->kind == 2) memcpy((void *)work->target, &work->value, 4);
}
static int queue(Stream *stream, Work work) {
    if (!stream) return INVALID_VALUE; /* the default stream */
    if (stream->capture) stream->capture->work[stream->capture->count++] = work; else run(&work);
    return OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t bytes, Stream *stream) {
    BOUND("cuMemcpyHtoDAsync");
    return queue(stream, (Work){0, target, (uint64_t)source, bytes, 0});
}
int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t bytes, Stream *stream) {
    BOUND("cuMemcpyDtoHAsync");
    return queue(stream, (Work){0, (uint64_t)target, source, bytes, 0});
}
int cuMemsetD8Async(uint64_t target, unsigned char value, size_t bytes, Stream *stream) {
    BOUND("cuMemsetD8Async");
    return queue(stream, (Work){1, target, 0, bytes, value});
}
int cuMemcpy2DAsync_v2(const Copy2D *copy, Stream *stream) {
    BOUND("cuMemcpy2DAsync");
    uint64_t source = copy->src_type == 1 ? (uint64_t)copy->src_host : copy->src_device;
    uint64_t target = copy->dst_type == 1 ? (uint64_t)copy->dst_host : copy->dst_device;
    for (size_t row = 0; row < copy->height; row++) {
        Work work = {0, target + row * copy->dst_pitch, source + row * copy->src_pitch, copy->width, 0};
        int code = queue(stream, work);
        if (code) return code;
    }
    return OK;
}

int cuModuleLoadDataEx(void **made, const char *image, unsigned count, void *options, void *values) {
    BOUND("cuModuleLoadDataEx");
    if (strncmp(image, "fatbin", 6) != 0) return NO_BINARY;
    *made = malloc(1);
    exist[MODULE]++;
    return OK;
}
int cuModuleLoadData(void **made, const char *image) { return cuModuleLoadDataEx(made, image, 0, 0, 0); }
int cuModuleUnload(void *gone) { BOUND("cuModuleUnload"); free(gone); exist[MODULE]--; return OK; }
int cuModuleGetFunction(void **found, void *module, const char *name) {
    static int function;
    BOUND("cuModuleGetFunction");
    *found = &function;
    return strcmp(name, "store") == 0 ? OK : NOT_FOUND;
}
/* store(int *target, int value, float factor): *target = value * factor, times the number of threads. */
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream *stream, void **parameters, void **extra) {
    BOUND("cuLaunchKernel");
    const char *buffer = 0;
    size_t size = 0;
    for (; extra && *extra; extra += 2) {
        if (extra[0] == (void *)1) buffer = extra[1];
        if (extra[0] == (void *)2) size = *(size_t *)extra[1];
    }
    if (!buffer || size != 16) return INVALID_VALUE;
    uint64_t target; int value; float factor;
    memcpy(&target, buffer, 8); memcpy(&value, buffer + 8, 4); memcpy(&factor, buffer + 12, 4);
    return queue(stream, (Work){2, target, 0, 0, (int)(value * factor) * (int)(gx * gy * gz * bx * by * bz)});
}

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    BOUND("cuStreamBeginCapture");
    stream->mode = mode;
    stream->capture = calloc(1, sizeof(Graph));
    exist[GRAPH]++;
    return OK;
}
int cuStreamEndCapture(Stream *stream, Graph **made) {
    *made = stream->capture;
    stream->capture = 0;
    BOUND("cuStreamEndCapture");
    return stream->mode == 1 ? OK : INVALID_VALUE; /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
}
int cuGraphGetNodes(Graph *graph, void **nodes, size_t *count) { BOUND("cuGraphGetNodes"); *count = graph->count; return nodes ? INVALID_VALUE : OK; }
int cuGraphInstantiateWithFlags(Graph **made, Graph *graph, unsigned long long flags) {
    BOUND("cuGraphInstantiate");
    *made = malloc(sizeof(Graph));
    **made = *graph;
    exist[EXECUTABLE]++;
    return OK;
}
int cuGraphLaunch(Graph *graph, Stream *stream) {
    BOUND("cuGraphLaunch");
    for (size_t number = 0; number < graph->count; number++) queue(stream, graph->work[number]);
    return OK;
}
int cuGraphDestroy(Graph *gone) { BOUND("cuGraphDestroy"); free(gone); exist[GRAPH]--; return OK; }
int cuGraphExecDestroy(Graph *gone) { BOUND("cuGraphExecDestroy"); free(gone); exist[EXECUTABLE]--; return OK; }

/* cuda-bindings finds every function through this one. */
int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    char newest[96];
    const char *suffixes[] = {"_v2", "", "WithFlags"};
    *found = 0;
    for (size_t number = 0; number < 3 && !*found; number++) {
        snprintf(newest, sizeof newest, "%s%s", name, suffixes[number]);
        if (strcmp(name, "cuGraphInstantiate") == 0) snprintf(newest, sizeof newest, "cuGraphInstantiateWithFlags");
        *found = dlsym(RTLD_DEFAULT, newest);
    }
    if (status) *status = *found ? 0 : 1;
    return *found ? OK : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) { return cuGetProcAddress_v2(name, found, version, flags, 0); }
