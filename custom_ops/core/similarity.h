// SPDX-License-Identifier: Apache-2.0
// Learned similarities: what a query and a row score when it is not an inner
// product (sections 3.3 of arXiv 2407.13218 and 3 of arXiv 2306.04039).
//
// lintf/similarity/spec.py has the equations. A query vector is
// q = [f_1 .. f_P | A], a row x = [g_1 .. g_R | B]; the pair of f_p and g_r is
// number l = p R + r of L = P R, counted from 0. With `none` there are no A
// and B.
//
// Numerics. Everything is float32, one operation at a time, each rounded to
// nearest even, subnormals kept (float_environment.h); fma is fused, `+ - * /`
// are not, and division is IEEE's (nvcc: -prec-div=true, no fast math). Every
// path (plain, AVX2, AVX-512, CUDA) does exactly these operations in this
// order, so that a score never depends on the path, the batch, the tiles, the
// lanes or the threads. "Over i" means ascending.
//
//   Rows. x is the stored row as float32; kInt8: scale * float(integer).
//   bfloat16 and float16 convert exactly.
//
//   Folding, once a query:
//     inner_product  u_l[d]  = f_p[d] / temperature      (the same for all r)
//     weighted       u_l[d]  = (w_l[d] * f_p[d]) / temperature
//     hadamard       u_ph[d] = W_h[d] * f_p[d]
//                    v'_h    = v_h / temperature,  c' = c / temperature
//   Logits, of each pair:
//     inner_product, weighted
//                    s = 0; over d: s = fma(u_l[d], g_r[d], s)
//     hadamard       for each h: t_h = b_h; over d: t_h = fma(u_ph[d], g_r[d],
//                    t_h); then s = c'; over h: s = fma(v'_h, Relu(t_h), s)
//   Gate, unless it is `none`:
//     y_j  = gate_bias[j]; over l: y_j = fma(gate_kernel[l][j], s_l, y_j)
//     y_j  = Silu(y_j)
//     z_l  = fma(A_l, B_l, gate_offset[l])
//            over j: z_l = fma(gate_output[j][l], y_j, z_l)
//            without a pair gate (gate_hidden 0): z_l = A_l * B_l
//   Score:
//     none           s_0
//     relu, sigmoid  n = 0; over l: n = fma(Relu(z_l) or Sigmoid(z_l), s_l, n)
//     softmax        m = max over l of z_l
//                    n = 0, w = 0; over l: e = Exp(z_l - m),
//                    n = fma(e, s_l, n), w = w + e; the score is n / w
//     silu_softmax   the same of Silu(z_l)
//   and a NaN is reported as -inf, -0 as +0 (top_k.h). A NaN can come from
//   infinite intermediate results alone, as vectors and weights are finite.
//
//   Relu(x)    = 0 > x ? 0 : x                           (NaN stays NaN)
//   Sigmoid(x) = (0 > x ? e : 1) / (1 + e), e = Exp(-|x|)
//   Silu(x)    = x * Sigmoid(x)
//   Exp(x)     for x <= 0 or NaN: below.
//
// Error. A score is off that of lintf/similarity/reference.py, computed on the
// stored row, by the rounding of these sums: for logits, (component_dim + 3)
// 2^-24 times the sum of the magnitudes that are added; a weight of the gate
// inherits the error of its z absolutely, and Exp is off by 1.2e-7 of its
// value. With logits and gates of a trained model's size similarity_test.cc
// holds a score to 2e-5 (1 + the largest magnitude of the logits), times the
// number of pairs where weights do not add up to 1 (relu, sigmoid).
//
// Order. Higher score first; equal scores by lower row.
#ifndef LINTF_CUSTOM_OPS_CORE_SIMILARITY_H_
#define LINTF_CUSTOM_OPS_CORE_SIMILARITY_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace lintf {

// How a pair of components is compared.
enum class PairSimilarity : uint8_t { kInnerProduct, kWeighted, kHadamard };

// What makes weights of z. No score of a convex gate (kSoftmax, kSiluSoftmax)
// exceeds the largest logit, but for rounding; see LogitBound.
enum class Gate : uint8_t { kNone, kSoftmax, kSiluSoftmax, kRelu, kSigmoid };

