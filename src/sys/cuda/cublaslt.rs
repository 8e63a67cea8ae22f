//! cuBLASLt: GEMMs. The library is opened at run time.
//!
//! Matrices are column-major, as in cuBLASLt. Handles and descriptors keep the library open.

use std::env;
use std::ffi::{CStr, c_int};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{DType, Error, Result, Status};
use crate::sys::cuda::bindings as cu;
use crate::sys::cuda::library::Library;
use crate::sys::cuda::{CUBLASLT_VARIABLE, CublasLtFunctions, Stream, api, cublaslt_places, string};

/// The open library.
pub struct CublasLt {
    functions: CublasLtFunctions,
    place: PathBuf,
    /// Keeps the functions mapped; `None` if they come from the function table.
    _library: Option<Library>,
}

// SAFETY: function pointers and a library handle are not bound to a thread.
unsafe impl Send for CublasLt {}
// SAFETY: the library's functions may be called from several threads at once.
unsafe impl Sync for CublasLt {}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuBLASLt {} ({})", self.version(), self.place.display())
    }
}

impl CublasLt {
    /// Returns the cuBLASLt of the function table, or else opens the first of [`cublaslt_places`]
    /// that loads. Needs no driver. Errors: none loads (`DeviceUnavailable`, with each path and the
    /// loader's message).
    pub fn open() -> Result<Arc<Self>> {
        if let Some(functions) = api()?.cublaslt {
            return Ok(Arc::new(CublasLt { functions, place: "installed".into(), _library: None }));
        }
        // SAFETY: the paths are cuBLASLt's file names in library folders, or the file that the user
        // named as cuBLASLt.
        unsafe { Self::open_from(&cublaslt_places(|name| env::var_os(name))) }
    }

    /// As [`CublasLt::open`], from the given paths.
    ///
    /// # Safety
    /// Every library that loads from these paths is cuBLASLt.
    pub unsafe fn open_from(places: &[PathBuf]) -> Result<Arc<Self>> {
        let mut answers = Vec::new();
        for place in places {
            let found = Library::open(place).and_then(|library| {
                let symbol = |name: &'static CStr| {
                    library.symbol(name).ok_or_else(|| format!("it has no {}", name.to_string_lossy()))
                };
                // SAFETY: cuBLASLt's functions have the header's types; the library is stored next
                // to them.
                let functions = unsafe { CublasLtFunctions::find(symbol)? };
                Ok(CublasLt { functions, place: place.clone(), _library: Some(library) })
            });
            match found {
                Ok(library) => return Ok(Arc::new(library)),
                Err(why) => answers.push(format!("{}: {why}", place.display())),
            }
        }
        Err(Error::new(
            Status::DeviceUnavailable,
            format!(
                "cuBLASLt, which CUDA devices need for GEMMs, was not found. Tried: {}. Set {CUBLASLT_VARIABLE} to \
                 libcublasLt.so or its folder; `pip install nvidia-cublas` installs it",
                answers.join("; ")
            ),
        ))
    }

    /// The name or path that the loader opened.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The library's version, for example 130101 for 13.1.1.
    pub fn version(&self) -> usize {
        // SAFETY: returns a constant.
        unsafe { (self.functions.cublasLtGetVersion)() }
    }

    fn check(&self, status: cu::cublasStatus_t, what: impl fmt::Display) -> Result<()> {
        if status == cu::CUBLAS_STATUS_SUCCESS {
            return Ok(());
        }
        // SAFETY: the library returns a string for any number, valid while the library is open.
        let (name, text) = unsafe {
            let name = (self.functions.cublasLtGetStatusName)(status);
            (string(name), string((self.functions.cublasLtGetStatusString)(status)))
        };
        Err(Error::new(Status::DeviceFailed, format!("cannot {what}: {name} ({text}), from {self:?}")))
    }
}

/// A cuBLASLt handle for the device that was current when it was created.
#[derive(Debug)]
pub struct Handle {
    raw: cu::cublasLtHandle_t,
    library: Arc<CublasLt>,
}

// SAFETY: a handle may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: cuBLASLt allows concurrent use of one handle from several threads.
unsafe impl Sync for Handle {}

