//! The launchers of `csrc/kernels.h`, and the two queued operations on memory that go with them, as a table: those
//! linked into this library, or those of a shared library that has the same names.

use std::ffi::{c_int, c_void};
use std::mem;
use std::path::Path;

use crate::base::{Error, Result, Status};
use crate::sys::cuda::bindings as cu;
use crate::sys::cuda::library::Library;
use crate::sys::cuda::named;

/// Declares the table, each function held against its declaration in the header.
macro_rules! launchers {
    ($($field:ident = $name:ident: fn($($argument:ty),*) -> $result:ty;)*) => {
        /// Functions that queue work on a stream. See `csrc/kernels.h` for the contract of each.
        #[allow(missing_docs)]
        #[derive(Clone, Copy)]
        pub struct Launchers {
            $(pub $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Launchers {
            /// Those linked into this library.
            pub fn linked() -> Self {
                // A type above that is not the header's does not compile.
                Launchers { $($field: cu::$name,)* }
            }

            /// Those of a shared library, which stays open for good: the emulated device of `tests/emulator`, where
            /// device memory is host memory. Errors: `NotFound`, with the loader's answer.
            ///
            /// # Safety
            /// What the library has under these names are functions of the header's types that keep its contracts.
            pub unsafe fn of_library(path: &Path) -> Result<Self> {
                let at = |why: String| Error::new(Status::NotFound, format!("{}: {why}", path.display()));
                let library = mem::ManuallyDrop::new(Library::open(path).map_err(at)?);
                Ok(Launchers {
                    $($field: {
                        let lacks = || at(format!("it lacks {}", stringify!($name)));
                        let address = library.symbol(named!($name)).ok_or_else(lacks)?;
                        // SAFETY: by the caller's word the symbol has the header's type, which is this field's.
                        unsafe {
                            mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> $result>(address)
                        }
                    },)*
                })
            }
        }
    };
}

type Bf16 = cu::hzk_bf16;
type Stream = cu::hzk_stream;

launchers! {
    embedding_forward = hzk_embedding_forward:
        fn(*mut Bf16, *const i32, *const Bf16, i64, i64, i64, Stream) -> c_int;
    embedding_backward = hzk_embedding_backward:
        fn(*mut f32, *const Bf16, *const i32, *const i32, *const i32, i64, i64, i64, i64, Stream) ->
        c_int;
    rmsnorm_forward = hzk_rmsnorm_forward:
        fn(*mut Bf16, *mut f32, *const Bf16, *const Bf16, f32, i64, i64, Stream) -> c_int;
    rmsnorm_backward = hzk_rmsnorm_backward:
        fn(*mut Bf16, *mut f32, *mut c_void, *const Bf16, *const Bf16, *const Bf16, *const f32, c_int,
        i64, i64, Stream) -> c_int;
    qk_norm_forward = hzk_qk_norm_forward:
        fn(*mut Bf16, *mut f32, *const Bf16, *const Bf16, f32, i64, i64, i64, i64, i64, Stream) -> c_int;
    qk_norm_backward = hzk_qk_norm_backward:
        fn(*mut Bf16, *mut f32, *mut c_void, *const Bf16, *const Bf16, *const Bf16, *const f32, i64, i64,
        i64, i64, i64, i64, Stream) -> c_int;
    rope_forward = hzk_rope_forward:
        fn(*mut Bf16, *mut Bf16, *const i32, *const f32, i64, i64, i64, i64, i64, i64, Stream) -> c_int;
    rope_backward = hzk_rope_backward:
        fn(*mut Bf16, *mut Bf16, *const i32, *const f32, i64, i64, i64, i64, i64, i64, Stream) -> c_int;
    swiglu_forward = hzk_swiglu_forward:
        fn(*mut Bf16, *const Bf16, *const Bf16, i64, i64, i64, Stream) -> c_int;
    swiglu_backward = hzk_swiglu_backward:
        fn(*mut Bf16, *mut Bf16, *const Bf16, *const Bf16, *const Bf16, i64, i64, i64, Stream) -> c_int;
    bias_backward = hzk_bias_backward: fn(*mut f32, *mut c_void, *const Bf16, i64, i64, Stream) -> c_int;
    xent_forward = hzk_xent_forward: fn(*mut f32, *const Bf16, *const i32, i64, i64, i64, Stream) -> c_int;
    xent_forward_backward = hzk_xent_forward_backward:
        fn(*mut Bf16, *mut f32, *const i32, *const f32, f32, i64, i64, i64, Stream) -> c_int;
    xent_backward = hzk_xent_backward: fn(*mut Bf16, *const i32, *const f32, i64, i64, i64, Stream) -> c_int;
    xent_loss = hzk_xent_loss: fn(*mut f64, *const f32, *const f32, i64, Stream) -> c_int;
    grad_store = hzk_grad_store: fn(*mut Bf16, *mut f64, *mut c_void, *const f32, i64, Stream) -> c_int;
    grad_copy = hzk_grad_copy: fn(*mut f32, *mut f64, *mut c_void, *const f32, i64, Stream) -> c_int;
    grad_sumsq = hzk_grad_sumsq: fn(*mut f64, *mut c_void, *const f32, i64, Stream) -> c_int;
    widen = hzk_widen: fn(*mut f32, *const Bf16, i64, Stream) -> c_int;
    attention_forward = hzk_attention_forward:
        fn(*mut Bf16, *mut f32, *const Bf16, *const Bf16, *const Bf16, *const i32, f32, i64, i64, i64,
        i64, i64, i64, i64, i64, Stream) -> c_int;
    attention_backward = hzk_attention_backward:
        fn(*mut Bf16, *mut Bf16, *mut Bf16, *mut c_void, *const Bf16, *const Bf16, *const f32, *const Bf16,
        *const Bf16, *const Bf16, *const i32, *const i32, f32, i64, i64, i64, i64, i64, i64, i64,
        i64, Stream) -> c_int;
    attention_wgmma_forward = hzk_attention_wgmma_forward:
        fn(*mut Bf16, *mut f32, *const Bf16, *const Bf16, *const Bf16, *const i32, f32, i64, i64, i64,
        i64, i64, i64, i64, i64, Stream) -> c_int;
    attention_wgmma_backward = hzk_attention_wgmma_backward:
        fn(*mut Bf16, *mut Bf16, *mut Bf16, *mut c_void, *const Bf16, *const Bf16, *const f32, *const Bf16,
        *const Bf16, *const Bf16, *const i32, *const i32, f32, i64, i64, i64, i64, i64, i64, i64,
        i64, Stream) -> c_int;
    fill = cudaMemsetAsync: fn(*mut c_void, c_int, usize, cu::cudaStream_t) -> cu::cudaError_t;
    copy_rows = cudaMemcpy2DAsync:
        fn(*mut c_void, usize, *const c_void, usize, usize, usize, cu::cudaMemcpyKind, cu::cudaStream_t)
        -> cu::cudaError_t;
}
