/* A GPU driver that isn't one: the functions that the CUDA bindings call, on host memory, so that the bindings themselves
 * can be tested without a GPU. Work put into a stream is done at once, unless the stream is being captured. Everything
 * that is made and not destroyed is counted; `fake_live` prints the counts. Built as libcuda.so.1. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef struct { void *to; const void *from; size_t bytes; } Copy;
typedef struct { Copy copies[64]; int count; } Graph;
typedef struct { Graph *recording; } Stream;

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_CONTEXT = 201, INVALIDATED = 901 };
enum { BUFFERS, PINNED, STREAMS, EVENTS, GRAPHS, EXECUTABLES, CONTEXTS, PUSHED, KINDS };
static long live[KINDS];
static __thread int depth;
static int context;
static void *mapped[64];
static int mapped_count;

#define NEED_CONTEXT if (depth == 0) return NO_CONTEXT

void fake_live(long *out) { memcpy(out, live, sizeof live); }

CUresult cuInit(unsigned flags) { return flags ? INVALID : OK; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return OK; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return OK; }
CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal == 0 ? OK : 101; }
CUresult cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Fake GPU %d", device); return OK; }
CUresult cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    switch (attribute) {
    case 16: *value = 8; break; /* multiprocessors */
    case 18: *value = getenv("FAKE_INTEGRATED") != NULL; break;
    case 75: *value = 9; break;
    case 76: *value = 0; break;
    default: *value = 1;
    }
    return OK;
}

CUresult cuDevicePrimaryCtxRetain(void **out, int device) { (void)device; live[CONTEXTS]++; *out = &context; return OK; }
CUresult cuDevicePrimaryCtxRelease_v2(int device) { (void)device; live[CONTEXTS]--; return OK; }
CUresult cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
CUresult cuCtxPushCurrent_v2(void *ctx) { if (ctx != &context) return INVALID; depth++; live[PUSHED]++; return OK; }
CUresult cuCtxPopCurrent_v2(void **ctx) { NEED_CONTEXT; depth--; live[PUSHED]--; if (ctx) *ctx = &context; return OK; }
CUresult cuCtxDetach(void *ctx) { (void)ctx; fprintf(stderr, "WARNING: a primary context was detached\n"); return INVALID; }
CUresult cuCtxGetCurrent(void **ctx) { *ctx = depth ? &context : NULL; return OK; }
CUresult cuCtxSetCurrent(void *ctx) { (void)ctx; return OK; }
CUresult cuCtxGetDevice(int *device) { *device = 0; return OK; }
CUresult cuCtxGetApiVersion(void *ctx, unsigned *version) { (void)ctx; *version = 3020; return OK; }

CUresult cuMemAlloc_v2(uint64_t *out, size_t bytes)
{
    NEED_CONTEXT;
    if (bytes == 0) return INVALID;
    if (bytes > (1u << 30)) return NO_MEMORY;
    *out = (uint64_t)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset((void *)(uintptr_t)*out, 0xAB, bytes);
    live[BUFFERS]++;
    return OK;
}
CUresult cuMemFree_v2(uint64_t address) { NEED_CONTEXT; free((void *)(uintptr_t)address); live[BUFFERS]--; return OK; }
CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
    NEED_CONTEXT;
    *out = malloc(bytes);
    memset(*out, 0xCD, bytes);
    live[PINNED]++;
    if (flags & 2) mapped[mapped_count++ % 64] = *out; /* CU_MEMHOSTALLOC_DEVICEMAP */
    return OK;
}
CUresult cuMemHostGetDevicePointer_v2(uint64_t *out, void *address, unsigned flags)
{
    NEED_CONTEXT;
    for (int i = 0; i < 64; i++)
        if (mapped[i] == address && !flags) {
            *out = (uint64_t)(uintptr_t)address;
            return OK;
        }
    return INVALID;
}
CUresult cuMemAllocHost_v2(void **out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }
CUresult cuMemFreeHost(void *address) { NEED_CONTEXT; free(address); live[PINNED]--; return OK; }

