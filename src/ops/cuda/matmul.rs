//! Products by cuBLASLt: bf16 in, f32 sums, bf16 or f32 out, rounded once. A residual and a bias are added to the f32 sum.
//!
//! The algorithm of a product comes from the [`Table`]; what that does not hold is the first of the library's
//! heuristic under limits that never change ([`WORKSPACE_BYTES`], [`ALIGNMENT`]), so that it depends on the
//! product, the device and the library's version alone.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::base::{Error, Result};
use crate::device::DeviceSpan;
use crate::ops::cuda::gemm::{ColumnMajor, Gemm};
use crate::ops::cuda::table::{Choice, Key, Table};
use crate::ops::cuda::workspace::{ALIGNMENT as WORKSPACE_ALIGNMENT, GEMM_BYTES as WORKSPACE_BYTES};
use crate::sys::cuda::Stream;
use crate::sys::cuda::cublaslt::{Addresses, Descriptors, Handle, Layout, Limits};

/// Bytes: what `csrc/kernels.h` asks of every matrix. The same is promised for all, even where an address has
/// more: an algorithm that needs more would be chosen by placement.
pub const ALIGNMENT: usize = 16;

/// Runs what it is given as often as it likes, waits for it and says how many nanoseconds one run took.
pub type Clock<'a> = dyn FnMut(&dyn Fn() -> Result<()>) -> Result<u64> + 'a;

/// What every algorithm must do with.
const LIMITS: Limits = Limits { workspace_bytes: WORKSPACE_BYTES, alignment: ALIGNMENT };

/// The products of one device.
pub struct Gemms {
    handle: Handle,
    device: String,
    table: Table,
    workspace: DeviceSpan,
    plans: Mutex<HashMap<Gemm, Arc<Plan>>>,
}

struct Plan {
    descriptors: Descriptors,
    choice: Choice,
}

impl Gemms {
    /// For the handle's device, whose name is the table's key. `workspace` is [`WORKSPACE_BYTES`] of its memory, aligned to
    /// 256 bytes, which nothing else uses; products that share it run on one stream.
    pub fn new(handle: Handle, device: String, table: Table, workspace: DeviceSpan) -> Result<Self> {
        if workspace.bytes() < WORKSPACE_BYTES
            || !(workspace.address() as usize).is_multiple_of(WORKSPACE_ALIGNMENT)
        {
            return Err(Error::internal(format!(
                "the workspace of GEMMs is {WORKSPACE_BYTES} bytes at a multiple of {WORKSPACE_ALIGNMENT}, not {} at {:p}",
                workspace.bytes(),
                workspace.address()
            )));
        }
        Ok(Gemms { handle, device, table, workspace, plans: Mutex::default() })
    }

    /// Describes a product and chooses its algorithm, unless that has been done. Products of a step are prepared
    /// before it, so that nothing allocates inside.
    pub fn prepare(&self, gemm: &Gemm) -> Result<()> {
        self.plan(gemm).map(|_| ())
    }

    /// The choices of all products prepared so far, as a table that gives the same bits again.
    pub fn choices(&self) -> Table {
        let mut table = Table::default();
        for (gemm, plan) in self.plans.lock().iter() {
            table.insert(self.key(gemm), plan.choice);
        }
        table
    }

    /// The device, the library, and a checksum of the table.
    pub fn arithmetic(&self) -> String {
        let library = self.handle.library().version();
        let table = xxh3_64(self.table.to_json().as_bytes());
        format!("{} with cuBLASLt {library} by table {table:016x}", self.device)
    }

    /// Queues a product. `matrices` are the output and the factors a and b of [`Gemm::operands`]; `addends` a residual and a
    /// bias, there where the product says so. N is not 0.
    ///
    /// # Safety
    /// The law of spans until the product is done, for its operands and for the workspace: device memory, the output apart from
    /// the factors.
    pub unsafe fn multiply(
        &self,
        gemm: &Gemm,
        matrices: [DeviceSpan; 3],
        addends: [Option<DeviceSpan>; 2],
        stream: &Stream,
    ) -> Result<()> {
        let plan = self.plan(gemm)?;
        // SAFETY: the caller's own promise.
        unsafe { self.multiply_by((&plan.descriptors, &plan.choice), gemm, matrices, addends, stream) }
    }

