//! The foreign functions that CUDA's part of the crate calls: each listed once, all called through one table.
//!
//! The table is the process's. Unless another is [installed](install) first, it holds the functions that are linked
//! into a build with kernels; a build without kernels has none. The driver's functions are found through the
//! runtime, and cuBLASLt's by opening the library, unless the table brings its own.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::mem;
use std::ptr::NonNull;

use once_cell::sync::OnceCell;

use crate::base::{Error, Result, Status};
use crate::sys::cuda::bindings::{self, *};

/// Lists the functions of a group (`runtime`, `driver`, `kernels` or `cublaslt`) for another macro: the macro is
/// called with whatever follows its name here, then one declaration for each function. Types are those of
/// `sys::cuda::bindings`, which the place of the call imports.
#[doc(hidden)]
#[macro_export]
macro_rules! cuda_functions {
    (runtime, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn cudaDriverGetVersion(driver_version: *mut c_int) -> cudaError_t;
            fn cudaRuntimeGetVersion(runtime_version: *mut c_int) -> cudaError_t;
            fn cudaGetDriverEntryPointByVersion(symbol: *const c_char, func_ptr: *mut *mut c_void,
                cuda_version: c_uint, flags: c_ulonglong,
                driver_status: *mut cudaDriverEntryPointQueryResult) -> cudaError_t;
            fn cudaGetErrorName(error: cudaError_t) -> *const c_char;
            fn cudaGetErrorString(error: cudaError_t) -> *const c_char;
            fn cudaGetLastError() -> cudaError_t;
            fn cudaGetDeviceCount(count: *mut c_int) -> cudaError_t;
            fn cudaSetDevice(device: c_int) -> cudaError_t;
            fn cudaDeviceGetAttribute(value: *mut c_int, attr: cudaDeviceAttr,
                device: c_int) -> cudaError_t;
            fn cudaDeviceGetPCIBusId(pci_bus_id: *mut c_char, len: c_int, device: c_int) -> cudaError_t;
            fn cudaMemGetInfo(free: *mut usize, total: *mut usize) -> cudaError_t;
            fn cudaMalloc(dev_ptr: *mut *mut c_void, size: usize) -> cudaError_t;
            fn cudaFree(dev_ptr: *mut c_void) -> cudaError_t;
            fn cudaHostAlloc(p_host: *mut *mut c_void, size: usize, flags: c_uint) -> cudaError_t;
            fn cudaFreeHost(ptr: *mut c_void) -> cudaError_t;
            fn cudaHostRegister(ptr: *mut c_void, size: usize, flags: c_uint) -> cudaError_t;
            fn cudaHostUnregister(ptr: *mut c_void) -> cudaError_t;
            fn cudaHostGetDevicePointer(p_device: *mut *mut c_void, p_host: *mut c_void,
                flags: c_uint) -> cudaError_t;
            fn cudaMemcpyAsync(dst: *mut c_void, src: *const c_void, count: usize, kind: cudaMemcpyKind,
                stream: cudaStream_t) -> cudaError_t;
            fn cudaMemcpy2DAsync(dst: *mut c_void, dpitch: usize, src: *const c_void, spitch: usize,
                width: usize, height: usize, kind: cudaMemcpyKind, stream: cudaStream_t) -> cudaError_t;
            fn cudaMemsetAsync(dev_ptr: *mut c_void, value: c_int, count: usize,
                stream: cudaStream_t) -> cudaError_t;
            fn cudaStreamCreateWithFlags(p_stream: *mut cudaStream_t, flags: c_uint) -> cudaError_t;
            fn cudaStreamDestroy(stream: cudaStream_t) -> cudaError_t;
            fn cudaStreamQuery(stream: cudaStream_t) -> cudaError_t;
            fn cudaStreamWaitEvent(stream: cudaStream_t, event: cudaEvent_t, flags: c_uint) -> cudaError_t;
            fn cudaEventCreateWithFlags(event: *mut cudaEvent_t, flags: c_uint) -> cudaError_t;
            fn cudaEventDestroy(event: cudaEvent_t) -> cudaError_t;
            fn cudaEventRecord(event: cudaEvent_t, stream: cudaStream_t) -> cudaError_t;
            fn cudaEventQuery(event: cudaEvent_t) -> cudaError_t;
            fn cudaEventElapsedTime(ms: *mut f32, start: cudaEvent_t, end: cudaEvent_t) -> cudaError_t;
        }
    };
    (driver, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice) -> CUresult;
            fn cuStreamWaitValue32_v2(stream: CUstream, addr: CUdeviceptr, value: cuuint32_t,
                flags: c_uint) -> CUresult;
            fn cuStreamWriteValue32_v2(stream: CUstream, addr: CUdeviceptr, value: cuuint32_t,
                flags: c_uint) -> CUresult;
        }
    };
    (kernels, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn hzk_embedding_forward(out: *mut hzk_bf16, tokens: *const i32, weight: *const hzk_bf16,
                n: i64, c: i64, v: i64, stream: hzk_stream) -> c_int;
            fn hzk_embedding_backward(dweight: *mut f32, dout: *const hzk_bf16, tokens: *const i32,
                order: *const i32, first: *const i32, n: i64, u: i64, c: i64, v: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_rmsnorm_forward(out: *mut hzk_bf16, rstd: *mut f32, inp: *const hzk_bf16,
                weight: *const hzk_bf16, eps: f32, n: i64, c: i64, stream: hzk_stream) -> c_int;
            fn hzk_rmsnorm_backward(dinp: *mut hzk_bf16, dweight: *mut f32, scratch: *mut c_void,
                dout: *const hzk_bf16, inp: *const hzk_bf16, weight: *const hzk_bf16, rstd: *const f32,
                accumulate: c_int, n: i64, c: i64, stream: hzk_stream) -> c_int;
            fn hzk_qk_norm_forward(out: *mut hzk_bf16, rstd: *mut f32, inp: *const hzk_bf16,
                weight: *const hzk_bf16, eps: f32, n: i64, heads: i64, d: i64, out_stride: i64,
                inp_stride: i64, stream: hzk_stream) -> c_int;
            fn hzk_qk_norm_backward(dinp: *mut hzk_bf16, dweight: *mut f32, scratch: *mut c_void,
                dout: *const hzk_bf16, inp: *const hzk_bf16, weight: *const hzk_bf16, rstd: *const f32,
                n: i64, heads: i64, d: i64, dinp_stride: i64, dout_stride: i64, inp_stride: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_rope_forward(q: *mut hzk_bf16, k: *mut hzk_bf16, positions: *const i32,
                inv_freq: *const f32, n: i64, h: i64, g: i64, d: i64, q_stride: i64, k_stride: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_rope_backward(dq: *mut hzk_bf16, dk: *mut hzk_bf16, positions: *const i32,
                inv_freq: *const f32, n: i64, h: i64, g: i64, d: i64, q_stride: i64, k_stride: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_swiglu_forward(out: *mut hzk_bf16, gate: *const hzk_bf16, up: *const hzk_bf16, n: i64,
                f: i64, stride: i64, stream: hzk_stream) -> c_int;
            fn hzk_swiglu_backward(dgate: *mut hzk_bf16, dup: *mut hzk_bf16, dout: *const hzk_bf16,
                gate: *const hzk_bf16, up: *const hzk_bf16, n: i64, f: i64, stride: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_bias_backward(dbias: *mut f32, scratch: *mut c_void, dout: *const hzk_bf16, n: i64,
                c: i64, stream: hzk_stream) -> c_int;
            fn hzk_xent_forward(logprob: *mut f32, logits: *const hzk_bf16, targets: *const i32, r: i64,
                v: i64, stride: i64, stream: hzk_stream) -> c_int;
            fn hzk_xent_forward_backward(logits: *mut hzk_bf16, logprob: *mut f32, targets: *const i32,
                weights: *const f32, scale: f32, r: i64, v: i64, stride: i64, stream: hzk_stream) -> c_int;
            fn hzk_xent_backward(logits: *mut hzk_bf16, targets: *const i32, dlogprob: *const f32, r: i64,
                v: i64, stride: i64, stream: hzk_stream) -> c_int;
            fn hzk_xent_loss(loss: *mut f64, logprob: *const f32, weights: *const f32, r: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_gradient_store(out: *mut hzk_bf16, squares: *mut f64, grad: *const f32, n: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_gradient_copy(out: *mut f32, squares: *mut f64, grad: *const f32, n: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_gradient_squares(squares: *mut f64, grad: *const f32, n: i64, stream: hzk_stream) -> c_int;
            fn hzk_widen(out: *mut f32, inp: *const hzk_bf16, n: i64, stream: hzk_stream) -> c_int;
            fn hzk_attention_forward(out: *mut hzk_bf16, lse: *mut f32, q: *const hzk_bf16,
                k: *const hzk_bf16, v: *const hzk_bf16, doc_start: *const i32, scale: f32, window: i64,
                n: i64, h: i64, g: i64, d: i64, q_stride: i64, k_stride: i64, v_stride: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_attention_backward(dq: *mut hzk_bf16, dk: *mut hzk_bf16, dv: *mut hzk_bf16,
                scratch: *mut c_void, dout: *const hzk_bf16, out: *const hzk_bf16, lse: *const f32,
                q: *const hzk_bf16, k: *const hzk_bf16, v: *const hzk_bf16, doc_start: *const i32,
                doc_end: *const i32, scale: f32, window: i64, n: i64, h: i64, g: i64, d: i64, q_stride: i64,
                k_stride: i64, v_stride: i64, stream: hzk_stream) -> c_int;
            fn hzk_attention_wgmma_forward(out: *mut hzk_bf16, lse: *mut f32, q: *const hzk_bf16,
                k: *const hzk_bf16, v: *const hzk_bf16, doc_start: *const i32, scale: f32, window: i64,
                n: i64, h: i64, g: i64, d: i64, q_stride: i64, k_stride: i64, v_stride: i64,
                stream: hzk_stream) -> c_int;
            fn hzk_attention_wgmma_backward(dq: *mut hzk_bf16, dk: *mut hzk_bf16, dv: *mut hzk_bf16,
                scratch: *mut c_void, dout: *const hzk_bf16, out: *const hzk_bf16, lse: *const f32,
                q: *const hzk_bf16, k: *const hzk_bf16, v: *const hzk_bf16, doc_start: *const i32,
                doc_end: *const i32, scale: f32, window: i64, n: i64, h: i64, g: i64, d: i64, q_stride: i64,
                k_stride: i64, v_stride: i64, stream: hzk_stream) -> c_int;
        }
    };
    (cublaslt, $then:ident $($with:tt)*) => {
        $then! { $($with)*
            fn cublasLtCreate(light_handle: *mut cublasLtHandle_t) -> cublasStatus_t;
            fn cublasLtDestroy(light_handle: cublasLtHandle_t) -> cublasStatus_t;
            fn cublasLtGetVersion() -> usize;
            fn cublasLtGetStatusName(status: cublasStatus_t) -> *const c_char;
            fn cublasLtGetStatusString(status: cublasStatus_t) -> *const c_char;
            fn cublasLtMatmulDescCreate(matmul_desc: *mut cublasLtMatmulDesc_t,
                compute_type: cublasComputeType_t, scale_type: cudaDataType_t) -> cublasStatus_t;
            fn cublasLtMatmulDescDestroy(matmul_desc: cublasLtMatmulDesc_t) -> cublasStatus_t;
            fn cublasLtMatmulDescSetAttribute(matmul_desc: cublasLtMatmulDesc_t,
                attr: cublasLtMatmulDescAttributes_t, buf: *const c_void,
                size_in_bytes: usize) -> cublasStatus_t;
            fn cublasLtMatrixLayoutCreate(mat_layout: *mut cublasLtMatrixLayout_t, element: cudaDataType,
                rows: u64, cols: u64, ld: i64) -> cublasStatus_t;
            fn cublasLtMatrixLayoutDestroy(mat_layout: cublasLtMatrixLayout_t) -> cublasStatus_t;
            fn cublasLtMatmulPreferenceCreate(pref: *mut cublasLtMatmulPreference_t) -> cublasStatus_t;
            fn cublasLtMatmulPreferenceDestroy(pref: cublasLtMatmulPreference_t) -> cublasStatus_t;
            fn cublasLtMatmulPreferenceSetAttribute(pref: cublasLtMatmulPreference_t,
                attr: cublasLtMatmulPreferenceAttributes_t, buf: *const c_void,
                size_in_bytes: usize) -> cublasStatus_t;
            fn cublasLtMatmulAlgoGetHeuristic(light_handle: cublasLtHandle_t,
                operation_desc: cublasLtMatmulDesc_t, adesc: cublasLtMatrixLayout_t,
                bdesc: cublasLtMatrixLayout_t, cdesc: cublasLtMatrixLayout_t, ddesc: cublasLtMatrixLayout_t,
                preference: cublasLtMatmulPreference_t, requested_algo_count: c_int,
                heuristic_results_array: *mut cublasLtMatmulHeuristicResult_t,
                return_algo_count: *mut c_int) -> cublasStatus_t;
            fn cublasLtMatmulAlgoCheck(light_handle: cublasLtHandle_t, operation_desc: cublasLtMatmulDesc_t,
                adesc: cublasLtMatrixLayout_t, bdesc: cublasLtMatrixLayout_t, cdesc: cublasLtMatrixLayout_t,
                ddesc: cublasLtMatrixLayout_t, algo: *const cublasLtMatmulAlgo_t,
                result: *mut cublasLtMatmulHeuristicResult_t) -> cublasStatus_t;
            fn cublasLtMatmul(light_handle: cublasLtHandle_t, compute_desc: cublasLtMatmulDesc_t,
                alpha: *const c_void, a: *const c_void, adesc: cublasLtMatrixLayout_t, b: *const c_void,
                bdesc: cublasLtMatrixLayout_t, beta: *const c_void, c: *const c_void,
                cdesc: cublasLtMatrixLayout_t, d: *mut c_void, ddesc: cublasLtMatrixLayout_t,
                algo: *const cublasLtMatmulAlgo_t, workspace: *mut c_void, workspace_size_in_bytes: usize,
                stream: cudaStream_t) -> cublasStatus_t;
        }
    };
}

/// Declares the table of a group.
macro_rules! table {
    ($(#[$about:meta])* $table:ident; $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(#[$about])*
        #[allow(missing_docs, non_snake_case)]
        #[derive(Clone, Copy, Debug)]
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($argument: $type),*) -> $result,)*
        }

        // A type above that is not the header's does not compile. Nothing links against these names.
        $(const _: unsafe extern "C" fn($($type),*) -> $result = bindings::$name;)*

        impl $table {
            /// The functions at the addresses that `symbol` gives for their names, or its first error.
            ///
            /// # Safety
            /// What lies at an address is the function of that name, and stays as long as it is called.
            pub unsafe fn find<E>(
                mut symbol: impl FnMut(&'static CStr) -> Result<NonNull<c_void>, E>,
            ) -> Result<Self, E> {
                Ok($table {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        let name = CStr::from_bytes_with_nul(name).expect("one zero byte, at the end");
                        let address = symbol(name)?.as_ptr();
                        // SAFETY: by the caller's word the function of this name, whose type the header states.
                        unsafe {
                            mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> $result>(address)
                        }
                    },)*
                })
            }
        }
    };
}

cuda_functions!(runtime, table
    /// The functions of the CUDA runtime.
    Runtime;);
cuda_functions!(driver, table
    /// The functions of the driver, which are looked up through the runtime.
    DriverFunctions;);
cuda_functions!(kernels, table
    /// The launchers of `csrc/kernels.h`, which states the contract of each.
    Launchers;);
cuda_functions!(cublaslt, table
    /// The functions of cuBLASLt.
    CublasLtFunctions;);

/// The table of foreign functions.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// The CUDA runtime.
    pub runtime: Runtime,
    /// Our kernels.
    pub kernels: Launchers,
    /// Whether attention by wgmma is among the kernels: they are built for `sm_90a`.
    pub wgmma: bool,
    /// cuBLASLt; `None`: it is opened at run time.
    pub cublaslt: Option<CublasLtFunctions>,
}

/// A table whose functions are the linked ones.
#[cfg(hz_cuda)]
macro_rules! linked {
    ($table:ident; $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $table { $($name: bindings::$name,)* }
    };
}

impl Api {
    /// The functions that are linked into this library; `None` in a build without kernels.
    pub fn linked() -> Option<Api> {
        #[cfg(hz_cuda)]
        return Some(Api {
            runtime: cuda_functions!(runtime, linked Runtime;),
            kernels: cuda_functions!(kernels, linked Launchers;),
            wgmma: cfg!(hz_wgmma),
            cublaslt: None,
        });
        #[cfg(not(hz_cuda))]
        None
    }
}

static API: OnceCell<Option<Api>> = OnceCell::new();

/// The process's table. Errors: this build has no kernels (`DeviceUnavailable`).
pub fn api() -> Result<&'static Api> {
    API.get_or_init(Api::linked).as_ref().ok_or_else(|| {
        Error::new(
            Status::DeviceUnavailable,
            "this library was built without CUDA kernels: build it where a CUDA toolkit is found, whose folder CUDA_HOME \
             names (HZ_CUDA=require says why one is not)",
        )
    })
}

/// Makes a table the process's, for tests. Errors: one is in use already (`InvalidState`).
///
/// # Safety
/// The functions keep the contracts of those they are named after.
#[doc(hidden)]
pub unsafe fn install(api: Api) -> Result<()> {
    API.set(Some(api))
        .map_err(|_| Error::new(Status::InvalidState, "a table of CUDA's functions is in use already"))
}
