// SPDX-License-Identifier: Apache-2.0
// The kernels of learned similarities, written once over a vector type.
// Included by learned_kernels_{plain,avx2,avx512}.cc alone, each of which first
// defines, in namespace lintf and an anonymous namespace:
//   LINTF_SIMD, LINTF_SIMD_ENTRY, Vec, kLanes, Zero, Load, Store, Set1,
//   Set1Float, Sub, Add, Mul, Fma, MaxOf (the second one for a NaN), CopyTail,
//   LoadHalves, LoadBfloats, LoadTransposed<false>, NotLessEqual
//                            as knn_kernels_simd.h has them, and
//   Div(a, b)
//   Magnitude(v)             |v|
//   ZeroBelow(x, least, v)   v, and 0 where x < least
//   IfNegative(x, a, b)      a where x has its sign bit, otherwise b
//   TimesPower(p, t)         the last step of Exp in similarity.h
//   kTileVectors             vectors of rows in a tile
//   kCosts                   measured with learned_knn_bench, rows from memory
//   kMaxOutputs              a power of 2: sums of a vector that the registers
//                            have room for
#ifndef LINTF_CUSTOM_OPS_CORE_LEARNED_KERNELS_SIMD_H_
#define LINTF_CUSTOM_OPS_CORE_LEARNED_KERNELS_SIMD_H_

namespace lintf {
namespace {

constexpr int kTileRows = kTileVectors * kLanes;
static_assert(kTileRows <= kMaxTileRows);

LINTF_SIMD Vec Exp(Vec x) {
  using namespace exp_constants;
  const Vec round = Set1Float(kRound);
  const Vec t = Fma(x, Set1Float(kLog2E), round);
  const Vec n = Sub(t, round);
  Vec r = Fma(n, Set1Float(-kLn2High), x);
  r = Fma(n, Set1Float(-kLn2Low), r);
  Vec p = Set1Float(kC6);
  p = Fma(p, r, Set1Float(kC5));
  p = Fma(p, r, Set1Float(kC4));
  p = Fma(p, r, Set1Float(kC3));
  p = Fma(p, r, Set1Float(kC2));
  p = Fma(p, r, Set1Float(kC1));
  p = Fma(p, r, Set1Float(kC0));
  return ZeroBelow(x, Set1Float(kLeast), TimesPower(p, t));
}

LINTF_SIMD Vec Sigmoid(Vec x) {
  const Vec one = Set1Float(1.0f);
  const Vec e = Exp(Sub(Zero(), Magnitude(x)));
  // Where x is -0, e is 1.
  return Div(IfNegative(x, e, one), Add(one, e));
}

LINTF_SIMD Vec Silu(Vec x) { return Mul(x, Sigmoid(x)); }

LINTF_SIMD Vec Relu(Vec x) { return MaxOf(Zero(), x); }

// What sums start from: zero, a number for each output, or what is in `out`.
enum class Start : uint8_t { kZero, kGiven, kThere };

// out[o] = start + sum over d of weights[d * stride + o] * in[d], for `outputs`
// outputs; in[d] and out[o] are vectors of a tile.
struct MultiplyCall {
  const float* in = nullptr;  // [depth, kTileRows]
  int64_t depth = 0;
  const float* weights = nullptr;
  int64_t stride = 0;
  int64_t outputs = 0;
  Start start = Start::kZero;
  const float* starts = nullptr;  // kGiven: [outputs]
  float* out = nullptr;           // output o is at out + o * out_stride
  int64_t out_stride = kTileRows;
  RowFetch* fetch = nullptr;
};

// Lines that are fetched for each block of outputs.
constexpr int kLinesOfBlock = 16;

template <int kOutputs>
LINTF_SIMD_ENTRY void MultiplyOutputs(const MultiplyCall& call, int64_t first) {
  float* const out = call.out + first * call.out_stride;
  call.fetch->Some(kLinesOfBlock);
  Vec sums[kOutputs][kTileVectors];
#pragma GCC unroll 16
  for (int o = 0; o < kOutputs; ++o) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      sums[o][v] = call.start == Start::kZero ? Zero()
                   : call.start == Start::kGiven
                       ? Set1(call.starts + first + o)
                       : Load(out + o * call.out_stride + v * kLanes);
    }
  }
  const float* in = call.in;
  const float* weights = call.weights + first;
  for (int64_t d = 0; d < call.depth; ++d) {
    Vec rows[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) rows[v] = Load(in + v * kLanes);
#pragma GCC unroll 16
    for (int o = 0; o < kOutputs; ++o) {
      const Vec weight = Set1(weights + o);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) {
        sums[o][v] = Fma(weight, rows[v], sums[o][v]);
      }
    }
    in += kTileRows;
    weights += call.stride;
  }
