// Fused kernels for operators that candle composes of many. scripts/build-ptx.sh compiles this file to
// fused.ptx and must run after every change (a test compares the digests);
// scripts/emulate-cuda-kernels.sh runs the same source on a CPU.
//
// All arithmetic is float; a number is rounded to its type once, when it is stored. A block has a power
// of two of threads, at most THREADS.

#ifndef EMULATED
#include <cuda_bf16.h>
#endif

#define THREADS 256

__device__ inline float load(const float *at) { return *at; }
__device__ inline float load(const __nv_bfloat16 *at) { return __bfloat162float(*at); }
__device__ inline void store(float *at, float value) { *at = value; }
__device__ inline void store(__nv_bfloat16 *at, float value) { *at = __float2bfloat16(value); }

struct Sum {
    __device__ static float join(float a, float b) { return a + b; }
};
struct Max {
    // Keeps NaN, unlike fmaxf.
    __device__ static float join(float a, float b) { return a > b || a != a ? a : b; }
};

// Reduces the values of a block's threads; all threads get the result. The order of the operations
// depends on the block's size alone.
template <typename Join> __device__ float reduce(float value, float *shared) {
    const unsigned thread = threadIdx.x;
    shared[thread] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (thread < half) {
            shared[thread] = Join::join(shared[thread], shared[thread + half]);
        }
        __syncthreads();
    }
    const float joined = shared[0];
    __syncthreads();
    return joined;
}

// Group norm of x [n, channels, area], then weight and bias per channel, then · (1 + scale) + shift per
// image and channel if `modulate`, then SiLU if `silu`. Rows of scale and shift begin `stride` numbers
// apart. One block per group of an image.
template <typename T>
__device__ void group_norm(const T *x, const float *weight, const float *bias, const float *scale,
                           const float *shift, T *y, unsigned channels, unsigned groups, unsigned area,
                           unsigned stride, float eps, unsigned modulate, unsigned silu) {
    __shared__ float shared[THREADS];
    const unsigned image = blockIdx.x / groups, group = blockIdx.x % groups;
    const unsigned per_group = channels / groups, size = per_group * area;
    const size_t start = ((size_t)image * channels + (size_t)group * per_group) * area;
    x += start;
    y += start;
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
        sum += load(x + i);
    }
    const float mean = reduce<Sum>(sum, shared) / (float)size;
    float squares = 0.0f;
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
        const float centred = load(x + i) - mean;
        squares += centred * centred;
    }
    const float deviation = sqrtf(reduce<Sum>(squares, shared) / (float)size + eps);
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
        const unsigned channel = group * per_group + i / area;
        float value = (load(x + i) - mean) / deviation * weight[channel] + bias[channel];
        if (modulate) {
            const size_t place = (size_t)image * stride + channel;
            value = value * (1.0f + scale[place]) + shift[place];
        }
        if (silu) {
            value = value / (1.0f + expf(-value));
        }
        store(y + i, value);
    }
}

// Softmax of factor · scores over the last dimension, [rows, columns]. If `queries` is not 0, row r
// includes the columns 0 to r modulo `queries` only. One block per row.
template <typename T>
__device__ void softmax(const T *scores, T *weights, unsigned columns, unsigned queries, float factor) {
    __shared__ float shared[THREADS];
    const size_t start = (size_t)blockIdx.x * columns;
    scores += start;
    weights += start;
    const unsigned seen = queries ? blockIdx.x % queries + 1 : columns;
    float largest = -INFINITY;
    for (unsigned i = threadIdx.x; i < seen; i += blockDim.x) {
        largest = Max::join(largest, factor * load(scores + i));
    }
    largest = reduce<Max>(largest, shared);
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < seen; i += blockDim.x) {
        sum += expf(factor * load(scores + i) - largest);
    }
    sum = reduce<Sum>(sum, shared);
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) {
        store(weights + i, i < seen ? expf(factor * load(scores + i) - largest) / sum : 0.0f);
    }
}

// x [n, channels, area] plus bias per channel, plus the residual of the same shape if `add`, with
// negative numbers replaced by 0 if `relu`. One block per channel of an image.
template <typename T>
__device__ void epilogue(const T *x, const T *bias, const T *residual, T *y, unsigned channels, unsigned area,
                         unsigned add, unsigned relu) {
    const size_t start = (size_t)blockIdx.x * area;
    const float offset = load(bias + blockIdx.x % channels);
    for (unsigned i = threadIdx.x; i < area; i += blockDim.x) {
        float value = load(x + start + i) + offset;
        if (add) {
            value += load(residual + start + i);
        }
        if (relu) {
            // Not fmaxf, which would drop a NaN.
            value = value < 0.0f ? 0.0f : value;
        }
        store(y + start + i, value);
    }
}

#define KERNELS(T, NAME)                                                                                               \
    extern "C" __global__ void group_norm_##NAME(const T *x, const float *weight, const float *bias,                   \
                                                 const float *scale, const float *shift, T *y, unsigned channels,      \
                                                 unsigned groups, unsigned area, unsigned stride, float eps,           \
                                                 unsigned modulate, unsigned silu) {                                   \
        group_norm<T>(x, weight, bias, scale, shift, y, channels, groups, area, stride, eps, modulate, silu);          \
    }                                                                                                                  \
    extern "C" __global__ void softmax_##NAME(const T *scores, T *weights, unsigned columns, unsigned queries,         \
                                              float factor) {                                                          \
        softmax<T>(scores, weights, columns, queries, factor);                                                         \
    }                                                                                                                  \
    extern "C" __global__ void epilogue_##NAME(const T *x, const T *bias, const T *residual, T *y, unsigned channels,  \
                                               unsigned area, unsigned add, unsigned relu) {                           \
        epilogue<T>(x, bias, residual, y, channels, area, add, relu);                                                  \
    }

KERNELS(float, f32)
KERNELS(__nv_bfloat16, bf16)
