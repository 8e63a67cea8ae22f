//! [`Kernels`] by the launchers of `csrc/kernels.h` and cuBLASLt: bf16 storage, everything queued on one stream.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{DType, Dims, Error, Result};
use crate::device::DeviceSpan;
use crate::ops::cuda::address::{base, bf16s, f32s, f64s, i32s, on};
use crate::ops::cuda::attention::wgmma_heads;
use crate::ops::cuda::heads::{Heads, both_heads, head_counts};
use crate::ops::cuda::matmul::Products;
use crate::ops::cuda::product::{Direction, Product};
use crate::ops::cuda::table::Table;
use crate::ops::cuda::workspace::{self, ALIGNMENT, PRODUCTS_BYTES};
use crate::ops::{Addends, Kernels, Linear, LossRows, NORM_BLOCK, Rows, TokenRows, Write};
use crate::sys::cuda::cublaslt::Handle;
use crate::sys::cuda::{self, Api, Driver, Stream, api, fill, launched};

const _: () = assert!(NORM_BLOCK == cuda::bindings::HZK_NORM_BLOCK as usize);

/// [`Kernels`] that queue their work on a stream and return. The first launch that fails is what
/// [`Kernels::outcome`] gives; what follows it is queued all the same, and means nothing.
pub struct CudaKernels {
    api: &'static Api,
    stream: Arc<Stream>,
    products: Products,
    /// Head dimensions whose attention is by wgmma.
    by_wgmma: Vec<usize>,
    scratch: DeviceSpan,
    failed: Mutex<Option<Error>>,
}

/// Calls a launcher on the kernels' stream and keeps its failure.
macro_rules! launch {
    ($kernels:ident.$launcher:ident($($argument:expr),* $(,)?)) => {
        launch!($kernels, ($kernels.api.kernels.$launcher, stringify!($launcher)), $($argument,)*)
    };
    ($kernels:ident, $launcher:expr, $($argument:expr),* $(,)?) => {{
        let (launcher, name) = $launcher;
        // SAFETY: every address comes from `part`, which compared its span with what the launcher reads or writes
        // there; the rights to both are the caller's (the law of `ops`), and the scratch is this value's alone.
        let launch = |stream| launched(unsafe { launcher($($argument,)* stream) }, name);
        $kernels.keep($kernels.stream.command().and_then(launch));
    }};
}

impl CudaKernels {
    /// What activations are stored as.
    pub const STORAGE: DType = DType::Bf16;

    /// Kernels for the thread's current device, number `device`, whose work goes to `stream`. `workspace` is
    /// [`workspace_bytes`](crate::ops::cuda::workspace::workspace_bytes) of the device's memory, at a multiple of 256
    /// bytes, and theirs alone. Where the table has no choice, attention is by wgmma if there is code for it. Errors: no
    /// driver; a table that chooses wgmma where there is no code for it.
    pub fn new(
        stream: Arc<Stream>,
        workspace: DeviceSpan,
        handle: Handle,
        mut table: Table,
        device: usize,
    ) -> Result<Self> {
        if workspace.bytes() <= PRODUCTS_BYTES || !workspace.address().addr().is_multiple_of(ALIGNMENT) {
            return Err(Error::internal(format!(
                "the workspace of kernels is more than {PRODUCTS_BYTES} bytes at a multiple of {ALIGNMENT}, not {} at {:p}",
                workspace.bytes(),
                workspace.address()
            )));
        }
        let (api, name) = (api()?, Driver::open()?.device_name(device)?);
        let by_wgmma = wgmma_heads(&mut table, &name, device)?;
        let products = Products::new(handle, name, table, workspace.part(0, PRODUCTS_BYTES))?;
        let scratch = workspace.part(PRODUCTS_BYTES, workspace.bytes() - PRODUCTS_BYTES);
        Ok(CudaKernels { api, stream, products, by_wgmma, scratch, failed: Mutex::default() })
    }