CUresult cuStreamCreate(Stream **out, unsigned flags)
{
    NEED_CONTEXT;
    if (flags != 1) return INVALID; /* CU_STREAM_NON_BLOCKING */
    *out = calloc(1, sizeof **out);
    live[STREAMS]++;
    return OK;
}
CUresult cuStreamDestroy_v2(Stream *stream) { free(stream); live[STREAMS]--; return OK; }
CUresult cuStreamSynchronize(Stream *stream) { NEED_CONTEXT; return stream->recording ? INVALID : OK; }
CUresult cuEventCreate(void **out, unsigned flags)
{
    NEED_CONTEXT;
    if (flags != 2) return INVALID; /* CU_EVENT_DISABLE_TIMING */
    *out = malloc(1);
    live[EVENTS]++;
    return OK;
}
CUresult cuEventDestroy_v2(void *event) { free(event); live[EVENTS]--; return OK; }
CUresult cuEventRecord(void *event, Stream *stream) { NEED_CONTEXT; return event && stream ? OK : INVALID; }
CUresult cuEventSynchronize(void *event) { NEED_CONTEXT; return event ? OK : INVALID; }

static CUresult copy(void *to, const void *from, size_t bytes, Stream *stream)
{
    NEED_CONTEXT;
    if (!stream) return INVALID;
    if (!stream->recording) {
        memcpy(to, from, bytes);
        return OK;
    }
    if (stream->recording->count == 64) return NO_MEMORY;
    stream->recording->copies[stream->recording->count++] = (Copy){to, from, bytes};
    return OK;
}
CUresult cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream)
{
    return copy((void *)(uintptr_t)to, from, bytes, stream);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream)
{
    return copy(to, (const void *)(uintptr_t)from, bytes, stream);
}
CUresult cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream *stream)
{
    return copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, stream);
}

CUresult cuStreamBeginCapture_v2(Stream *stream, int mode)
{
    NEED_CONTEXT;
    if (mode != 1 || stream->recording) return INVALID; /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
    stream->recording = calloc(1, sizeof(Graph));
    return OK;
}
CUresult cuStreamEndCapture(Stream *stream, Graph **out)
{
    *out = stream->recording;
    stream->recording = NULL;
    if (!*out) return INVALID;
    if (getenv("FAKE_CAPTURE_FAILS")) {
        free(*out);
        *out = NULL;
        return INVALIDATED;
    }
    live[GRAPHS]++;
    return OK;
}
CUresult cuGraphDestroy(Graph *graph) { free(graph); live[GRAPHS]--; return OK; }
CUresult cuGraphInstantiateWithFlags(Graph **out, Graph *graph, unsigned long long flags)
{
    (void)flags;
    *out = malloc(sizeof **out);
    **out = *graph;
    live[EXECUTABLES]++;
    return OK;
}
CUresult cuGraphExecDestroy(Graph *graph) { free(graph); live[EXECUTABLES]--; return OK; }
CUresult cuGraphLaunch(Graph *graph, Stream *stream)
{
    CUresult result = OK;
    for (int i = 0; i < graph->count && result == OK; i++)
        result = copy(graph->copies[i].to, graph->copies[i].from, graph->copies[i].bytes, stream);
    return result;
}

CUresult cuGetErrorName(CUresult error, const char **text) { (void)error; *text = "FAKE_ERROR"; return OK; }
CUresult cuGetErrorString(CUresult error, const char **text) { (void)error; *text = "an error of the fake driver"; return OK; }

/* Bindings ask for functions by name and version; ours have at most one version behind their name. */
CUresult cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, void *status)
{
    char versioned[128];
    (void)version;
    (void)flags;
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    *out = strcmp(name, "cuGetProcAddress") ? dlsym(self, versioned) : (void *)cuGetProcAddress_v2;
    if (!*out) *out = dlsym(self, name);
    if (!*out && !strcmp(name, "cuGraphInstantiate")) *out = (void *)cuGraphInstantiateWithFlags;
    if (status) *(int *)status = *out ? 0 : 1;
    return *out ? OK : 500; /* CUDA_ERROR_NOT_FOUND */
}
CUresult cuGetProcAddress(const char *name, void **out, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(name, out, version, flags, NULL);
}
