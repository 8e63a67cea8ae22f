//! cuBLASLt: matrix products, opened at run time.
//!
//! Matrices are column-major here, as the library has them. Handles and descriptors hold the library open.

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
    /// The library that holds the functions; none if they came with the table of foreign functions.
    _library: Option<Library>,
}

// SAFETY: a table of functions and the handle that keeps them mapped; none belongs to a thread.
unsafe impl Send for CublasLt {}
// SAFETY: the library's functions may be called from several threads at once.
unsafe impl Sync for CublasLt {}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuBLASLt {} ({})", self.version(), self.place.display())
    }
}

impl CublasLt {
    /// The library that the table of foreign functions brings, or else the first of [`cublaslt_places`] that the loader
    /// takes. Needs no driver. Errors: `DeviceUnavailable`, with every place and the loader's answer.
    pub fn open() -> Result<Arc<Self>> {
        if let Some(functions) = api()?.cublaslt {
            return Ok(Arc::new(CublasLt { functions, place: "installed".into(), _library: None }));
        }
        // SAFETY: the library's names in the loader's places, or what the user's own variable names as one.
        unsafe { Self::open_from(&cublaslt_places(|name| env::var_os(name))) }
    }

    /// The same, from given places.
    ///
    /// # Safety
    /// What is at these places and can be loaded is cuBLASLt.
    pub unsafe fn open_from(places: &[PathBuf]) -> Result<Arc<Self>> {
        let mut answers = Vec::new();
        for place in places {
            let found = Library::open(place).and_then(|library| {
                let symbol = |name: &'static CStr| {
                    library.symbol(name).ok_or_else(|| format!("it lacks {}", name.to_string_lossy()))
                };
                // SAFETY: cuBLASLt has functions of the header's types, and is kept as long as they are.
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
                "cuBLASLt was not found, which multiplies matrices on CUDA. Tried: {}. {CUBLASLT_VARIABLE} names \
                 libcublasLt.so or its folder; `pip install nvidia-cublas` brings it",
                answers.join("; ")
            ),
        ))
    }

    /// Where it was found, as the loader was given it.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// For example 130101 for 13.1.1.
    pub fn version(&self) -> usize {
        // SAFETY: gives a constant.
        unsafe { (self.functions.cublasLtGetVersion)() }
    }

    fn check(&self, status: cu::cublasStatus_t, what: impl fmt::Display) -> Result<()> {
        if status == cu::CUBLAS_STATUS_SUCCESS {
            return Ok(());
        }
        // SAFETY: the library answers any number with a string that stays as long as it is open.
        let (name, text) = unsafe {
            let name = (self.functions.cublasLtGetStatusName)(status);
            (string(name), string((self.functions.cublasLtGetStatusString)(status)))
        };
        Err(Error::new(Status::DeviceFailed, format!("cannot {what}: {name} ({text}), from {self:?}")))
    }
}

/// The library's state for the device that was current when it was made.
#[derive(Debug)]
pub struct Handle {
    raw: cu::cublasLtHandle_t,
    library: Arc<CublasLt>,
}

// SAFETY: a handle may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: the library allows one handle on several threads at a time; it holds only what is constant.
unsafe impl Sync for Handle {}

/// How the library does a product: its own 64 bytes, which mean the same in every process with the same version.
pub type Algorithm = [u64; 8];

/// A product's descriptors: `d = op(a) · op(b) + beta · c`, plus a bias of `d`'s type in every column where there is one; bf16
/// in, f32 sums. `c` and `d` have one layout.
#[derive(Debug)]
pub struct Descriptors {
    operation: cu::cublasLtMatmulDesc_t,
    /// Held from where the address of a bias is put into `operation` until it has been read; `None` without a bias.
    bias: Option<Mutex<()>>,
    a: cu::cublasLtMatrixLayout_t,
    b: cu::cublasLtMatrixLayout_t,
    out: cu::cublasLtMatrixLayout_t,
    library: Arc<CublasLt>,
}

// SAFETY: descriptors are plain memory of the library's, bound to no thread.
unsafe impl Send for Descriptors {}
// SAFETY: after `new` they are only read, but for the address of a bias, which changes and is read under the lock.
unsafe impl Sync for Descriptors {}

/// A column-major matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The type of its elements.
    pub dtype: DType,
    /// Rows, which lie side by side.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements from one column to the next: at least `rows`.
    pub stride: usize,
}