inline constexpr int64_t kMaxPairs = 64;
inline constexpr int64_t kMaxGateHidden = 256;
inline constexpr int64_t kMaxHidden = 64;
inline constexpr int64_t kMaxComponentDim = 1024;

// The same fields as SimilaritySpec of lintf/similarity/spec.py.
struct SimilarityShape {
  int64_t query_components = 1;  // P
  int64_t item_components = 1;   // R
  int64_t component_dim = 32;
  PairSimilarity component = PairSimilarity::kInnerProduct;
  int64_t hidden = 0;  // of the joint MLP; kHadamard alone
  float temperature = 1.0f;
  Gate gate = Gate::kNone;
  int64_t gate_hidden = 0;  // 0: no pair gate

  int64_t pairs() const { return query_components * item_components; }
  int64_t gate_dim() const { return gate == Gate::kNone ? 0 : pairs(); }
  int64_t components_dim() const { return item_components * component_dim; }
  int64_t query_dim() const {
    return query_components * component_dim + gate_dim();
  }
  int64_t item_dim() const { return components_dim() + gate_dim(); }
  // Whether a score can't exceed its largest logit; kBounded needs it.
  bool is_convex() const {
    return gate != Gate::kRelu && gate != Gate::kSigmoid;
  }
  // Fused multiply-adds of a row's logits, and of its pair gate.
  int64_t logit_fmas() const {
    return pairs() * (component == PairSimilarity::kHadamard
                          ? hidden * (component_dim + 1)
                          : component_dim);
  }
  int64_t gate_fmas() const { return 2 * pairs() * gate_hidden; }
  // What is wrong with the shape, by the names of SimilaritySpec; empty if it
  // is fine. Nothing below may be called for a shape that is not.
  std::string Error() const;
};

// Names as SimilaritySpec has them. False: there is no such name.
bool ParsePairSimilarity(const std::string& name, PairSimilarity* component);
bool ParseGate(const std::string& name, Gate* gate);

// One of the weights that a shape has.
struct SimilarityWeight {
  const char* name;
  std::vector<int64_t> dims;

  int64_t size() const {
    int64_t size = 1;
    for (const int64_t dim : dims) size *= dim;
    return size;
  }
};

// A similarity with its weights, row-major and finite, which the caller owns;
// null where the shape has none.
struct Similarity {
  SimilarityShape shape;
  const float* pair_weights = nullptr;  // kWeighted: [pairs, component_dim]
  const float* joint_kernel = nullptr;  // kHadamard: [hidden, component_dim]
  const float* joint_bias = nullptr;    // [hidden]
  const float* joint_output = nullptr;  // [hidden]
  const float* joint_offset = nullptr;  // [1]
  const float* gate_kernel = nullptr;   // gate_hidden: [pairs, gate_hidden]
  const float* gate_bias = nullptr;     // [gate_hidden]
  const float* gate_output = nullptr;   // [gate_hidden, pairs]
  const float* gate_offset = nullptr;   // [pairs]

  // The weights of a shape, as SimilaritySpec.weight_shapes() has them: in
  // the order of the fields above.
  static std::vector<SimilarityWeight> Weights(const SimilarityShape& shape);
  // `weights` has a pointer for each of them.
  static Similarity Of(const SimilarityShape& shape,
                       const std::vector<const float*>& weights);
};

// e^x for x <= 0, off by at most 1.2e-7 of its value; 0 below -87, NaN for
// NaN, and exactly 1 for 0. The operations:
//   if x < -87: 0
//   t = fma(x, kLog2E, kRound); n = t - kRound       (x / ln 2, rounded)
//   r = fma(n, -kLn2High, x); r = fma(n, -kLn2Low, r)
//   p = c[6]; for i = 5 .. 0: p = fma(p, r, c[i])
//   p * (the float whose bits are (bits of t << 23) + 0x3F800000)
namespace exp_constants {
inline constexpr float kLeast = -87.0f;
inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kRound = 0x1.8p23f;
// The high part has trailing zeros: n times it is exact.
inline constexpr float kLn2High = 0x1.62e4p-1f;
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;
inline constexpr float kC0 = 1.0f;
inline constexpr float kC1 = 1.0f;
inline constexpr float kC2 = 0x1.fffffcp-2f;
inline constexpr float kC3 = 0x1.555492p-3f;
inline constexpr float kC4 = 0x1.5558f2p-5f;
inline constexpr float kC5 = 0x1.123a2p-7f;
inline constexpr float kC6 = 0x1.6a23dp-10f;
}  // namespace exp_constants

