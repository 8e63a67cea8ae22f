// By bindgen, from the toolkit's headers and csrc/kernels.h: the names that the crate uses, and what they need.
// `HZ_CUDA_BINDINGS=write cargo build` renews this file.

pub const cudaHostAllocPortable: u32 = 1;
pub const cudaHostAllocMapped: u32 = 2;
pub const cudaHostRegisterPortable: u32 = 1;
pub const cudaHostRegisterMapped: u32 = 2;
pub const cudaStreamNonBlocking: u32 = 1;
pub const cudaEventDisableTiming: u32 = 2;
pub const HZK_OK: u32 = 0;
pub const HZK_ERROR_SHAPE: i32 = -1;
pub const HZK_ERROR_ALIGNMENT: i32 = -2;
pub const HZK_NORM_BLOCK: u32 = 65536;
pub type cuuint32_t = u32;
pub type CUdeviceptr_v2 = std::ffi::c_ulonglong;
pub type CUdeviceptr = CUdeviceptr_v2;
pub type CUdevice_v1 = std::ffi::c_int;
pub type CUdevice = CUdevice_v1;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUevent_st {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUstream_st {
    _unused: [u8; 0],
}
pub type CUstream = *mut CUstream_st;
pub const CU_STREAM_WAIT_VALUE_GEQ: CUstreamWaitValue_flags_enum = 0;
pub type CUstreamWaitValue_flags_enum = std::ffi::c_uint;
pub use self::CUstreamWaitValue_flags_enum as CUstreamWaitValue_flags;
pub const CU_STREAM_WRITE_VALUE_DEFAULT: CUstreamWriteValue_flags_enum = 0;
pub type CUstreamWriteValue_flags_enum = std::ffi::c_uint;
pub use self::CUstreamWriteValue_flags_enum as CUstreamWriteValue_flags;
pub type cudaError_enum = std::ffi::c_uint;
pub use self::cudaError_enum as CUresult;
pub const cudaSuccess: cudaError = 0;
pub const cudaErrorMemoryAllocation: cudaError = 2;
pub const cudaErrorInsufficientDriver: cudaError = 35;
pub const cudaErrorDevicesUnavailable: cudaError = 46;
pub const cudaErrorNoDevice: cudaError = 100;
pub const cudaErrorInvalidDevice: cudaError = 101;
pub const cudaErrorNoKernelImageForDevice: cudaError = 209;
pub const cudaErrorECCUncorrectable: cudaError = 214;
pub const cudaErrorNvlinkUncorrectable: cudaError = 220;
pub const cudaErrorContained: cudaError = 226;
pub const cudaErrorNotReady: cudaError = 600;
pub const cudaErrorIllegalAddress: cudaError = 700;
pub const cudaErrorLaunchTimeout: cudaError = 702;
pub const cudaErrorHostMemoryAlreadyRegistered: cudaError = 712;
pub const cudaErrorLaunchFailure: cudaError = 719;
pub const cudaErrorNotPermitted: cudaError = 800;
pub const cudaErrorNotSupported: cudaError = 801;
pub const cudaErrorSystemNotReady: cudaError = 802;
pub const cudaErrorSystemDriverMismatch: cudaError = 803;
pub const cudaErrorUnknown: cudaError = 999;
pub type cudaError = std::ffi::c_uint;
pub const cudaMemcpyHostToDevice: cudaMemcpyKind = 1;
pub const cudaMemcpyDeviceToHost: cudaMemcpyKind = 2;
pub const cudaMemcpyDeviceToDevice: cudaMemcpyKind = 3;
pub type cudaMemcpyKind = std::ffi::c_uint;
pub const cudaDevAttrComputeCapabilityMajor: cudaDeviceAttr = 75;
pub const cudaDevAttrComputeCapabilityMinor: cudaDeviceAttr = 76;
pub type cudaDeviceAttr = std::ffi::c_uint;
pub use self::cudaError as cudaError_t;
pub type cudaStream_t = *mut CUstream_st;
pub type cudaEvent_t = *mut CUevent_st;
pub const cudaEnableDefault: cudaGetDriverEntryPointFlags = 0;
pub type cudaGetDriverEntryPointFlags = std::ffi::c_uint;
pub const cudaDriverEntryPointSuccess: cudaDriverEntryPointQueryResult = 0;
pub const cudaDriverEntryPointSymbolNotFound: cudaDriverEntryPointQueryResult = 1;
pub type cudaDriverEntryPointQueryResult = std::ffi::c_uint;
pub const CUDA_R_16BF: cudaDataType_t = 14;
pub const CUDA_R_32F: cudaDataType_t = 0;
pub type cudaDataType_t = std::ffi::c_uint;
pub use self::cudaDataType_t as cudaDataType;
pub const CUBLAS_STATUS_SUCCESS: cublasStatus_t = 0;
pub const CUBLAS_STATUS_NOT_SUPPORTED: cublasStatus_t = 15;
pub type cublasStatus_t = std::ffi::c_uint;
pub const CUBLAS_OP_N: cublasOperation_t = 0;
pub const CUBLAS_OP_T: cublasOperation_t = 1;
pub type cublasOperation_t = std::ffi::c_uint;
pub const CUBLAS_COMPUTE_32F: cublasComputeType_t = 68;
pub type cublasComputeType_t = std::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cublasLtContext {
    _unused: [u8; 0],
}
pub type cublasLtHandle_t = *mut cublasLtContext;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cublasLtMatrixLayoutOpaque_t {
    pub data: [u64; 8usize],
}
pub type cublasLtMatrixLayout_t = *mut cublasLtMatrixLayoutOpaque_t;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cublasLtMatmulAlgo_t {
    pub data: [u64; 8usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cublasLtMatmulDescOpaque_t {
    pub data: [u64; 32usize],
}
pub type cublasLtMatmulDesc_t = *mut cublasLtMatmulDescOpaque_t;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cublasLtMatmulPreferenceOpaque_t {
    pub data: [u64; 8usize],
}
pub type cublasLtMatmulPreference_t = *mut cublasLtMatmulPreferenceOpaque_t;
pub const CUBLASLT_MATMUL_DESC_TRANSA: cublasLtMatmulDescAttributes_t = 3;
pub const CUBLASLT_MATMUL_DESC_TRANSB: cublasLtMatmulDescAttributes_t = 4;
pub const CUBLASLT_MATMUL_DESC_EPILOGUE: cublasLtMatmulDescAttributes_t = 7;
pub const CUBLASLT_MATMUL_DESC_BIAS_POINTER: cublasLtMatmulDescAttributes_t = 8;
pub type cublasLtMatmulDescAttributes_t = std::ffi::c_uint;
pub const CUBLASLT_REDUCTION_SCHEME_NONE: cublasLtReductionScheme_t = 0;
pub const CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: cublasLtReductionScheme_t = 2;
pub type cublasLtReductionScheme_t = std::ffi::c_uint;
pub const CUBLASLT_EPILOGUE_BIAS: cublasLtEpilogue_t = 4;
pub type cublasLtEpilogue_t = std::ffi::c_uint;
pub const CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: cublasLtMatmulPreferenceAttributes_t = 1;
pub const CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: cublasLtMatmulPreferenceAttributes_t = 3;
pub const CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: cublasLtMatmulPreferenceAttributes_t = 5;
pub const CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: cublasLtMatmulPreferenceAttributes_t = 6;
pub const CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: cublasLtMatmulPreferenceAttributes_t = 7;
pub const CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: cublasLtMatmulPreferenceAttributes_t = 8;
pub type cublasLtMatmulPreferenceAttributes_t = std::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cublasLtMatmulHeuristicResult_t {
    pub algo: cublasLtMatmulAlgo_t,
    pub workspaceSize: usize,
    pub state: cublasStatus_t,
    pub wavesCount: f32,
    pub reserved: [std::ffi::c_int; 4usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct hzk_bf16 {
    pub bits: u16,
}
pub type hzk_stream = *mut CUstream_st;

/// Lists the functions of a group for another macro, which is called with the rest of the arguments and one
/// declaration for each function. Types are those of `sys::cuda::bindings`, imported where the macro is called.
///
/// | group | functions |
/// |---|---|
/// | `runtime` | of the CUDA runtime |
/// | `driver` | of the driver |
/// | `kernels` | the launchers of `csrc/kernels.h` |
/// | `scratch` | the sizes of scratch that launchers need |
/// | `cublaslt` | of cuBLASLt |
#[doc(hidden)]
#[macro_export]
macro_rules! cuda_functions {
    (runtime, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn cudaDeviceGetPCIBusId(pciBusId: *mut std::ffi::c_char, len: std::ffi::c_int,
                device: std::ffi::c_int) -> cudaError_t;
            fn cudaGetLastError() -> cudaError_t;
            fn cudaGetErrorName(error: cudaError_t) -> *const std::ffi::c_char;
            fn cudaGetErrorString(error: cudaError_t) -> *const std::ffi::c_char;
            fn cudaGetDeviceCount(count: *mut std::ffi::c_int) -> cudaError_t;
            fn cudaDeviceGetAttribute(value: *mut std::ffi::c_int, attr: cudaDeviceAttr,
                device: std::ffi::c_int) -> cudaError_t;
            fn cudaSetDevice(device: std::ffi::c_int) -> cudaError_t;
            fn cudaStreamCreateWithFlags(pStream: *mut cudaStream_t, flags: std::ffi::c_uint) -> cudaError_t;
            fn cudaStreamDestroy(stream: cudaStream_t) -> cudaError_t;
            fn cudaStreamWaitEvent(stream: cudaStream_t, event: cudaEvent_t,
                flags: std::ffi::c_uint) -> cudaError_t;
            fn cudaStreamQuery(stream: cudaStream_t) -> cudaError_t;
            fn cudaEventCreateWithFlags(event: *mut cudaEvent_t, flags: std::ffi::c_uint) -> cudaError_t;
            fn cudaEventRecord(event: cudaEvent_t, stream: cudaStream_t) -> cudaError_t;
            fn cudaEventQuery(event: cudaEvent_t) -> cudaError_t;
            fn cudaEventDestroy(event: cudaEvent_t) -> cudaError_t;
            fn cudaEventElapsedTime(ms: *mut f32, start: cudaEvent_t, end: cudaEvent_t) -> cudaError_t;
            fn cudaMalloc(devPtr: *mut *mut std::ffi::c_void, size: usize) -> cudaError_t;
            fn cudaFree(devPtr: *mut std::ffi::c_void) -> cudaError_t;
            fn cudaFreeHost(ptr: *mut std::ffi::c_void) -> cudaError_t;
            fn cudaHostAlloc(pHost: *mut *mut std::ffi::c_void, size: usize,
                flags: std::ffi::c_uint) -> cudaError_t;
            fn cudaHostRegister(ptr: *mut std::ffi::c_void, size: usize,
                flags: std::ffi::c_uint) -> cudaError_t;
            fn cudaHostUnregister(ptr: *mut std::ffi::c_void) -> cudaError_t;
            fn cudaHostGetDevicePointer(pDevice: *mut *mut std::ffi::c_void, pHost: *mut std::ffi::c_void,
                flags: std::ffi::c_uint) -> cudaError_t;
            fn cudaMemGetInfo(free: *mut usize, total: *mut usize) -> cudaError_t;
            fn cudaMemcpyAsync(dst: *mut std::ffi::c_void, src: *const std::ffi::c_void, count: usize,
                kind: cudaMemcpyKind, stream: cudaStream_t) -> cudaError_t;
            fn cudaMemcpy2DAsync(dst: *mut std::ffi::c_void, dpitch: usize, src: *const std::ffi::c_void,
                spitch: usize, width: usize, height: usize, kind: cudaMemcpyKind,
                stream: cudaStream_t) -> cudaError_t;
            fn cudaMemsetAsync(devPtr: *mut std::ffi::c_void, value: std::ffi::c_int, count: usize,
                stream: cudaStream_t) -> cudaError_t;
            fn cudaDriverGetVersion(driverVersion: *mut std::ffi::c_int) -> cudaError_t;
            fn cudaRuntimeGetVersion(runtimeVersion: *mut std::ffi::c_int) -> cudaError_t;
            fn cudaGetDriverEntryPointByVersion(symbol: *const std::ffi::c_char,
                funcPtr: *mut *mut std::ffi::c_void, cudaVersion: std::ffi::c_uint,
                flags: std::ffi::c_ulonglong,
                driverStatus: *mut cudaDriverEntryPointQueryResult) -> cudaError_t;
        }
    };
    (driver, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn cuDeviceGetName(name: *mut std::ffi::c_char, len: std::ffi::c_int, dev: CUdevice) -> CUresult;
            fn cuStreamWaitValue32_v2(stream: CUstream, addr: CUdeviceptr, value: cuuint32_t,
                flags: std::ffi::c_uint) -> CUresult;
            fn cuStreamWriteValue32_v2(stream: CUstream, addr: CUdeviceptr, value: cuuint32_t,
                flags: std::ffi::c_uint) -> CUresult;
        }
    };
    (kernels, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn hzk_embedding_forward(out: *mut hzk_bf16, tokens: *const i32, weight: *const hzk_bf16, N: i64,
                C: i64, V: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_embedding_backward(dweight: *mut f32, dout: *const hzk_bf16, tokens: *const i32,
                order: *const i32, first: *const i32, N: i64, U: i64, C: i64, V: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_rmsnorm_forward(out: *mut hzk_bf16, rstd: *mut f32, x: *const hzk_bf16,
                weight: *const hzk_bf16, eps: f32, N: i64, C: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_rmsnorm_backward(dx: *mut hzk_bf16, dweight: *mut f32, scratch: *mut std::ffi::c_void,
                dout: *const hzk_bf16, x: *const hzk_bf16, weight: *const hzk_bf16, rstd: *const f32,
                accumulate: std::ffi::c_int, N: i64, C: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_qk_norm_forward(out: *mut hzk_bf16, rstd: *mut f32, x: *const hzk_bf16,
                weight: *const hzk_bf16, eps: f32, N: i64, heads: i64, D: i64, out_stride: i64, x_stride: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_qk_norm_backward(dx: *mut hzk_bf16, dweight: *mut f32, scratch: *mut std::ffi::c_void,
                dout: *const hzk_bf16, x: *const hzk_bf16, weight: *const hzk_bf16, rstd: *const f32, N: i64,
                heads: i64, D: i64, dx_stride: i64, dout_stride: i64, x_stride: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_rope_forward(q: *mut hzk_bf16, k: *mut hzk_bf16, positions: *const i32,
                inv_freq: *const f32, N: i64, H: i64, G: i64, D: i64, q_stride: i64, k_stride: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_rope_backward(dq: *mut hzk_bf16, dk: *mut hzk_bf16, positions: *const i32,
                inv_freq: *const f32, N: i64, H: i64, G: i64, D: i64, q_stride: i64, k_stride: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_swiglu_forward(out: *mut hzk_bf16, gate: *const hzk_bf16, up: *const hzk_bf16, N: i64,
                F: i64, stride: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_swiglu_backward(dgate: *mut hzk_bf16, dup: *mut hzk_bf16, dout: *const hzk_bf16,
                gate: *const hzk_bf16, up: *const hzk_bf16, N: i64, F: i64, stride: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_bias_backward(dbias: *mut f32, scratch: *mut std::ffi::c_void, dout: *const hzk_bf16,
                N: i64, C: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_cross_entropy_forward(logprob: *mut f32, logits: *const hzk_bf16, targets: *const i32,
                R: i64, V: i64, stride: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_cross_entropy_forward_backward(logits: *mut hzk_bf16, logprob: *mut f32,
                targets: *const i32, weights: *const f32, scale: f32, R: i64, V: i64, stride: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_cross_entropy_backward(logits: *mut hzk_bf16, targets: *const i32, dlogprob: *const f32,
                R: i64, V: i64, stride: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_cross_entropy_loss(loss: *mut f64, logprob: *const f32, weights: *const f32, R: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_gradient_store(out: *mut hzk_bf16, squares: *mut f64, grad: *const f32, n: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_gradient_copy(out: *mut f32, squares: *mut f64, grad: *const f32, n: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_gradient_squares(squares: *mut f64, grad: *const f32, n: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_widen(out: *mut f32, inp: *const hzk_bf16, n: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_attention_forward(out: *mut hzk_bf16, lse: *mut f32, q: *const hzk_bf16,
                k: *const hzk_bf16, v: *const hzk_bf16, doc_start: *const i32, scale: f32, window: i64,
                N: i64, H: i64, G: i64, D: i64, q_stride: i64, k_stride: i64, v_stride: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_attention_backward(dq: *mut hzk_bf16, dk: *mut hzk_bf16, dv: *mut hzk_bf16,
                scratch: *mut std::ffi::c_void, dout: *const hzk_bf16, out: *const hzk_bf16, lse: *const f32,
                q: *const hzk_bf16, k: *const hzk_bf16, v: *const hzk_bf16, doc_start: *const i32,
                doc_end: *const i32, scale: f32, window: i64, N: i64, H: i64, G: i64, D: i64, q_stride: i64,
                k_stride: i64, v_stride: i64, stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_attention_wgmma_forward(out: *mut hzk_bf16, lse: *mut f32, q: *const hzk_bf16,
                k: *const hzk_bf16, v: *const hzk_bf16, doc_start: *const i32, scale: f32, window: i64,
                N: i64, H: i64, G: i64, D: i64, q_stride: i64, k_stride: i64, v_stride: i64,
                stream: hzk_stream) -> std::ffi::c_int;
            fn hzk_attention_wgmma_backward(dq: *mut hzk_bf16, dk: *mut hzk_bf16, dv: *mut hzk_bf16,
                scratch: *mut std::ffi::c_void, dout: *const hzk_bf16, out: *const hzk_bf16, lse: *const f32,
                q: *const hzk_bf16, k: *const hzk_bf16, v: *const hzk_bf16, doc_start: *const i32,
                doc_end: *const i32, scale: f32, window: i64, N: i64, H: i64, G: i64, D: i64, q_stride: i64,
                k_stride: i64, v_stride: i64, stream: hzk_stream) -> std::ffi::c_int;
        }
    };
    (scratch, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn hzk_rmsnorm_backward_scratch(N: i64, C: i64) -> usize;
            fn hzk_qk_norm_backward_scratch(N: i64, heads: i64, D: i64) -> usize;
            fn hzk_bias_backward_scratch(N: i64, C: i64) -> usize;
            fn hzk_attention_backward_scratch(N: i64, H: i64, G: i64, D: i64) -> usize;
        }
    };
    (cublaslt, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn cublasLtCreate(lightHandle: *mut cublasLtHandle_t) -> cublasStatus_t;
            fn cublasLtDestroy(lightHandle: cublasLtHandle_t) -> cublasStatus_t;
            fn cublasLtGetStatusName(status: cublasStatus_t) -> *const std::ffi::c_char;
            fn cublasLtGetStatusString(status: cublasStatus_t) -> *const std::ffi::c_char;
            fn cublasLtGetVersion() -> usize;
            fn cublasLtMatmul(lightHandle: cublasLtHandle_t, computeDesc: cublasLtMatmulDesc_t,
                alpha: *const std::ffi::c_void, A: *const std::ffi::c_void, Adesc: cublasLtMatrixLayout_t,
                B: *const std::ffi::c_void, Bdesc: cublasLtMatrixLayout_t, beta: *const std::ffi::c_void,
                C: *const std::ffi::c_void, Cdesc: cublasLtMatrixLayout_t, D: *mut std::ffi::c_void,
                Ddesc: cublasLtMatrixLayout_t, algo: *const cublasLtMatmulAlgo_t,
                workspace: *mut std::ffi::c_void, workspaceSizeInBytes: usize,
                stream: cudaStream_t) -> cublasStatus_t;
            fn cublasLtMatrixLayoutCreate(matLayout: *mut cublasLtMatrixLayout_t, type_: cudaDataType,
                rows: u64, cols: u64, ld: i64) -> cublasStatus_t;
            fn cublasLtMatrixLayoutDestroy(matLayout: cublasLtMatrixLayout_t) -> cublasStatus_t;
            fn cublasLtMatmulDescCreate(matmulDesc: *mut cublasLtMatmulDesc_t,
                computeType: cublasComputeType_t, scaleType: cudaDataType_t) -> cublasStatus_t;
            fn cublasLtMatmulDescDestroy(matmulDesc: cublasLtMatmulDesc_t) -> cublasStatus_t;
            fn cublasLtMatmulDescSetAttribute(matmulDesc: cublasLtMatmulDesc_t,
                attr: cublasLtMatmulDescAttributes_t, buf: *const std::ffi::c_void,
                sizeInBytes: usize) -> cublasStatus_t;
            fn cublasLtMatmulPreferenceCreate(pref: *mut cublasLtMatmulPreference_t) -> cublasStatus_t;
            fn cublasLtMatmulPreferenceDestroy(pref: cublasLtMatmulPreference_t) -> cublasStatus_t;
            fn cublasLtMatmulPreferenceSetAttribute(pref: cublasLtMatmulPreference_t,
                attr: cublasLtMatmulPreferenceAttributes_t, buf: *const std::ffi::c_void,
                sizeInBytes: usize) -> cublasStatus_t;
            fn cublasLtMatmulAlgoGetHeuristic(lightHandle: cublasLtHandle_t,
                operationDesc: cublasLtMatmulDesc_t, Adesc: cublasLtMatrixLayout_t,
                Bdesc: cublasLtMatrixLayout_t, Cdesc: cublasLtMatrixLayout_t, Ddesc: cublasLtMatrixLayout_t,
                preference: cublasLtMatmulPreference_t, requestedAlgoCount: std::ffi::c_int,
                heuristicResultsArray: *mut cublasLtMatmulHeuristicResult_t,
                returnAlgoCount: *mut std::ffi::c_int) -> cublasStatus_t;
            fn cublasLtMatmulAlgoCheck(lightHandle: cublasLtHandle_t, operationDesc: cublasLtMatmulDesc_t,
                Adesc: cublasLtMatrixLayout_t, Bdesc: cublasLtMatrixLayout_t, Cdesc: cublasLtMatrixLayout_t,
                Ddesc: cublasLtMatrixLayout_t, algo: *const cublasLtMatmulAlgo_t,
                result: *mut cublasLtMatmulHeuristicResult_t) -> cublasStatus_t;
        }
    };
}
