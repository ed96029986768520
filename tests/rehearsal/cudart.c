/* A CUDA runtime with one device and nothing behind it, for LD_PRELOAD: what torch asks before and around work on fake tensors. */
#include <stdlib.h>
#include <string.h>

#define FREE_BYTES (139ul << 30)
#define DONE(name, ...) int name(__VA_ARGS__) { return 0; }

static int current = 0;
int cudaGetDevice(int *device) { *device = current; return 0; }
int cudaSetDevice(int device) { current = device; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = 9; return 0; }

/* The first fields of CUDA 13's struct cudaDeviceProp, which has no header outside of CUDA's own toolkit. */
struct properties {
    char name[256], ids[32];
    size_t total_memory, shared_memory;
    int registers, warp_size;
    size_t pitch;
    int threads, threads_dim[3], grid[3];
    size_t constant_memory;
    int major, minor;
    size_t texture[2];
    int processors;
};
int cudaGetDeviceProperties(struct properties *it, int device) {
    memset(it, 0, sizeof *it);
    strcpy(it->name, "no GPU");
    it->total_memory = FREE_BYTES, it->warp_size = 32, it->major = 9, it->processors = 132;
    return 0;
}

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -3; return 0; }
int cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; return 0; }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = FREE_BYTES; return 0; }
int cudaPointerGetAttributes(void *attributes, const void *pointer) { memset(attributes, 0, 32); return 0; }
DONE(cudaGetLastError, void)
DONE(cudaPeekAtLastError, void)
DONE(cudaThreadExchangeStreamCaptureMode, int *mode)

/* Host memory stands in for the device's; fake tensors hold none. */
int cudaMalloc(void **memory, size_t size) { *memory = calloc(1, size + 256); return 0; }
int cudaMallocAsync(void **memory, size_t size, void *stream) { return cudaMalloc(memory, size); }
int cudaHostAlloc(void **memory, size_t size, unsigned flags) { return cudaMalloc(memory, size); }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { memcpy(to, from, size); return 0; }
int cudaMemsetAsync(void *memory, int value, size_t size, void *stream) { memset(memory, value, size); return 0; }
DONE(cudaFree, void *memory)
DONE(cudaFreeHost, void *memory)
DONE(cudaHostRegister, void *memory, size_t size, unsigned flags)
DONE(cudaHostUnregister, void *memory)

int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { *stream = malloc(8); return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *status, void *a, void *b, void *c, void *d) { *status = 0; return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = malloc(8); return 0; }
int cudaEventElapsedTime(float *milliseconds, void *start, void *end) { *milliseconds = 1; return 0; }
DONE(cudaDeviceSynchronize, void)
DONE(cudaStreamSynchronize, void *stream)
DONE(cudaStreamQuery, void *stream)
DONE(cudaStreamWaitEvent, void *stream, void *event, unsigned flags)
DONE(cudaEventRecord, void *event, void *stream)
DONE(cudaEventRecordWithFlags, void *event, void *stream, unsigned flags)
DONE(cudaEventQuery, void *event)
DONE(cudaEventSynchronize, void *event)
DONE(cudaEventDestroy, void *event)