    /// Describes products and chooses their algorithms, so that nothing is looked for inside a step.
    pub fn prepare(&self, products: &[Product]) -> Result<()> {
        products.iter().try_for_each(|product| self.products.prepare(product))
    }

    /// The algorithms of all products so far, as a table that gives the same bits again.
    pub fn choices(&self) -> Table {
        self.products.choices()
    }

    fn keep(&self, result: Result<()>) {
        if let Err(error) = result {
            self.failed.lock().get_or_insert(error);
        }
    }

    /// Copies the value heads of `n` packed rows.
    fn copy_values(&self, to: &Heads, from: &Heads, n: usize, dims: &Dims) {
        let rows = cuda::Matrix {
            rows: n,
            row_bytes: dims.g * dims.d * Self::STORAGE.bytes(),
            stride_bytes: dims.qkv() * Self::STORAGE.bytes(),
        };
        let [to, from] = [to.v, from.v].map(|v| NonNull::new(v.cast()).expect("a span is not null"));
        // SAFETY: `Heads` compared both spans with their rows, in which the values end; the spans are apart; the rights to
        // them are the caller's.
        self.keep(unsafe { cuda::copy_rows(to, from, rows, &self.stream) });
    }

    /// Memory that holds what an operation leaves for its own next kernel.
    fn scratch(&self, bytes: usize) -> *mut c_void {
        self.scratch.first::<u8>(bytes).cast()
    }
}

fn attention_scale(dims: &Dims) -> f32 {
    1.0 / (dims.d as f32).sqrt()
}

impl Kernels for CudaKernels {
    fn storage(&self) -> DType {
        Self::STORAGE
    }

    fn arithmetic(&self) -> String {
        self.products.arithmetic()
    }

    fn warms_up(&self) -> bool {
        true
    }

    fn outcome(&self) -> Result<()> {
        self.failed.lock().take().map_or(Ok(()), Err)
    }

    fn settle(&self) -> Result<()> {
        self.outcome().and_then(|()| self.stream.synchronize())
    }

    fn embed_forward(
        &self,
        out: DeviceSpan,
        table: DeviceSpan,
        tokens: DeviceSpan,
        n: usize,
        c: usize,
        v: usize,
    ) {
        launch!(self.hzk_embedding_forward(
            bf16s(&out, n * c),
            i32s(&tokens, n),
            bf16s(&table, v * c),
            n as i64,
            c as i64,
            v as i64,
        ));
    }

    fn embed_backward(
        &self,
        dtable: DeviceSpan,
        dout: DeviceSpan,
        tokens: &TokenRows,
        n: usize,
        c: usize,
        v: usize,
    ) {
        launch!(self.hzk_embedding_backward(
            f32s(&dtable, v * c),
            bf16s(&dout, n * c),
            i32s(&tokens.tokens, n),
            i32s(&tokens.order, n),
            i32s(&tokens.first, tokens.distinct + 1),
            n as i64,
            tokens.distinct as i64,
            c as i64,
            v as i64,
        ));
    }

    fn rmsnorm_forward(
        &self,
        out: DeviceSpan,
        rstd: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        eps: f32,
        n: usize,
        c: usize,
    ) {
        launch!(self.hzk_rmsnorm_forward(
            bf16s(&out, n * c),
            f32s(&rstd, n),
            bf16s(&x, n * c),
            bf16s(&weight, c),
            eps,
            n as i64,
            c as i64,
        ));
    }

    fn rmsnorm_backward(
        &self,
        dx: DeviceSpan,
        dx_write: Write,
        dweight: DeviceSpan,
        dweight_write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        rstd: DeviceSpan,
        weight: DeviceSpan,
        n: usize,
        c: usize,
    ) {
        if dweight_write == Write::Set {
            self.zero(dweight.part(0, c * 4));
        }
        let scratch = self.scratch(workspace::rmsnorm_backward_scratch(n, c));
        launch!(self.hzk_rmsnorm_backward(
            bf16s(&dx, n * c),
            f32s(&dweight, c),
            scratch,
            bf16s(&dout, n * c),
            bf16s(&x, n * c),
            bf16s(&weight, c),
            f32s(&rstd, n),
            i32::from(dx_write == Write::Add),
            n as i64,
            c as i64,
        ));
    }