#pragma GCC unroll 16
  for (int o = 0; o < kOutputs; ++o) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      Store(out + o * call.out_stride + v * kLanes, sums[o][v]);
    }
  }
}

LINTF_SIMD_ENTRY void Multiply(const MultiplyCall& call) {
  int64_t first = 0;
  for (; first + kMaxOutputs <= call.outputs; first += kMaxOutputs) {
    MultiplyOutputs<kMaxOutputs>(call, first);
  }
  if (kMaxOutputs > 4 && first + 4 <= call.outputs) {
    MultiplyOutputs<4>(call, first);
    first += 4;
  }
  if (first + 2 <= call.outputs) {
    MultiplyOutputs<2>(call, first);
    first += 2;
  }
  if (first < call.outputs) MultiplyOutputs<1>(call, first);
}

// A row that is not float32, as float32 with zeros up to a whole vector.
LINTF_SIMD_ENTRY void ExpandRow(ElementType type, const char* row, float scale,
                                int64_t dim, float* out) {
  const int64_t padded = (dim + kLanes - 1) / kLanes * kLanes;
  if (type == ElementType::kInt8) {
    const auto* const in = reinterpret_cast<const int8_t*>(row);
    for (int64_t d = 0; d < dim; ++d)
      out[d] = scale * static_cast<float>(in[d]);
    for (int64_t d = dim; d < padded; ++d) out[d] = 0.0f;
    return;
  }
  const bool halves = type == ElementType::kFloat16;
  const int64_t whole = dim / kLanes * kLanes;
  for (int64_t d = 0; d < whole; d += kLanes) {
    Store(out + d, halves ? LoadHalves(row + 2 * d) : LoadBfloats(row + 2 * d));
  }
  if (whole < dim) {
    alignas(64) char tail[4 * kLanes];
    CopyTail(row + 2 * whole, 2 * (dim - whole), tail);
    Store(out + whole, halves ? LoadHalves(tail) : LoadBfloats(tail));
  }
}

// Transposes kLanes numbers of each of kLanes rows into a tile.
LINTF_SIMD void StoreTransposed(const char* const* rows, int64_t at,
                                float* tile) {
  Vec columns[kLanes];
  LoadTransposed<false>(rows, at, columns);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) Store(tile + i * kTileRows, columns[i]);
}