/// A GEMM algorithm: 64 opaque bytes, valid in every process with the same cuBLASLt version.
pub type Algorithm = [u64; 8];

/// The descriptors of a GEMM: `d = op(a) · op(b) + beta · c`, optionally plus a bias of `d`'s dtype
/// added to every column. bf16 inputs, f32 accumulation. `c` and `d` have the same layout.
#[derive(Debug)]
pub struct Descriptors {
    operation: cu::cublasLtMatmulDesc_t,
    /// Held from writing the address of a bias into `operation` until the GEMM call has read it;
    /// `None` without a bias.
    bias: Option<Mutex<()>>,
    a: cu::cublasLtMatrixLayout_t,
    b: cu::cublasLtMatrixLayout_t,
    out: cu::cublasLtMatrixLayout_t,
    library: Arc<CublasLt>,
}

// SAFETY: descriptors are plain memory of the library, not bound to a thread.
unsafe impl Send for Descriptors {}
// SAFETY: after `new` they are only read, except for the bias address, which is written and read
// under the lock.
unsafe impl Sync for Descriptors {}

/// A column-major matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The element type.
    pub dtype: DType,
    /// Rows: contiguous elements of a column.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements from one column to the next, at least `rows`.
    pub stride: usize,
}

/// Constraints on the algorithms that [`Handle::algorithms`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest workspace in bytes.
    pub workspace_bytes: usize,
    /// The alignment of every pointer, in bytes.
    pub alignment: usize,
}