    fn matmul_forward(
        &self,
        out: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        addends: Addends,
        sizes: Linear,
    ) {
        let product = Product::forward(addends.residual.is_some(), addends.bias.is_some(), sizes);
        self.keep(self.products.forward(out, x, weight, addends, &product, &self.stream));
    }

    fn matmul_backward_input(
        &self,
        dx: DeviceSpan,
        write: Write,
        dout: DeviceSpan,
        weight: DeviceSpan,
        sizes: Linear,
    ) {
        let product = Product::of(Direction::BackwardInput, write, sizes);
        self.keep(self.products.backward_input(dx, dout, weight, &product, &self.stream));
    }

    fn matmul_backward_weight(
        &self,
        dweight: DeviceSpan,
        write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        sizes: Linear,
    ) {
        let product = Product::of(Direction::BackwardWeight, write, sizes);
        self.keep(self.products.backward_weight(dweight, dout, x, &product, &self.stream));
    }

    fn bias_backward(&self, dbias: DeviceSpan, write: Write, dout: DeviceSpan, n: usize, c: usize) {
        if write == Write::Set {
            self.zero(dbias.part(0, c * 4));
        }
        let scratch = self.scratch(workspace::bias_backward_scratch(n, c));
        launch!(self.hzk_bias_backward(f32s(&dbias, c), scratch, bf16s(&dout, n * c), n as i64, c as i64));
    }

    fn qk_norm_forward(
        &self,
        out: DeviceSpan,
        rstd: DeviceSpan,
        qkv: DeviceSpan,
        weights: [DeviceSpan; 2],
        eps: f32,
        n: usize,
        dims: &Dims,
    ) {
        self.copy_values(&Heads::of(&out, n, dims), &Heads::of(&qkv, n, dims), n, dims);
        let d = dims.d;
        let heads = both_heads(&out, &rstd, n, dims).into_iter().zip(both_heads(&qkv, &rstd, n, dims));
        for ((to, from), weight) in heads.zip(weights) {
            let (count, stride) = (to.heads as i64, to.stride);
            launch!(self.hzk_qk_norm_forward(
                to.base,
                to.rstd,
                from.base,
                bf16s(&weight, d),
                eps,
                n as i64,
                count,
                d as i64,
                stride,
                stride,
            ));
        }
    }

    fn qk_norm_backward(
        &self,
        dqkv: DeviceSpan,
        dweights: [DeviceSpan; 2],
        write: Write,
        qkv: DeviceSpan,
        rstd: DeviceSpan,
        weights: [DeviceSpan; 2],
        n: usize,
        dims: &Dims,
    ) {
        let d = dims.d;
        let heads = both_heads(&dqkv, &rstd, n, dims).into_iter().zip(both_heads(&qkv, &rstd, n, dims));
        for ((gradient, from), (dweight, weight)) in heads.zip(dweights.into_iter().zip(weights)) {
            if write == Write::Set {
                self.zero(dweight.part(0, d * 4));
            }
            let scratch = self.scratch(workspace::qk_norm_backward_scratch(n, gradient.heads, d));
            let (count, stride) = (gradient.heads as i64, gradient.stride);
            launch!(self.hzk_qk_norm_backward(
                gradient.base,
                f32s(&dweight, d),
                scratch,
                gradient.base,
                from.base,
                bf16s(&weight, d),
                from.rstd,
                n as i64,
                count,
                d as i64,
                stride,
                stride,
                stride,
            ));
        }
    }