LINTF_SIMD_ENTRY void LoadTile(const LoadTileCall& call, RowFetch* fetch) {
  constexpr int64_t kStepBytes = 4 * kLanes;
  const int64_t bytes = call.dim * ElementSize(call.type);
  for (int v = 0; v < kTileVectors; ++v) {
    const char* const* rows = call.rows + v * kLanes;
    float* const tile = call.tile + v * kLanes;
    const int64_t padded = (call.dim + kLanes - 1) / kLanes * kLanes;
    const char* expanded[kLanes];
    if (call.type != ElementType::kFloat32) {
      for (int r = 0; r < kLanes; ++r) {
        float* const row = call.row + r * padded;
        ExpandRow(call.type, rows[r],
                  call.type == ElementType::kInt8 ? call.scales[v * kLanes + r]
                                                  : 1.0f,
                  call.dim, row);
        expanded[r] = reinterpret_cast<const char*>(row);
      }
      for (int64_t d = 0; d < padded; d += kLanes) {
        fetch->Some(call.fetch_lines);
        StoreTransposed(expanded, 4 * d, tile + d * kTileRows);
      }
      continue;
    }
    const int64_t whole = call.dim / kLanes * kLanes;
    for (int64_t d = 0; d < whole; d += kLanes) {
      fetch->Some(call.fetch_lines);
      StoreTransposed(rows, 4 * d, tile + d * kTileRows);
    }
    if (whole < call.dim) {
      alignas(64) char tails[kLanes][kStepBytes];
      for (int r = 0; r < kLanes; ++r) {
        CopyTail(rows[r] + 4 * whole, bytes - 4 * whole, tails[r]);
        expanded[r] = tails[r];
      }
      StoreTransposed(expanded, 0, tile + whole * kTileRows);
    }
  }
}

LINTF_SIMD_ENTRY void LogitsOf(const Similarity& similarity,
                               const FoldedQuery& query, const float* tile,
                               float* scratch, float* logits, RowFetch* fetch) {
  const SimilarityShape& shape = similarity.shape;
  const int64_t dim = shape.component_dim;
  const int64_t r_count = shape.item_components;
  MultiplyCall call;
  call.fetch = fetch;
  if (shape.component != PairSimilarity::kHadamard) {
    call.depth = dim;
    call.stride = shape.query_components;
    call.outputs = shape.query_components;
    call.out_stride = r_count * kTileRows;
    for (int64_t r = 0; r < r_count; ++r) {
      call.in = tile + r * dim * kTileRows;
      call.weights = query.vectors.data() + r * dim * call.stride;
      call.out = logits + r * kTileRows;
      Multiply(call);
    }
    return;
  }
  const int64_t hidden = shape.hidden;
  call.start = Start::kGiven;
  for (int64_t p = 0; p < shape.query_components; ++p) {
    for (int64_t r = 0; r < r_count; ++r) {
      call.in = tile + r * dim * kTileRows;
      call.depth = dim;
      call.weights = query.vectors.data() + p * dim * hidden;
      call.stride = hidden;
      call.outputs = hidden;
      call.starts = similarity.joint_bias;
      call.out = scratch;
      Multiply(call);
      for (int64_t i = 0; i < hidden * kTileRows; i += kLanes) {
        Store(scratch + i, Relu(Load(scratch + i)));
      }
      call.in = scratch;
      call.depth = hidden;
      call.weights = query.output.data();
      call.stride = 1;
      call.outputs = 1;
      call.starts = &query.offset;
      call.out = logits + (p * r_count + r) * kTileRows;
      Multiply(call);
    }
  }
}

LINTF_SIMD_ENTRY void BoundsOf(int64_t pairs, const float* logits,
                               float* bounds) {
  for (int v = 0; v < kTileRows; v += kLanes) {
    Vec largest = Load(logits + v);
    Vec magnitudes = Magnitude(largest);
    for (int64_t l = 1; l < pairs; ++l) {
      const Vec logit = Load(logits + l * kTileRows + v);
      largest = MaxOf(logit, largest);
      magnitudes = Add(magnitudes, Magnitude(logit));
    }
    const Vec bound = Fma(Add(magnitudes, Set1Float(kBoundLeast)),
                          Set1Float(kBoundMargin), largest);
    alignas(64) float stored[2][kLanes];
    Store(stored[0], magnitudes);
    Store(stored[1], bound);
    for (int i = 0; i < kLanes; ++i) {
      bounds[v + i] = stored[0][i] < kBoundLargest ? stored[1][i] : INFINITY;
    }
  }
}