/// What an algorithm may be, for [`Handle::algorithms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of workspace at most.
    pub workspace_bytes: usize,
    /// Every pointer is a multiple of this many bytes.
    pub alignment: usize,
}

impl Handle {
    /// A handle for the current device. Errors: no device, or too little memory on it.
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

    /// The algorithms that the library's heuristic thinks best, the best first, at least one and at most so many, each
    /// with its workspace in bytes. Sums of parts of a product are made in f32 in the workspace, in a fixed order, or not
    /// at all: neither in the output (whose order would depend on timing) nor in the output's type.
    pub fn algorithms(
        &self,
        product: &Descriptors,
        limits: Limits,
        most: usize,
    ) -> Result<Vec<(Algorithm, usize)>> {
        let functions = &self.library.functions;
        let mut preference = ptr::null_mut();
        // SAFETY: the library writes a new preference, destroyed below.
        let status = unsafe { (functions.cublasLtMatmulPreferenceCreate)(&mut preference) };
        self.library.check(status, "make a preference of algorithms")?;
        let set = |attribute, value: &[u8]| {
            // SAFETY: the preference is live; the library copies as many bytes as it is told.
            let status = unsafe {
                let set = functions.cublasLtMatmulPreferenceSetAttribute;
                set(preference, attribute, value.as_ptr().cast(), value.len())
            };
            self.library.check(status, "state a preference of algorithms")
        };
        let alignment = limits.alignment as u32;
        let mut found = vec![NOTHING; most];
        let mut count: c_int = 0;
        let asked = set(cu::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limits.workspace_bytes.to_ne_bytes())
            .and_then(|()| {
                let sums: cu::cublasLtReductionScheme_t =
                    cu::CUBLASLT_REDUCTION_SCHEME_NONE | cu::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
                set(cu::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums.to_ne_bytes())
            })
            .and_then(|()| set(cu::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment.to_ne_bytes()))
            .and_then(|()| set(cu::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment.to_ne_bytes()))
            .and_then(|()| set(cu::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment.to_ne_bytes()))
            .and_then(|()| set(cu::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment.to_ne_bytes()))
            .and_then(|()| {
                // SAFETY: all descriptors are live; there is room for as many results as are asked for.
                let status = unsafe {
                    (functions.cublasLtMatmulAlgoGetHeuristic)(
                        self.raw,
                        product.operation,
                        product.a,
                        product.b,
                        product.out,
                        product.out,
                        preference,
                        c_int::try_from(found.len()).unwrap_or(c_int::MAX),
                        found.as_mut_ptr(),
                        &mut count,
                    )
                };
                self.library.check(status, "choose an algorithm")
            });
        // SAFETY: made above, destroyed once, used by nobody after.
        unsafe { (functions.cublasLtMatmulPreferenceDestroy)(preference) };
        asked?;
        found.truncate(usize::try_from(count).unwrap_or(0));
        let Some(first) = found.first() else {
            let what = format!("no algorithm of {:?} does this product", self.library);
            return Err(Error::new(Status::Unsupported, what));
        };
        self.library.check(first.state, "choose an algorithm")?;
        let good = found.iter().filter(|one| one.state == cu::CUBLAS_STATUS_SUCCESS);
        Ok(good.map(|one| (one.algo.data, one.workspaceSize)).collect())
    }

    /// The workspace in bytes that an algorithm needs for a product; an error when it cannot do it here.
    pub fn workspace_of(&self, product: &Descriptors, algorithm: &Algorithm) -> Result<usize> {
        let algorithm = cu::cublasLtMatmulAlgo_t { data: *algorithm };
        let mut found = NOTHING;
        // SAFETY: all descriptors are live; the library reads 64 bytes and writes one result.
        let status = unsafe {
            (self.library.functions.cublasLtMatmulAlgoCheck)(
                self.raw,
                product.operation,
                product.a,
                product.b,
                product.out,
                product.out,
                &algorithm,
                &mut found,
            )
        };
        self.library.check(status, "use this algorithm")?;
        self.library.check(found.state, "use this algorithm")?;
        Ok(found.workspaceSize)
    }