inline float SimilarityExp(float x) {
  using namespace exp_constants;
  if (x < kLeast) return 0.0f;
  const float t = std::fma(x, kLog2E, kRound);
  const float n = t - kRound;
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = kC6;
  p = std::fma(p, r, kC5);
  p = std::fma(p, r, kC4);
  p = std::fma(p, r, kC3);
  p = std::fma(p, r, kC2);
  p = std::fma(p, r, kC1);
  p = std::fma(p, r, kC0);
  uint32_t bits;
  std::memcpy(&bits, &t, sizeof(bits));
  bits = (bits << 23) + 0x3F800000u;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

inline float SimilarityRelu(float x) { return 0.0f > x ? 0.0f : x; }

inline float SimilaritySigmoid(float x) {
  const float e = SimilarityExp(-std::fabs(x));
  return (0.0f > x ? e : 1.0f) / (1.0f + e);
}

inline float SimilaritySilu(float x) { return x * SimilaritySigmoid(x); }

// A query made ready: what does not depend on the row.
struct FoldedQuery {
  // Of dimension d of item component r, next to each other the numbers of all
  // p: kInnerProduct and kWeighted [R, component_dim, P] of u_l; of d and p
  // those of all h: kHadamard [P, component_dim, hidden] of u_ph.
  std::vector<float> vectors;
  std::vector<float> output;  // kHadamard: v', [hidden]
  float offset = 0.0f;        // kHadamard: c'
  std::vector<float> gate;    // A, [gate_dim]
};
FoldedQuery FoldQuery(const Similarity& similarity, const float* query);

// Vectors of item_dim numbers whose inner products with rows select
// candidates: that of the averaged query is the mean of all logits, that of
// pair l's is the logit l. Where there is a joint MLP it stands for it without
// its ReLU. What other numbers than a pair's own, and the gate, are multiplied
// by is 0. With u as above, and for kHadamard
//   k[d] = 0; over h: k[d] = fma(v'_h, W_h[d], k[d]);  u_l[d] = k[d] * f_p[d]
//   pair query l: out[r component_dim + d] = u_l[d]
//   averaged:     t = 0; over p: t = t + u_pr[d];
//                 out[r component_dim + d] = t / float(L)
// They are then searched for as MaskedKnn has inner products (for kInt8 rows
// by integers).
void AveragedQuery(const Similarity& similarity, const float* query,
                   float* out);
void PairQuery(const Similarity& similarity, const float* query, int64_t pair,
               float* out);

// The logits of a decoded row, [pairs], and the score of it: scalar, as
// written above. The score as reported: no NaN, no -0.
void PairLogits(const Similarity& similarity, const FoldedQuery& query,
                const float* row, float* logits);
float SimilarityScore(const Similarity& similarity, const FoldedQuery& query,
                      const float* row);

// With a convex gate every score is below this, rounding included; +inf where
// the logits are too large (or infinite, or NaN) to say. `largest` is the
// greatest logit, `magnitudes` the sum of all magnitudes.
//
// Of e >= 0, one of them 1, the sums over L <= 64 terms are off by less than
// 2 L + 2 roundings of 2^-24 of the magnitudes, together less than 2^-16.
inline constexpr float kBoundMargin = 0x1p-16f;
inline constexpr float kBoundLeast = 1e-30f;   // far above what underflows
inline constexpr float kBoundLargest = 1e36f;  // the sums can't overflow
inline float LogitBound(float largest, float magnitudes) {
  if (!(magnitudes < kBoundLargest)) return INFINITY;
  return std::fma(magnitudes + kBoundLeast, kBoundMargin, largest);
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_SIMILARITY_H_