// The weighted sum of the logits of a vector of rows; z is overwritten.
LINTF_SIMD Vec Combine(Gate gate, int64_t pairs, float* z,
                       const float* logits) {
  Vec sum = Zero();
  if (gate == Gate::kRelu || gate == Gate::kSigmoid) {
    for (int64_t l = 0; l < pairs; ++l) {
      const Vec raw = Load(z + l * kTileRows);
      const Vec weight = gate == Gate::kRelu ? Relu(raw) : Sigmoid(raw);
      sum = Fma(weight, Load(logits + l * kTileRows), sum);
    }
    return sum;
  }
  if (gate == Gate::kSiluSoftmax) {
    for (int64_t l = 0; l < pairs; ++l) {
      Store(z + l * kTileRows, Silu(Load(z + l * kTileRows)));
    }
  }
  Vec most = Load(z);
  for (int64_t l = 1; l < pairs; ++l) {
    most = MaxOf(Load(z + l * kTileRows), most);
  }
  Vec total = Zero();
  for (int64_t l = 0; l < pairs; ++l) {
    const Vec e = Exp(Sub(Load(z + l * kTileRows), most));
    sum = Fma(e, Load(logits + l * kTileRows), sum);
    total = Add(total, e);
  }
  return Div(sum, total);
}

LINTF_SIMD_ENTRY void ScoresOf(const Similarity& similarity,
                               const FoldedQuery& query, const float* gates,
                               const float* logits, float* scratch,
                               float* scores, RowFetch* fetch) {
  const SimilarityShape& shape = similarity.shape;
  if (shape.gate == Gate::kNone) {
    for (int v = 0; v < kTileRows; v += kLanes) {
      Store(scores + v, Load(logits + v));
    }
    return;
  }
  const int64_t pairs = shape.pairs();
  const int64_t hidden_units = shape.gate_hidden;
  float* const z = scratch;
  float* const hidden = scratch + pairs * kTileRows;
  for (int64_t l = 0; l < pairs; ++l) {
    const Vec a = Set1(query.gate.data() + l);
    for (int v = 0; v < kTileRows; v += kLanes) {
      const int64_t at = l * kTileRows + v;
      const Vec b = Load(gates + at);
      Store(z + at, hidden_units == 0
                        ? Mul(a, b)
                        : Fma(a, b, Set1(similarity.gate_offset + l)));
    }
  }
  if (hidden_units > 0) {
    MultiplyCall call;
    call.fetch = fetch;
    call.in = logits;
    call.depth = pairs;
    call.weights = similarity.gate_kernel;
    call.stride = hidden_units;
    call.outputs = hidden_units;
    call.start = Start::kGiven;
    call.starts = similarity.gate_bias;
    call.out = hidden;
    Multiply(call);
    for (int64_t i = 0; i < hidden_units * kTileRows; i += kLanes) {
      Store(hidden + i, Silu(Load(hidden + i)));
    }
    call.in = hidden;
    call.depth = hidden_units;
    call.weights = similarity.gate_output;
    call.stride = pairs;
    call.outputs = pairs;
    call.start = Start::kThere;
    call.out = z;
    Multiply(call);
  }
  for (int v = 0; v < kTileRows; v += kLanes) {
    Store(scores + v, Combine(shape.gate, pairs, z + v, logits + v));
  }
}

LINTF_SIMD_ENTRY uint64_t AboveOf(const float* values, float threshold) {
  const Vec limit = Set1Float(threshold);
  uint64_t bits = 0;
  for (int v = 0; v < kTileRows; v += kLanes) {
    bits |= static_cast<uint64_t>(NotLessEqual(Load(values + v), limit)) << v;
  }
  return bits;
}

constexpr LearnedKernels kLearnedKernels = {
    kLanes, kTileRows, kCosts, LoadTile, LogitsOf, BoundsOf, ScoresOf, AboveOf};

}  // namespace
}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_LEARNED_KERNELS_SIMD_H_
