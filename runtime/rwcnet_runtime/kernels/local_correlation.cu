// Local correlation and projection in one pass: the cost volume is never written anywhere.
//
//     out[o, x] = bias[o] + sum_k weight[o, k] cost[k, x],  k over the N^3 offsets, N = 2 RADIUS + 1
//     dot:                  cost[k, x] = sum_c fixed[c, x] moving[c, x + k]
//     absolute difference:  cost[k, x] = sum_c |fixed[c, x] - moving[c, x + k]|, then the mean over the
//                           3^3 neighbours of x, those beyond the border counted as zeros
//
// Outside the image the moving features are zero. The mean is linear and so is the projection: the
// projected values are averaged, OUTPUTS a voxel instead of N^3.
//
// A block computes a tile of TILE_I x TILE_J x LINE voxels. The planes of the moving features that the
// tile needs pass through shared memory one by one, GROUP channels at a time, each read once. A thread
// computes STRIP voxels along j, so that a value it loads serves up to STRIP offsets; a warp is a line
// along k, so that its loads are contiguous, in global and in shared memory. The mean needs neighbours,
// so that then the tile's outermost layer is computed twice, for its neighbours and by them.
//
// Launched with THREADS threads on (tiles along i, j and k, multiplied; batch) blocks; arrays are
// (batch, channel, i, j, k), contiguous, the weight (OUTPUTS, 1, N, N, N). What the compiler is told:
// CHANNELS, OUTPUTS, RADIUS, GROUP (a divisor of CHANNELS), TILE_I, TILE_J (a multiple of 4),
// ABSOLUTE_DIFFERENCE and HALF (0 or 1). Sums are kept in float32 for either element type.

#if HALF
typedef unsigned short Element;  // the bits of a float16; cuda_fp16.h would need a CUDA toolkit
#else
typedef float Element;
#endif

#ifdef __CUDACC__
__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ __forceinline__ void store(float* at, float value) { *at = value; }
__device__ __forceinline__ void store(unsigned short* at, float value) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(*at) : "f"(value));
}
#endif  // a C++ compiler is given its own

constexpr int N = 2 * RADIUS + 1;
constexpr int HALO = ABSOLUTE_DIFFERENCE;
constexpr int STRIP = 4;
constexpr int LINE = 32;
constexpr int STRIPS = TILE_J / STRIP;
constexpr int THREADS = TILE_I * STRIPS * LINE;
constexpr int ROWS = TILE_J + 2 * RADIUS;
constexpr int COLUMNS = LINE + 2 * RADIUS;