    fn rope_forward(&self, qkv: DeviceSpan, rows: &Rows, inv_freq: DeviceSpan, dims: &Dims) {
        let (n, (h, g, d)) = (rows.shape.n(), head_counts(dims));
        let Heads { q, k, stride, .. } = Heads::of(&qkv, n, dims);
        let (positions, inv_freq) = (i32s(&rows.positions, n), f32s(&inv_freq, dims.d / 2));
        launch!(self.hzk_rope_forward(q, k, positions, inv_freq, n as i64, h, g, d, stride, stride));
    }

    fn rope_backward(&self, dqkv: DeviceSpan, rows: &Rows, inv_freq: DeviceSpan, dims: &Dims) {
        let (n, (h, g, d)) = (rows.shape.n(), head_counts(dims));
        let Heads { q: dq, k: dk, stride, .. } = Heads::of(&dqkv, n, dims);
        let (positions, inv_freq) = (i32s(&rows.positions, n), f32s(&inv_freq, dims.d / 2));
        launch!(self.hzk_rope_backward(dq, dk, positions, inv_freq, n as i64, h, g, d, stride, stride));
    }

    fn attention_forward(
        &self,
        out: DeviceSpan,
        lse: DeviceSpan,
        qkv: DeviceSpan,
        rows: &Rows,
        window: usize,
        dims: &Dims,
    ) {
        let (n, (h, g, d)) = (rows.shape.n(), head_counts(dims));
        let Heads { q, k, v, stride } = Heads::of(&qkv, n, dims);
        let by = &self.api.kernels;
        let launcher = match self.by_wgmma.contains(&dims.d) {
            true => (by.hzk_attention_wgmma_forward, "hzk_attention_wgmma_forward"),
            false => (by.hzk_attention_forward, "hzk_attention_forward"),
        };
        launch!(
            self,
            launcher,
            bf16s(&out, n * dims.attended()),
            f32s(&lse, n * dims.h),
            q,
            k,
            v,
            i32s(&rows.doc_start, n),
            attention_scale(dims),
            window as i64,
            n as i64,
            h,
            g,
            d,
            stride,
            stride,
            stride,
        );
    }

    fn attention_backward(
        &self,
        dqkv: DeviceSpan,
        dout: DeviceSpan,
        out: DeviceSpan,
        lse: DeviceSpan,
        qkv: DeviceSpan,
        rows: &Rows,
        window: usize,
        dims: &Dims,
    ) {
        let (n, (h, g, d)) = (rows.shape.n(), head_counts(dims));
        let Heads { q, k, v, stride } = Heads::of(&qkv, n, dims);
        let Heads { q: dq, k: dk, v: dv, .. } = Heads::of(&dqkv, n, dims);
        let scratch = self.scratch(workspace::attention_backward_scratch(n, dims.h, dims.g, dims.d));
        let by = &self.api.kernels;
        let launcher = match self.by_wgmma.contains(&dims.d) {
            true => (by.hzk_attention_wgmma_backward, "hzk_attention_wgmma_backward"),
            false => (by.hzk_attention_backward, "hzk_attention_backward"),
        };
        launch!(
            self,
            launcher,
            dq,
            dk,
            dv,
            scratch,
            bf16s(&dout, n * dims.attended()),
            bf16s(&out, n * dims.attended()),
            f32s(&lse, n * dims.h),
            q,
            k,
            v,
            i32s(&rows.doc_start, n),
            i32s(&rows.doc_end, n),
            attention_scale(dims),
            window as i64,
            n as i64,
            h,
            g,
            d,
            stride,
            stride,
            stride,
        );
    }

    fn swiglu_forward(&self, out: DeviceSpan, gate_up: DeviceSpan, n: usize, f: usize) {
        let gate = bf16s(&gate_up, n * 2 * f);
        let out = bf16s(&out, n * f);
        launch!(self.hzk_swiglu_forward(out, gate, on(gate, f), n as i64, f as i64, 2 * f as i64));
    }

    fn swiglu_backward(&self, gate_up: DeviceSpan, dout: DeviceSpan, n: usize, f: usize) {
        let gate = bf16s(&gate_up, n * 2 * f);
        let up = on(gate, f);
        let (dout, rows, columns) = (bf16s(&dout, n * f), n as i64, f as i64);
        launch!(self.hzk_swiglu_backward(gate, up, dout, gate, up, rows, columns, 2 * columns));
    }

