// The cuBLASLt calls of Horizon on host memory, by the manual; other arguments are refused. Has a few algorithms,
// which differ in their workspace size and fill the workspace with NaN.
#include "emu.h"
#include <cublasLt.h>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {
struct Operation {
    cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void* bias = nullptr;  // D's type, one value per row of D
};
struct Matrix {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t stride;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t reductions = ~0u, alignment[4] = {256, 256, 256, 256};  // the documented defaults
};
constexpr uint64_t kAlgorithm = 0x656d756c61746564, kWorkspace = 4096;
constexpr int kAlgorithms = 3;  // data[0] is kAlgorithm, data[1] the number
bool known(const cublasLtMatmulAlgo_t* algorithm) {
    return algorithm && algorithm->data[0] == kAlgorithm && algorithm->data[1] < kAlgorithms;
}
size_t workspace_of(const cublasLtMatmulAlgo_t* algorithm) { return kWorkspace * (algorithm->data[1] + 1); }

cublasStatus_t refuse(const char* what) {
    fprintf(stderr, "emulated cuBLASLt: %s\n", what);
    return CUBLAS_STATUS_INVALID_VALUE;
}
float value(const void* base, cudaDataType type, size_t at) {
    if (type == CUDA_R_32F) return static_cast<const float*>(base)[at];
    const uint32_t bits = uint32_t(static_cast<const uint16_t*>(base)[at]) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
void store(void* base, cudaDataType type, size_t at, float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (type == CUDA_R_32F)
        static_cast<float*>(base)[at] = f;
    else
        static_cast<uint16_t*>(base)[at] = uint16_t(f == f ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff);
}
const Matrix& matrix(cublasLtMatrixLayout_t layout) { return *reinterpret_cast<const Matrix*>(layout); }
// Rows and columns after the transposition.
uint64_t rows(const Matrix& m, cublasOperation_t op) { return op == CUBLAS_OP_N ? m.rows : m.columns; }
uint64_t columns(const Matrix& m, cublasOperation_t op) { return op == CUBLAS_OP_N ? m.columns : m.rows; }
const char* fault(const Operation& op, const Matrix& a, const Matrix& b, const Matrix& c, const Matrix& d) {
    if (columns(a, op.a) != rows(b, op.b)) return "the inner sizes differ";
    if (d.rows != rows(a, op.a) || d.columns != columns(b, op.b)) return "the output has another shape";
    if (memcmp(&c, &d, sizeof c)) return "C and D have different layouts";
    if (op.epilogue == CUBLASLT_EPILOGUE_BIAS && !op.bias) return "the epilogue has no bias pointer";
    if (a.type != CUDA_R_16BF || b.type != CUDA_R_16BF || (d.type != CUDA_R_16BF && d.type != CUDA_R_32F))
        return "A and B must be bf16, D bf16 or f32";
    for (const Matrix* m : {&a, &b, &d})
        if (m->stride < int64_t(m->rows)) return "columns overlap";
    return nullptr;
}
// Identifies the kernel of a GEMM: a different one for every shape, as cuBLASLt chooses kernels by shape.
const void* kernel_of(const Operation& op, const Matrix& a, const Matrix& b, const Matrix& d, bool adds) {
    uint64_t hash = 1469598103934665603u;
    for (uint64_t word : {uint64_t(op.a), uint64_t(op.b), a.rows, a.columns, uint64_t(a.stride), b.rows, b.columns, uint64_t(b.stride),
                          uint64_t(d.type), uint64_t(d.stride), uint64_t(adds), uint64_t(op.epilogue)})
        hash = (hash ^ word) * 1099511628211u;
    return reinterpret_cast<const void*>(hash | 1);
}
void answer(cublasLtMatmulHeuristicResult_t* result, uint64_t number) {
    memset(result, 0, sizeof *result);
    result->algo.data[0] = kAlgorithm;
    result->algo.data[1] = number;
    result->workspaceSize = workspace_of(&result->algo);
    result->state = CUBLAS_STATUS_SUCCESS;
}
}  // namespace

size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    *handle = reinterpret_cast<cublasLtHandle_t>(new char);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete reinterpret_cast<char*>(handle);
    return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusName(cublasStatus_t status) { return status == CUBLAS_STATUS_SUCCESS ? "success" : "refused"; }