extern "C" __global__ void __launch_bounds__(THREADS)
local_correlation(const Element* __restrict__ fixed, const Element* __restrict__ moving,
                  const Element* __restrict__ weight, const Element* __restrict__ bias,
                  int size_i, int size_j, int size_k, Element* __restrict__ out) {
    // One after the other: a plane of the moving features, one output of the tile to be averaged.
    __shared__ union {
        float plane[GROUP][ROWS][COLUMNS];
        float projected[TILE_I][TILE_J][LINE];
    } shared;
    // By offset along i, k, j: the order in which they are used.
    __shared__ float weights[N][N][N][OUTPUTS];

    const int thread = threadIdx.x;
    const int lane = thread % LINE;
    const int row = thread / LINE % STRIPS * STRIP;
    const int depth = thread / (LINE * STRIPS);

    const int tiles_j = (size_j - 1) / (TILE_J - 2 * HALO) + 1;
    const int tiles_k = (size_k - 1) / (LINE - 2 * HALO) + 1;
    const int i0 = int(blockIdx.x) / (tiles_j * tiles_k) * (TILE_I - 2 * HALO) - HALO;
    const int j0 = int(blockIdx.x) / tiles_k % tiles_j * (TILE_J - 2 * HALO) - HALO;
    const int k0 = int(blockIdx.x) % tiles_k * (LINE - 2 * HALO) - HALO;
    const int i = i0 + depth, j = j0 + row, k = k0 + lane;

    // Voxels of a whole map, or of a batch of them, may be more than an int holds.
    const long long area = (long long)size_j * size_k, volume = area * size_i;
    const long long here = i * area + (long long)j * size_k + k;
    const bool in_line = 0 <= i && i < size_i && 0 <= k && k < size_k;
    bool inside[STRIP];
#pragma unroll
    for (int v = 0; v < STRIP; ++v) inside[v] = in_line && 0 <= j + v && j + v < size_j;

#pragma unroll 1
    for (int n = thread; n < OUTPUTS * N * N * N; n += THREADS) {
        const int c = n % N, b = n / N % N, a = n / (N * N) % N, o = n / (N * N * N);
        weights[a][c][b][o] = as_float(weight[n]);
    }

    float sums[STRIP][OUTPUTS] = {};
#pragma unroll 1
    for (int first = 0; first < CHANNELS; first += GROUP) {
        const long long maps = ((long long)blockIdx.y * CHANNELS + first) * volume;
        float features[GROUP][STRIP];
#pragma unroll
        for (int g = 0; g < GROUP; ++g)
#pragma unroll
            for (int v = 0; v < STRIP; ++v)
                features[g][v] =
                    inside[v] ? as_float(fixed[maps + g * volume + here + v * size_k]) : 0.0f;

#pragma unroll 1
        for (int step = 0; step < TILE_I + 2 * RADIUS; ++step) {
            const int from_i = i0 + step - RADIUS;
            __syncthreads();  // nobody needs the plane before any more
#pragma unroll 1
            for (int n = thread; n < GROUP * ROWS * COLUMNS; n += THREADS) {
                const int x = n % COLUMNS, y = n / COLUMNS % ROWS, g = n / (COLUMNS * ROWS);
                const int from_j = j0 + y - RADIUS, from_k = k0 + x - RADIUS;
                const bool there = 0 <= from_i && from_i < size_i && 0 <= from_j &&
                                   from_j < size_j && 0 <= from_k && from_k < size_k;
                shared.plane[g][y][x] =
                    there ? as_float(moving[maps + g * volume + from_i * area +
                                            (long long)from_j * size_k + from_k])
                          : 0.0f;
            }
            __syncthreads();

            const int a = step - depth;  // the offset along i at which this thread sees the plane
            if (a < 0 || a >= N) continue;
#pragma unroll 1
            for (int c = 0; c < N; ++c) {
                float costs[N][STRIP] = {};
#pragma unroll
                for (int g = 0; g < GROUP; ++g) {
                    float column[STRIP + 2 * RADIUS];
#pragma unroll
                    for (int y = 0; y < STRIP + 2 * RADIUS; ++y)
                        column[y] = shared.plane[g][row + y][lane + c];
#pragma unroll
                    for (int b = 0; b < N; ++b)
#pragma unroll
                        for (int v = 0; v < STRIP; ++v)
                            if constexpr (ABSOLUTE_DIFFERENCE)
                                costs[b][v] += fabsf(features[g][v] - column[v + b]);
                            else
                                costs[b][v] += features[g][v] * column[v + b];
                }
#pragma unroll
                for (int b = 0; b < N; ++b)
#pragma unroll
                    for (int o = 0; o < OUTPUTS; ++o)
#pragma unroll
                        for (int v = 0; v < STRIP; ++v)
                            sums[v][o] += weights[a][c][b][o] * costs[b][v];
            }
        }
    }

    Element* const to = out + (long long)blockIdx.y * OUTPUTS * volume + here;
#pragma unroll
    for (int o = 0; o < OUTPUTS; ++o) {
        const float shift = as_float(bias[o]);
        if constexpr (!ABSOLUTE_DIFFERENCE) {
#pragma unroll
            for (int v = 0; v < STRIP; ++v)
                if (inside[v]) store(to + o * volume + v * size_k, sums[v][o] + shift);
            continue;
        }
        __syncthreads();  // nobody needs the plane, or the output before, any more
#pragma unroll
        for (int v = 0; v < STRIP; ++v)
            shared.projected[depth][row + v][lane] = inside[v] ? sums[v][o] : 0.0f;
        __syncthreads();
        if (depth < HALO || depth >= TILE_I - HALO || lane < HALO || lane >= LINE - HALO || !in_line)
            continue;
#pragma unroll 1
        for (int y = max(row, HALO); y < min(min(row + STRIP, TILE_J - HALO), size_j - j0); ++y) {
            float total = 0.0f;
#pragma unroll 1
            for (int a = -1; a <= 1; ++a)
                for (int b = -1; b <= 1; ++b)
                    for (int c = -1; c <= 1; ++c)
                        total += shared.projected[depth + a][y + b][lane + c];
            store(to + o * volume + (y - row) * size_k, total / 27.0f + shift);
        }
    }
}