    fn cross_entropy_forward(
        &self,
        loss: DeviceSpan,
        logits: DeviceSpan,
        rows: &LossRows,
        n: usize,
        v: usize,
        stride: usize,
    ) {
        let logprob = self.scratch(n * 4).cast::<f32>();
        let (logits, targets) = (bf16s(&logits, n * stride), i32s(&rows.targets, n));
        launch!(self.hzk_xent_forward(logprob, logits, targets, n as i64, v as i64, stride as i64));
        launch!(self.hzk_xent_loss(f64s(&loss, 1), logprob, f32s(&rows.weights, n), n as i64));
    }

    fn cross_entropy_forward_backward(
        &self,
        loss: DeviceSpan,
        logits: DeviceSpan,
        rows: &LossRows,
        n: usize,
        v: usize,
        stride: usize,
    ) {
        let logprob = self.scratch(n * 4).cast::<f32>();
        let (targets, weights) = (i32s(&rows.targets, n), f32s(&rows.weights, n));
        launch!(self.hzk_xent_forward_backward(
            bf16s(&logits, n * stride),
            logprob,
            targets,
            weights,
            rows.scale,
            n as i64,
            v as i64,
            stride as i64,
        ));
        launch!(self.hzk_xent_loss(f64s(&loss, 1), logprob, weights, n as i64));
    }

    fn cross_entropy_logprobs(
        &self,
        logprobs: DeviceSpan,
        logits: DeviceSpan,
        targets: DeviceSpan,
        n: usize,
        v: usize,
        stride: usize,
    ) {
        let (logits, targets) = (bf16s(&logits, n * stride), i32s(&targets, n));
        launch!(self.hzk_xent_forward(
            f32s(&logprobs, n),
            logits,
            targets,
            n as i64,
            v as i64,
            stride as i64
        ));
    }

    fn cross_entropy_backward(
        &self,
        logits: DeviceSpan,
        targets: DeviceSpan,
        dlogprobs: DeviceSpan,
        n: usize,
        v: usize,
        stride: usize,
    ) {
        let (targets, dlogprobs) = (i32s(&targets, n), f32s(&dlogprobs, n));
        let logits = bf16s(&logits, n * stride);
        launch!(self.hzk_xent_backward(logits, targets, dlogprobs, n as i64, v as i64, stride as i64));
    }

    fn zero(&self, out: DeviceSpan) {
        // SAFETY: the span's own bytes, which the caller may write (the law of `ops`).
        self.keep(unsafe { fill(base(&out, out.bytes()), 0, out.bytes(), &self.stream) });
    }

    fn sum_of_squares(&self, out: DeviceSpan, x: DeviceSpan) {
        let elements = x.bytes() / 4;
        let out = f64s(&out, elements.div_ceil(NORM_BLOCK));
        launch!(self.hzk_gradient_squares(out, f32s(&x, elements), elements as i64));
    }

    fn round(&self, out: DeviceSpan, squares: Option<DeviceSpan>, x: DeviceSpan, to: DType) {
        let elements = x.bytes() / 4;
        let blocks = elements.div_ceil(NORM_BLOCK);
        let squares = squares.map_or(std::ptr::null_mut(), |squares| f64s(&squares, blocks));
        let (x, n) = (f32s(&x, elements), elements as i64);
        match to {
            DType::Bf16 => launch!(self.hzk_gradient_store(bf16s(&out, elements), squares, x, n)),
            DType::F32 => launch!(self.hzk_gradient_copy(f32s(&out, elements), squares, x, n)),
        }
    }

    fn widen(&self, out: DeviceSpan, x: DeviceSpan) {
        let elements = x.bytes() / 2;
        launch!(self.hzk_widen(f32s(&out, elements), bf16s(&x, elements), elements as i64));
    }
}
