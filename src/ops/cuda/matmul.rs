//! Matmuls by cuBLASLt: bf16 inputs, f32 accumulation, bf16 or f32 output, rounded once. Residual
//! and bias are added before rounding.
//!
//! The algorithm of a GEMM comes from the [`Table`]. If the table has none, it is the first of
//! cuBLASLt's heuristic under constant limits ([`WORKSPACE_BYTES`], [`ALIGNMENT`]), so it depends
//! only on the GEMM, the device and the library version.

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

/// Alignment in bytes, as `csrc/kernels.h` requires of every matrix. Better-aligned addresses are
/// not exploited: otherwise the algorithm would depend on placement.
pub const ALIGNMENT: usize = 16;

/// Runs its argument any number of times, waits for it and returns the nanoseconds of one run.
pub type Clock<'a> = dyn FnMut(&dyn Fn() -> Result<()>) -> Result<u64> + 'a;

/// The limits of every algorithm.
const LIMITS: Limits = Limits { workspace_bytes: WORKSPACE_BYTES, alignment: ALIGNMENT };

/// The GEMMs of one device.
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
    /// `device` is the name of the handle's device, the key in the table. `workspace` is at least
    /// [`WORKSPACE_BYTES`] of its memory, aligned to 256 bytes, used by nothing else. GEMMs that
    /// share it run on one CUDA stream.
    pub fn new(handle: Handle, device: String, table: Table, workspace: DeviceSpan) -> Result<Self> {
        if workspace.bytes() < WORKSPACE_BYTES
            || !(workspace.address() as usize).is_multiple_of(WORKSPACE_ALIGNMENT)
        {
            return Err(Error::internal(format!(
                "the workspace of GEMMs must be {WORKSPACE_BYTES} bytes at a multiple of {WORKSPACE_ALIGNMENT}, not {} bytes at {:p}",
                workspace.bytes(),
                workspace.address()
            )));
        }
        Ok(Gemms { handle, device, table, workspace, plans: Mutex::default() })
    }

    /// Creates the descriptors of a GEMM and selects its algorithm, unless done before. Called
    /// before the first step, so that steps do not allocate.
    pub fn prepare(&self, gemm: &Gemm) -> Result<()> {
        self.plan(gemm).map(|_| ())
    }

    /// The selected algorithms of all GEMMs so far, as a table that reproduces the same bits.
    pub fn choices(&self) -> Table {
        let mut table = Table::default();
        for (gemm, plan) in self.plans.lock().iter() {
            table.insert(self.key(gemm), plan.choice);
        }
        table
    }

    /// Device, library version and a checksum of the table.
    pub fn arithmetic(&self) -> String {
        let library = self.handle.library().version();
        let table = xxh3_64(self.table.to_json().as_bytes());
        format!("{} with cuBLASLt {library} by table {table:016x}", self.device)
    }

    /// Queues a GEMM. `matrices` are the output and the operands a and b of [`Gemm::operands`];
    /// `scale` is the factor of a · b; `addends` are the residual and the bias, present if
    /// the GEMM has them. N is not 0.
    ///
    /// # Safety
    /// Until the GEMM is done, operands and workspace obey the rules of spans: device memory, and
    /// the output overlaps neither a nor b.
    pub unsafe fn multiply(
        &self,
        gemm: &Gemm,
        matrices: [DeviceSpan; 3],
        scale: f32,
        addends: [Option<DeviceSpan>; 2],
        stream: &Stream,
    ) -> Result<()> {
        let plan = self.plan(gemm)?;
        // SAFETY: promised by the caller.
        unsafe { self.multiply_by((&plan.descriptors, &plan.choice), gemm, matrices, scale, addends, stream) }
    }

    /// # Safety
    /// As [`Gemms::multiply`].
    unsafe fn multiply_by(
        &self,
        (descriptors, choice): (&Descriptors, &Choice),
        gemm: &Gemm,
        [out, a, b]: [DeviceSpan; 3],
        scale: f32,
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
                "{:p} is not a multiple of {ALIGNMENT} bytes",
                span.address()
            );
        }
        // SAFETY: lengths and alignment were just checked; the caller promises the rest; users of the
        // workspace share a CUDA stream.
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
                scale,
                (self.workspace.address(), self.workspace.bytes()),
                stream,
            )
        }
        .map_err(|error| error.within(format_args!("{gemm:?}")))
    }

    /// Autotunes a GEMM: returns the fastest of the first `most` algorithms of cuBLASLt's heuristic
    /// under `LIMITS`; the first of equals. `operands` are the output and the operands a and b,
    /// long enough; the output is overwritten. A bias is read from operand a.
    ///
    /// # Safety
    /// As [`Gemms::multiply`], for every run.
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
            // SAFETY: promised by the caller for every run.
            let run = || unsafe { self.multiply_by(by, gemm, matrices, 1.0, addends, stream) };
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
                "the GEMM autotune table selects an algorithm that needs {} bytes of workspace; at most {WORKSPACE_BYTES} are \
                                 allowed: run `horizon calibrate` again",
                choice.workspace_bytes
            )));
        }
        Ok(Plan { descriptors, choice })
    }

    fn key(&self, gemm: &Gemm) -> Key {
        Key { device: self.device.clone(), library: self.handle.library().version(), gemm: *gemm }
    }
}
