// Runs the CUDA kernels on a CPU; see emulate-cuda-kernels.sh.

#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <thread>
#include <vector>

// The parts of CUDA that the kernels use. Blocks run one after another, so that static memory belongs
// to one block.
struct Index {
    unsigned x;
};
static thread_local Index threadIdx;
static Index blockIdx, blockDim;
static std::barrier<> *together;
#define __device__
#define __global__
#define __shared__ static
static void __syncthreads() { together->arrive_and_wait(); }

struct __nv_bfloat16 {
    uint16_t bits;
};
static float __bfloat162float(__nv_bfloat16 value) { return std::bit_cast<float>((uint32_t)value.bits << 16); }
static __nv_bfloat16 __float2bfloat16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

#include "fused.cu"

static void launch(unsigned blocks, unsigned threads, const std::function<void()> &kernel) {
    std::barrier<> barrier(threads);
    together = &barrier;
    blockDim.x = threads;
    std::vector<std::thread> running;
    // The same threads run all blocks; a barrier separates one block from the next.
    for (unsigned thread = 0; thread < threads; thread++) {
        running.emplace_back([&, thread] {
            threadIdx.x = thread;
            for (unsigned block = 0; block < blocks; block++) {
                if (thread == 0) blockIdx.x = block;
                __syncthreads();
                kernel();
                __syncthreads();
            }
        });
    }
    for (auto &one : running) one.join();
}

static std::mt19937 generator(1);
static float draw() { return std::uniform_real_distribution<float>(-1, 1)(generator); }

template <typename T> struct Numbers {
    std::vector<T> typed;
    std::vector<double> exact;
    explicit Numbers(size_t count, float center = 0) : typed(count), exact(count) {
        for (size_t i = 0; i < count; i++) {
            store(&typed[i], draw() + center);
            exact[i] = load(&typed[i]);
        }
    }
};

static int failures = 0;

// The tolerance of a result that is computed in float and rounded once, to `digits` bits.
template <typename T>
static void check(const char *what, const std::vector<T> &found, const std::vector<double> &expected, double slack) {
    const double rounding = sizeof(T) == 2 ? 1.0 / 256 : 1e-6;
    double worst = 0;
    for (size_t i = 0; i < found.size(); i++) {
        const double off = std::fabs(load(&found[i]) - expected[i]) / (rounding * std::fabs(expected[i]) + slack);
        worst = off > worst || off != off ? off : worst;
    }
    const bool good = worst <= 1;
    std::printf("%s %s, %zu-byte numbers: %.3f of what rounding allows\n", good ? "ok" : "FAILED", what, sizeof(T), worst);
    failures += !good;
}

template <typename T> using NormKernel = void (*)(const T *, const float *, const float *, const float *, const float *, T *, unsigned,
                                                  unsigned, unsigned, unsigned, float, unsigned, unsigned);

template <typename T> static void norms(NormKernel<T> kernel) {
    struct Case {
        unsigned n, channels, groups, area, threads;
    };
    for (auto [n, channels, groups, area, threads] : {Case{2, 12, 4, 35, 128}, Case{3, 8, 8, 1, 32}, Case{1, 6, 2, 300, 256}}) {
        for (unsigned flags = 0; flags < 4; flags++) {
            const unsigned modulate = flags & 1, silu = flags >> 1, stride = 2 * channels;
            // Far from 0, where a variance computed as a difference of means would lose its digits.
            Numbers<T> x((size_t)n * channels * area, 5);
            Numbers<float> weight(channels), bias(channels), emb((size_t)n * stride);
            std::vector<T> y(x.typed.size());
            launch(n * groups, threads, [&, groups = groups, channels = channels, area = area] {
                kernel(x.typed.data(), weight.typed.data(), bias.typed.data(), emb.typed.data(), emb.typed.data() + channels, y.data(),
                       channels, groups, area, stride, 1e-5f, modulate, silu);
            });
            std::vector<double> expected(y.size());
            const unsigned size = channels / groups * area;
            for (size_t start = 0; start < y.size(); start += size) {
                double mean = 0, variance = 0;
                for (unsigned i = 0; i < size; i++) mean += x.exact[start + i] / size;
                for (unsigned i = 0; i < size; i++) variance += std::pow(x.exact[start + i] - mean, 2) / size;
                for (unsigned i = 0; i < size; i++) {
                    const size_t at = start + i, channel = at / area % channels, image = at / area / channels;
                    double value = (x.exact[at] - mean) / std::sqrt(variance + 1e-5) * weight.exact[channel] + bias.exact[channel];
                    if (modulate) value = value * (1 + emb.exact[image * stride + channel]) + emb.exact[image * stride + channels + channel];
                    if (silu) value = value / (1 + std::exp(-value));
                    expected[at] = value;
                }
            }
            check("group norm", y, expected, size < 4 ? 1e-3 : 2e-5);
        }
    }
}

template <typename T> static void softmaxes(void (*kernel)(const T *, T *, unsigned, unsigned, float)) {
    struct Case {
        unsigned rows, columns, queries, threads;
    };
    for (auto [rows, columns, queries, threads] : {Case{10, 77, 0, 128}, Case{6, 300, 0, 256}, Case{14, 7, 7, 32}, Case{3, 1, 1, 32}}) {
        Numbers<T> scores((size_t)rows * columns, 30);
        std::vector<T> weights(scores.typed.size());
        const float factor = 7.5;
        launch(rows, threads, [&, columns = columns, queries = queries] {
            kernel(scores.typed.data(), weights.data(), columns, queries, factor);
        });
        std::vector<double> expected(weights.size());
        for (unsigned row = 0; row < rows; row++) {
            const unsigned seen = queries ? row % queries + 1 : columns;
            const double *values = scores.exact.data() + (size_t)row * columns;
            double largest = values[0], sum = 0;
            for (unsigned i = 0; i < seen; i++) largest = std::fmax(largest, values[i]);
            for (unsigned i = 0; i < seen; i++) sum += std::exp(factor * (values[i] - largest));
            for (unsigned i = 0; i < seen; i++)
                expected[(size_t)row * columns + i] = std::exp(factor * (values[i] - largest)) / sum;
        }
        check("softmax", weights, expected, 5e-5);
    }
}

template <typename T>
static void epilogues(void (*kernel)(const T *, const T *, const T *, T *, unsigned, unsigned, unsigned, unsigned)) {
    for (unsigned flags = 0; flags < 4; flags++) {
        const unsigned add = flags & 1, relu = flags >> 1, n = 3, channels = 5, area = 70;
        Numbers<T> x((size_t)n * channels * area), bias(channels), residual(x.typed.size());
        std::vector<T> y(x.typed.size());
        launch(n * channels, 64, [&] {
            kernel(x.typed.data(), bias.typed.data(), add ? residual.typed.data() : x.typed.data(), y.data(), channels, area, add, relu);
        });
        std::vector<double> expected(y.size());
        for (size_t i = 0; i < y.size(); i++) {
            const double value = x.exact[i] + bias.exact[i / area % channels] + (add ? residual.exact[i] : 0);
            expected[i] = relu && value < 0 ? 0 : value;
        }
        check("bias and what follows", y, expected, 1e-6);
    }
}

int main() {
    norms<float>(group_norm_f32);
    norms<__nv_bfloat16>(group_norm_bf16);
    softmaxes<float>(softmax_f32);
    softmaxes<__nv_bfloat16>(softmax_bf16);
    epilogues<float>(epilogue_f32);
    epilogues<__nv_bfloat16>(epilogue_bf16);
    std::printf("%d failed\n", failures);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