impl Handle {
    /// Creates a handle for the current device. Errors: no device, or too little memory on it.
    pub fn new(library: Arc<CublasLt>) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the library writes a new handle, on success.
        let status = unsafe { (library.functions.cublasLtCreate)(&mut raw) };
        library.check(status, "start cuBLASLt")?;
        Ok(Handle { raw, library })
    }

    /// The library it belongs to.
    pub fn library(&self) -> &Arc<CublasLt> {
        &self.library
    }

    /// Returns between 1 and `count_max` algorithms with their workspace in bytes, best first by
    /// cuBLASLt's heuristic.
    ///
    /// Only deterministic split-K reductions are allowed: in f32 in the workspace, in a fixed
    /// order. Reductions in the output, whose order depends on timing, and reductions in the
    /// output's dtype are excluded.
    pub fn algorithms(
        &self,
        gemm: &Descriptors,
        limits: Limits,
        count_max: usize,
    ) -> Result<Vec<(Algorithm, usize)>> {
        let functions = &self.library.functions;
        let mut preference = ptr::null_mut();
        // SAFETY: the library writes a new preference, which is destroyed below.
        let status = unsafe { (functions.cublasLtMatmulPreferenceCreate)(&mut preference) };
        self.library.check(status, "create a cuBLASLt matmul preference")?;
        let set = |attribute, value: &[u8]| {
            // SAFETY: the preference is live; the library copies the stated number of bytes.
            let status = unsafe {
                let set = functions.cublasLtMatmulPreferenceSetAttribute;
                set(preference, attribute, value.as_ptr().cast(), value.len())
            };
            self.library.check(status, "set an attribute of a cuBLASLt matmul preference")
        };
        let alignment = limits.alignment as u32;
        let mut found = vec![NO_RESULT; count_max];
        let mut count: c_int = 0;
        let outcome =
            set(cu::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limits.workspace_bytes.to_ne_bytes())
                .and_then(|()| {
                    let schemes: cu::cublasLtReductionScheme_t =
                        cu::CUBLASLT_REDUCTION_SCHEME_NONE | cu::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
                    set(cu::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes.to_ne_bytes())
                })
                .and_then(|()| set(cu::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment.to_ne_bytes()))
                .and_then(|()| set(cu::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment.to_ne_bytes()))
                .and_then(|()| set(cu::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment.to_ne_bytes()))
                .and_then(|()| set(cu::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment.to_ne_bytes()))
                .and_then(|()| {
                    // SAFETY: all descriptors are live; `found` has the stated number of elements.
                    let status = unsafe {
                        (functions.cublasLtMatmulAlgoGetHeuristic)(
                            self.raw,
                            gemm.operation,
                            gemm.a,
                            gemm.b,
                            gemm.out,
                            gemm.out,
                            preference,
                            c_int::try_from(found.len()).unwrap_or(c_int::MAX),
                            found.as_mut_ptr(),
                            &mut count,
                        )
                    };
                    self.library.check(status, "choose an algorithm")
                });
        // SAFETY: created above, destroyed once, not used afterwards.
        unsafe { (functions.cublasLtMatmulPreferenceDestroy)(preference) };
        outcome?;
        found.truncate(usize::try_from(count).unwrap_or(0));
        let Some(first) = found.first() else {
            let message = format!("{:?} has no algorithm for this GEMM", self.library);
            return Err(Error::new(Status::Unsupported, message));
        };
        self.library.check(first.state, "choose an algorithm")?;
        let usable = found.iter().filter(|result| result.state == cu::CUBLAS_STATUS_SUCCESS);
        Ok(usable.map(|result| (result.algo.data, result.workspaceSize)).collect())
    }

    /// Returns the workspace in bytes that an algorithm needs for a GEMM. Errors: the algorithm
    /// does not support the GEMM on this device.
    pub fn workspace_of(&self, gemm: &Descriptors, algorithm: &Algorithm) -> Result<usize> {
        let algorithm = cu::cublasLtMatmulAlgo_t { data: *algorithm };
        let mut found = NO_RESULT;
        // SAFETY: all descriptors are live; the library reads 64 bytes and writes one result.
        let status = unsafe {
            (self.library.functions.cublasLtMatmulAlgoCheck)(
                self.raw,
                gemm.operation,
                gemm.a,
                gemm.b,
                gemm.out,
                gemm.out,
                &algorithm,
                &mut found,
            )
        };
        self.library.check(status, "use this algorithm")?;
        self.library.check(found.state, "use this algorithm")?;
        Ok(found.workspaceSize)
    }

    /// Enqueues a GEMM. `workspace` is an address and a length.
    ///
    /// # Safety
    /// The operands are matrices of the descriptors' layouts on the handle's device, `bias` is a
    /// vector as long as a column of `d`, and all have the alignment for which the algorithm was
    /// chosen. The workspace has the size that the algorithm needs and is aligned to 256 bytes.
    /// Until the GEMM has completed, no other work writes them, or reads `d` or the workspace.
    pub unsafe fn multiply(
        &self,
        gemm: &Descriptors,
        algorithm: &Algorithm,
        Addresses { d, c, bias, a, b }: Addresses,
        alpha: f32,
        (workspace, workspace_bytes): (*mut u8, usize),
        stream: &Stream,
    ) -> Result<()> {
        let beta = if c.is_some() { 1.0f32 } else { 0.0 };
        let algorithm = cu::cublasLtMatmulAlgo_t { data: *algorithm };
        assert_eq!(
            bias.is_some(),
            gemm.bias.is_some(),
            "a bias is given if and only if the descriptors have one"
        );
        let _lock = gemm.bias.as_ref().map(Mutex::lock);
        if let Some(bias) = bias {
            gemm.set(cu::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let stream = stream.command()?;
        // SAFETY: alpha, beta (host pointers by default), algorithm and descriptors are read before
        // the call returns; the caller guarantees the rest. With beta 0 the library does not read
        // c.
        let status = unsafe {
            (self.library.functions.cublasLtMatmul)(
                self.raw,
                gemm.operation,
                ptr::from_ref(&alpha).cast(),
                a.cast(),
                gemm.a,
                b.cast(),
                gemm.b,
                ptr::from_ref(&beta).cast(),
                c.unwrap_or(d).cast(),
                gemm.out,
                d.cast(),
                gemm.out,
                &algorithm,
                workspace.cast(),
                workspace_bytes,
                stream,
            )
        };
        self.library.check(status, "multiply")
    }
}

/// The operands of `d = alpha · op(a) · op(b) + c + bias`. `c` is optional and may be `d`; `bias` is given
/// if the descriptors have one.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The result.
    pub d: *mut u8,
    /// A matrix with the layout of the result.
    pub c: Option<*const u8>,
    /// A vector as long as a column of the result.
    pub bias: Option<*const u8>,
    /// The first factor.
    pub a: *const u8,
    /// The second factor.
    pub b: *const u8,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once, before the library is closed.
        unsafe { (self.library.functions.cublasLtDestroy)(self.raw) };
    }
}