const char* cublasLtGetStatusString(cublasStatus_t) { return "see stderr"; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return refuse("compute and scale type must be f32");
    *desc = reinterpret_cast<cublasLtMatmulDesc_t>(new Operation);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete reinterpret_cast<Operation*>(desc);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void* from,
                                              size_t bytes) {
    auto& op = *reinterpret_cast<Operation*>(desc);
    auto set = [&](auto& into, auto... allowed) {
        if (bytes != sizeof into) return refuse("the size of a matmul attribute");
        memcpy(&into, from, bytes);
        return sizeof...(allowed) == 0 || ((into == allowed) || ...) ? CUBLAS_STATUS_SUCCESS
                                                                      : refuse("the value of a matmul attribute");
    };
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA: return set(op.a, CUBLAS_OP_N, CUBLAS_OP_T);
        case CUBLASLT_MATMUL_DESC_TRANSB: return set(op.b, CUBLAS_OP_N, CUBLAS_OP_T);
        case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(op.epilogue, CUBLASLT_EPILOGUE_BIAS);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(op.bias);
        default: return refuse("an unknown matmul attribute");
    }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t columns,
                                          int64_t stride) {
    *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Matrix{type, rows, columns, stride});
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete reinterpret_cast<Matrix*>(layout);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete reinterpret_cast<Preference*>(preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* from, size_t bytes) {
    auto& p = *reinterpret_cast<Preference*>(preference);
    auto set = [&](auto& into) {
        if (bytes != sizeof into) return refuse("the size of a preference");
        memcpy(&into, from, bytes);
        return CUBLAS_STATUS_SUCCESS;
    };
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(p.workspace);
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return set(p.reductions);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(p.alignment[0]);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(p.alignment[1]);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(p.alignment[2]);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(p.alignment[3]);
        default: return refuse("an unknown preference");
    }
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
    const auto& p = *reinterpret_cast<const Preference*>(preference);
    const auto& op = *reinterpret_cast<const Operation*>(desc);
    if (const char* why = fault(op, matrix(a), matrix(b), matrix(c), matrix(d))) return refuse(why);
    if (p.reductions & CUBLASLT_REDUCTION_SCHEME_INPLACE) return refuse("in-place reduction is not deterministic");
    for (uint32_t alignment : p.alignment)
        if (alignment > 16) return refuse("operands are aligned to 16 bytes only");
    // cuBLASLt assumes that a later bias has the alignment of this address.
    if (uintptr_t(op.bias) % 32 == 0 && op.bias) return refuse("a bias is aligned to 16 bytes only");
    for (*found = 0; *found < wanted && *found < kAlgorithms && p.workspace >= kWorkspace * (*found + 1); ++*found)
        answer(results + *found, uint64_t(*found));
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
    const auto& op = *reinterpret_cast<const Operation*>(desc);
    if (const char* why = fault(op, matrix(a), matrix(b), matrix(c), matrix(d))) return refuse(why);
    if (!known(algorithm)) return refuse("an unknown algorithm");
    answer(result, algorithm->data[1]);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* A, cublasLtMatrixLayout_t a_layout,
                              const void* B, cublasLtMatrixLayout_t b_layout, const void* beta, const void* C,
                              cublasLtMatrixLayout_t c_layout, void* D, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
    const auto op = *reinterpret_cast<const Operation*>(desc);
    const Matrix a = matrix(a_layout), b = matrix(b_layout), d = matrix(d_layout);
    if (const char* why = fault(op, a, b, matrix(c_layout), d)) return refuse(why);
    if (!known(algorithm)) return refuse("an unknown algorithm");
    if (workspace_bytes < workspace_of(algorithm) || uintptr_t(workspace) % 256)
        return refuse("the workspace is too small or not aligned to 256 bytes");
    if ((uintptr_t(A) | uintptr_t(B) | uintptr_t(C) | uintptr_t(D) | uintptr_t(op.bias)) % 16)
        return refuse("an operand is not aligned to 16 bytes");
    const size_t used = workspace_of(algorithm);
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    hz::emu::enqueue(stream, kernel_of(op, a, b, d, keep != 0.f), [=] {
        memset(workspace, 0xff, used);
        const uint64_t depth = columns(a, op.a);
        for (uint64_t column = 0; column < d.columns; ++column)
            for (uint64_t row = 0; row < d.rows; ++row) {
                float sum = 0.f;
                for (uint64_t t = 0; t < depth; ++t)
                    sum += value(A, a.type, op.a == CUBLAS_OP_N ? row + t * a.stride : t + row * a.stride) *
                           value(B, b.type, op.b == CUBLAS_OP_N ? t + column * b.stride : column + t * b.stride);
                const size_t at = row + column * d.stride;
                sum *= scale;
                if (keep != 0.f) sum += keep * value(C, d.type, at);  // C is not read if beta is 0
                if (op.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += value(op.bias, d.type, row);
                store(D, d.type, at, sum);
            }
    });
    return CUBLAS_STATUS_SUCCESS;
}