    /// Queues a product. `workspace` is an address and a length.
    ///
    /// # Safety
    /// The addresses are matrices of the descriptors' layouts on the handle's device, and a vector as long as a column of
    /// `d`, as aligned as the algorithm was chosen for; the workspace is as long as the algorithm needs and aligned to 256
    /// bytes; all are left alone by others until the stream has passed.
    pub unsafe fn multiply(
        &self,
        product: &Descriptors,
        algorithm: &Algorithm,
        Addresses { d, c, bias, a, b }: Addresses,
        (workspace, workspace_bytes): (*mut u8, usize),
        stream: &Stream,
    ) -> Result<()> {
        let (alpha, beta) = (1.0f32, if c.is_some() { 1.0f32 } else { 0.0 });
        let algorithm = cu::cublasLtMatmulAlgo_t { data: *algorithm };
        assert_eq!(
            bias.is_some(),
            product.bias.is_some(),
            "a bias where the descriptors have none, or none where they have one"
        );
        let _lock = product.bias.as_ref().map(Mutex::lock);
        if let Some(bias) = bias {
            product.set(cu::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let stream = stream.command()?;
        // SAFETY: alpha, beta, algorithm and descriptors are read before the call returns (pointers to the host are the
        // default); the rest is the caller's word. With beta 0 the library does not read c.
        let status = unsafe {
            (self.library.functions.cublasLtMatmul)(
                self.raw,
                product.operation,
                ptr::from_ref(&alpha).cast(),
                a.cast(),
                product.a,
                b.cast(),
                product.b,
                ptr::from_ref(&beta).cast(),
                c.unwrap_or(d).cast(),
                product.out,
                d.cast(),
                product.out,
                &algorithm,
                workspace.cast(),
                workspace_bytes,
                stream,
            )
        };
        self.library.check(status, "multiply")
    }
}

/// The operands of `d = op(a) · op(b)`, plus `c` when given, which may be `d`, plus `bias`, given where the descriptors have one.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The result.
    pub d: *mut u8,
    /// A matrix laid out as the result.
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
        // SAFETY: made by `new`, destroyed once, before the library is closed.
        unsafe { (self.library.functions.cublasLtDestroy)(self.raw) };
    }
}

/// The address that stands for a bias while an algorithm is chosen. The library takes the alignment that it may count on from
/// the value: 16 bytes and no more, as for matrices.
const ANY_BIAS: *const u8 = ptr::without_provenance(16);

const NOTHING: cu::cublasLtMatmulHeuristicResult_t = cu::cublasLtMatmulHeuristicResult_t {
    algo: cu::cublasLtMatmulAlgo_t { data: [0; 8] },
    workspaceSize: 0,
    state: cu::CUBLAS_STATUS_NOT_SUPPORTED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

impl Descriptors {
    /// Describes a product; `transpose_a` and `transpose_b` say what op is. Needs no device.
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
        // Dropped, whatever comes next fails.
        let mut made =
            Descriptors { operation: none, bias, a: none.cast(), b: none.cast(), out: none.cast(), library };
        let (library, functions) = (&made.library, &made.library.functions);
        // SAFETY: the library writes a new descriptor, on success.
        let status = unsafe {
            let create = functions.cublasLtMatmulDescCreate;
            create(&mut made.operation, cu::CUBLAS_COMPUTE_32F, cu::CUDA_R_32F)
        };
        library.check(status, "describe a product")?;
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
            // SAFETY: the library writes a new layout, on success; it holds no address.
            let status = unsafe {
                let create = functions.cublasLtMatrixLayoutCreate;
                create(into, dtype, layout.rows as u64, layout.columns as u64, layout.stride as i64)
            };
            library.check(status, "describe a matrix")?;
        }
        Ok(made)
    }

    /// Sets an attribute of the operation.
    fn set<T: Copy>(&self, attribute: cu::cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
        // SAFETY: the descriptor is live, and changed by one thread at a time: in `new`, or under the lock; the library copies as
        // many bytes as it is told.
        let status = unsafe {
            let set = self.library.functions.cublasLtMatmulDescSetAttribute;
            set(self.operation, attribute, ptr::from_ref(value).cast(), size_of_val(value))
        };
        self.library.check(status, "describe a product")
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        let functions = &self.library.functions;
        for layout in [self.a, self.b, self.out].into_iter().filter(|layout| !layout.is_null()) {
            // SAFETY: made by `new`, destroyed once.
            unsafe { (functions.cublasLtMatrixLayoutDestroy)(layout) };
        }
        if !self.operation.is_null() {
            // SAFETY: made in `new`; nothing else knows it.
            unsafe { (functions.cublasLtMatmulDescDestroy)(self.operation) };
        }
    }
}