    /// # Safety
    /// As [`Gemms::multiply`].
    unsafe fn multiply_by(
        &self,
        (descriptors, choice): (&Descriptors, &Choice),
        gemm: &Gemm,
        [out, a, b]: [DeviceSpan; 3],
        [residual, bias]: [Option<DeviceSpan>; 2],
        stream: &Stream,
    ) -> Result<()> {
        assert_eq!((residual.is_some(), bias.is_some()), (gemm.add, gemm.bias), "{gemm:?}");
        let operands = gemm.operands();
        let given = [(out, operands.out), (a, operands.a.matrix), (b, operands.b.matrix)];
        let added = [residual.map(|span| (span, operands.out)), bias.map(|span| (span, gemm.bias_vector()))];
        for (span, matrix) in given.into_iter().chain(added.into_iter().flatten()) {
            assert!(span.bytes() >= matrix.bytes(), "{} bytes are too short for {matrix:?}", span.bytes());
            assert!(
                (span.address() as usize).is_multiple_of(ALIGNMENT),
                "{:p} is not aligned",
                span.address()
            );
        }
        // SAFETY: lengths and alignment were just compared; the caller promises the rest; users of the workspace share a stream.
        unsafe {
            self.handle.multiply(
                descriptors,
                &choice.algorithm,
                Addresses {
                    d: out.address(),
                    c: residual.map(|residual| residual.address().cast_const()),
                    bias: bias.map(|bias| bias.address().cast_const()),
                    a: a.address(),
                    b: b.address(),
                },
                (self.workspace.address(), self.workspace.bytes()),
                stream,
            )
        }
        .map_err(|error| error.within(format_args!("{gemm:?}")))
    }

    /// The algorithm by which a product takes the least time, of the first `most` of the library's heuristic under the
    /// limits that [`Gemms::prepare`] gives it; of equals the first. `operands` are the output and the factors a and b,
    /// long enough; the output is overwritten. A bias is read from the factor a.
    ///
    /// # Safety
    /// As [`Gemms::multiply`], of all that is run.
    pub unsafe fn fastest(
        &self,
        gemm: &Gemm,
        most: usize,
        [out, a, b]: [DeviceSpan; 3],
        stream: &Stream,
        clock: &mut Clock,
    ) -> Result<(Key, Choice)> {
        let descriptors = self.describe(gemm)?;
        let (matrices, addends) = ([out, a, b], [gemm.add.then_some(out), gemm.bias.then_some(a)]);
        let mut best: Option<(u64, Choice)> = None;
        for (algorithm, workspace_bytes) in self.handle.algorithms(&descriptors, LIMITS, most)? {
            let choice = Choice { algorithm, workspace_bytes };
            let by = (&descriptors, &choice);
            // SAFETY: the caller promises it of every run.
            let run = || unsafe { self.multiply_by(by, gemm, matrices, addends, stream) };
            let ns = clock(&run)?;
            if best.is_none_or(|(least, _)| ns < least) {
                best = Some((ns, choice));
            }
        }
        let (_, choice) = best.ok_or_else(|| Error::internal("no algorithm was tried"))?;
        Ok((self.key(gemm), choice))
    }

    fn plan(&self, gemm: &Gemm) -> Result<Arc<Plan>> {
        if let Some(plan) = self.plans.lock().get(gemm) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(self.make(gemm).map_err(|error| error.within(format_args!("{gemm:?}")))?);
        Ok(self.plans.lock().entry(*gemm).or_insert(plan).clone())
    }

    fn describe(&self, gemm: &Gemm) -> Result<Descriptors> {
        gemm.check()?;
        let layout = |matrix: ColumnMajor| Layout {
            dtype: matrix.dtype,
            rows: matrix.rows,
            columns: matrix.columns,
            stride: matrix.stride,
        };
        let operands = gemm.operands();
        Descriptors::new(
            self.handle.library(),
            (layout(operands.a.matrix), operands.a.transpose),
            (layout(operands.b.matrix), operands.b.transpose),
            layout(operands.out),
            gemm.bias,
        )
    }

    fn make(&self, gemm: &Gemm) -> Result<Plan> {
        let descriptors = self.describe(gemm)?;
        let choice = match self.table.get(&self.key(gemm)) {
            Some(choice) => {
                let workspace_bytes = self.handle.workspace_of(&descriptors, &choice.algorithm)?;
                Choice { workspace_bytes, ..choice }
            }
            None => {
                let (algorithm, workspace_bytes) = self.handle.algorithms(&descriptors, LIMITS, 1)?[0];
                Choice { algorithm, workspace_bytes }
            }
        };
        if choice.workspace_bytes > WORKSPACE_BYTES {
            return Err(Error::argument(format!(
                "the table's algorithm needs {} bytes of workspace, {WORKSPACE_BYTES} are there; calibrate anew",
                choice.workspace_bytes
            )));
        }
        Ok(Plan { descriptors, choice })
    }

    fn key(&self, gemm: &Gemm) -> Key {
        Key { device: self.device.clone(), library: self.handle.library().version(), gemm: *gemm }
    }
}
