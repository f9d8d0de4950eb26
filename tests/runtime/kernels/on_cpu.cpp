// The kernel as C++, for a CPU: compiled with KERNEL, its source, and what that wants defined.
//
// Each thread of a block is a fibre that runs until it waits at __syncthreads or ends; then the next
// one runs. So every thread is as far ahead of the others, or as far behind, as it can ever be on a
// GPU, and a missing __syncthreads shows. Shared memory is full of NaN when a block starts.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#define __global__
#define __launch_bounds__(threads)
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads wait_for_the_others

using std::max;
using std::min;

struct Index {
    int x, y;
};

static Index threadIdx, blockIdx;

static float as_float(float value) { return value; }
static void store(float* at, float value) { *at = value; }

static float as_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? std::ldexp(float(1024 + fraction), exponent - 25)
                                      : std::ldexp(float(fraction), -24);
    return bits >> 15 ? -size : size;
}

static void store(unsigned short* at, float value) {
    const int sign = std::signbit(value) << 15;
    const float size = std::fabs(value);
    int bits = 31 << 10;
    if (std::isnan(size)) {
        ++bits;
    } else if (size < 65520.0f) {
        const int exponent = max(std::ilogb(size), -14);
        // Rounded to even; a fraction that rounds up to the next power of two carries over.
        bits = ((exponent + 14) << 10) + int(std::nearbyint(std::ldexp(size, 10 - exponent)));
    }
    *at = (unsigned short)(sign | bits);
}

struct Fibre {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 * 1024);
    bool ended;
};

static ucontext_t scheduler;
static Fibre* running;

// The linker puts these around the section.
extern "C" char __start_shared_memory[], __stop_shared_memory[];

static void call_kernel();

static void start() {
    call_kernel();
    running->ended = true;
}

static void wait_for_the_others() {
    const Index thread = threadIdx;
    swapcontext(&running->context, &scheduler);
    threadIdx = thread;
}

// Return whether the threads of the block all waited equally often.
static bool run_block(std::vector<Fibre>& fibres, bool backwards) {
    const int count = int(fibres.size());
    std::memset(__start_shared_memory, 0xFF, size_t(__stop_shared_memory - __start_shared_memory));
    for (Fibre& fibre : fibres) {
        fibre.ended = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = &scheduler;
        makecontext(&fibre.context, start, 0);
    }
    for (int ended = 0; ended == 0;) {
        for (int n = 0; n < count; ++n) {
            threadIdx.x = backwards ? count - 1 - n : n;
            running = &fibres[size_t(threadIdx.x)];
            swapcontext(&scheduler, &running->context);
            ended += running->ended;
        }
        if (ended != 0 && ended != count) return false;
    }
    return true;
}

#include KERNEL

static const Element *fixed_map, *moving_map, *weights, *shifts;
static int sizes[3];
static Element* result;

static void call_kernel() {
    local_correlation(fixed_map, moving_map, weights, shifts, sizes[0], sizes[1], sizes[2], result);
}

extern "C" int launch(int blocks, int batch, int threads, int backwards, const Element* fixed,
                      const Element* moving, const Element* weight, const Element* bias, int size_i,
                      int size_j, int size_k, Element* out) {
    fixed_map = fixed, moving_map = moving, weights = weight, shifts = bias, result = out;
    sizes[0] = size_i, sizes[1] = size_j, sizes[2] = size_k;
    std::vector<Fibre> fibres(static_cast<size_t>(threads));
    for (blockIdx.y = 0; blockIdx.y < batch; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
            if (!run_block(fibres, backwards)) return 1;
    return 0;
}