/// A placeholder bias address while an algorithm is chosen. The library derives the bias alignment
/// from the value: 16 bytes, as for matrices.
const ANY_BIAS: *const u8 = ptr::without_provenance(16);

const NO_RESULT: cu::cublasLtMatmulHeuristicResult_t = cu::cublasLtMatmulHeuristicResult_t {
    algo: cu::cublasLtMatmulAlgo_t { data: [0; 8] },
    workspaceSize: 0,
    state: cu::CUBLAS_STATUS_NOT_SUPPORTED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

impl Descriptors {
    /// Creates descriptors; `transpose_a` and `transpose_b` choose op. Needs no device.
    pub fn new(
        library: &Arc<CublasLt>,
        (a, transpose_a): (Layout, bool),
        (b, transpose_b): (Layout, bool),
        out: Layout,
        bias: bool,
    ) -> Result<Self> {
        let library = library.clone();
        let none = ptr::null_mut();
        let bias = bias.then(Mutex::default);
        // Null handles are skipped on drop, so an early return frees the handles created so far.
        let mut made =
            Descriptors { operation: none, bias, a: none.cast(), b: none.cast(), out: none.cast(), library };
        let (library, functions) = (&made.library, &made.library.functions);
        // SAFETY: the library writes a new descriptor, on success.
        let status = unsafe {
            let create = functions.cublasLtMatmulDescCreate;
            create(&mut made.operation, cu::CUBLAS_COMPUTE_32F, cu::CUDA_R_32F)
        };
        library.check(status, "create a cuBLASLt matmul descriptor")?;
        for (attribute, transpose) in
            [(cu::CUBLASLT_MATMUL_DESC_TRANSA, transpose_a), (cu::CUBLASLT_MATMUL_DESC_TRANSB, transpose_b)]
        {
            let value: cu::cublasOperation_t = if transpose { cu::CUBLAS_OP_T } else { cu::CUBLAS_OP_N };
            made.set(attribute, &value)?;
        }
        if made.bias.is_some() {
            let epilogue: cu::cublasLtEpilogue_t = cu::CUBLASLT_EPILOGUE_BIAS;
            made.set(cu::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            made.set(cu::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &ANY_BIAS)?;
        }
        for (layout, into) in [(a, &mut made.a), (b, &mut made.b), (out, &mut made.out)] {
            let dtype = match layout.dtype {
                DType::Bf16 => cu::CUDA_R_16BF,
                DType::F32 => cu::CUDA_R_32F,
            };
            // SAFETY: the library writes a new layout, on success; a layout holds no address.
            let status = unsafe {
                let create = functions.cublasLtMatrixLayoutCreate;
                create(into, dtype, layout.rows as u64, layout.columns as u64, layout.stride as i64)
            };
            library.check(status, "create a cuBLASLt matrix layout")?;
        }
        Ok(made)
    }

    /// Sets an attribute of the operation.
    fn set<T: Copy>(&self, attribute: cu::cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
        // SAFETY: the descriptor is live and changed by one thread at a time: in `new`, or under
        // the lock. The library copies the stated number of bytes.
        let status = unsafe {
            let set = self.library.functions.cublasLtMatmulDescSetAttribute;
            set(self.operation, attribute, ptr::from_ref(value).cast(), size_of_val(value))
        };
        self.library.check(status, "set an attribute of a cuBLASLt matmul descriptor")
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        let functions = &self.library.functions;
        for layout in [self.a, self.b, self.out].into_iter().filter(|layout| !layout.is_null()) {
            // SAFETY: created by `new`, destroyed once.
            unsafe { (functions.cublasLtMatrixLayoutDestroy)(layout) };
        }
        if !self.operation.is_null() {
            // SAFETY: created by `new`, and not used after this call.
            unsafe { (functions.cublasLtMatmulDescDestroy)(self.operation) };
        }
    }
}
