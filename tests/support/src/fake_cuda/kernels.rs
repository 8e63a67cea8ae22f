//! The CPU's kernels, queued on a stream of the fake CUDA.

use std::sync::Arc;

use horizon::base::{DType, Dims, Error, Result};
use horizon::device::cuda::CudaDevice;
use horizon::device::{DeviceSpan, Lane};
use horizon::engine::{Backend, KernelsSetting};
use horizon::ops::cpu::CpuKernels;
use horizon::ops::{Addends, Kernels, Linear, LossRows, Rows, TokenRows, Write};
use parking_lot::Mutex;

use super::launch;

/// [`CpuKernels`] that run when the compute stream comes to them.
pub struct StreamKernels {
    cpu: Arc<CpuKernels>,
    device: Arc<CudaDevice>,
    failed: Mutex<Option<Error>>,
}

impl StreamKernels {
    fn enqueue(&self, name: &'static str, kernel: impl FnOnce(&CpuKernels) + Send + 'static) {
        let cpu = self.cpu.clone();
        if let Err(error) = launch(self.device.stream(Lane::Compute), name, move || kernel(&cpu)) {
            self.failed.lock().get_or_insert(error);
        }
    }
}

/// A fake device, with the CPU's kernels.
pub fn backend(device: Arc<CudaDevice>) -> Backend {
    let user = device.clone();
    let kernels = move |setting: KernelsSetting| -> Result<Box<dyn Kernels>> {
        let cpu = Arc::new(CpuKernels::new(setting.pool.clone()));
        Ok(Box::new(StreamKernels { cpu, device: user, failed: Mutex::default() }))
    };
    Backend { device, storage: CpuKernels::STORAGE, kernels: Box::new(kernels) }
}

/// Queues a call with these arguments; what is named in brackets comes as a reference and is copied.
macro_rules! queue {
    ($self:ident.$name:ident [$($copied:ident),*] ($($argument:expr),*)) => {{
        $(let $copied = *$copied;)*
        $self.enqueue(stringify!($name), move |cpu| cpu.$name($($argument),*))
    }};
}

impl Kernels for StreamKernels {
    fn storage(&self) -> DType {
        CpuKernels::STORAGE
    }

    fn arithmetic(&self) -> String {
        self.cpu.arithmetic()
    }

    fn warms_up(&self) -> bool {
        true
    }

    fn outcome(&self) -> Result<()> {
        self.failed.lock().take().map_or(Ok(()), Err)
    }

    fn settle(&self) -> Result<()> {
        self.outcome().and_then(|()| self.device.stream(Lane::Compute).synchronize())
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
        queue!(self.embed_forward [] (out, table, tokens, n, c, v))
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
        queue!(self.embed_backward[tokens](dtable, dout, &tokens, n, c, v))
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
        queue!(self.rmsnorm_forward [] (out, rstd, x, weight, eps, n, c))
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
        queue!(self.rmsnorm_backward [] (dx, dx_write, dweight, dweight_write, dout, x, rstd, weight, n, c))
    }

    fn matmul_forward(
        &self,
        out: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        addends: Addends,
        sizes: Linear,
    ) {
        queue!(self.matmul_forward [] (out, x, weight, addends, sizes))
    }

    fn matmul_backward_input(
        &self,
        dx: DeviceSpan,
        write: Write,
        dout: DeviceSpan,
        weight: DeviceSpan,
        sizes: Linear,
    ) {
        queue!(self.matmul_backward_input [] (dx, write, dout, weight, sizes))
    }

    fn matmul_backward_weight(
        &self,
        dweight: DeviceSpan,
        write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        sizes: Linear,
    ) {
        queue!(self.matmul_backward_weight [] (dweight, write, dout, x, sizes))
    }

    fn bias_backward(&self, dbias: DeviceSpan, write: Write, dout: DeviceSpan, n: usize, c: usize) {
        queue!(self.bias_backward [] (dbias, write, dout, n, c))
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
        queue!(self.qk_norm_forward[dims](out, rstd, qkv, weights, eps, n, &dims))
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
        queue!(self.qk_norm_backward[dims](dqkv, dweights, write, qkv, rstd, weights, n, &dims))
    }

    fn rope_forward(&self, qkv: DeviceSpan, rows: &Rows, inv_freq: DeviceSpan, dims: &Dims) {
        queue!(self.rope_forward [rows, dims] (qkv, &rows, inv_freq, &dims))
    }

    fn rope_backward(&self, dqkv: DeviceSpan, rows: &Rows, inv_freq: DeviceSpan, dims: &Dims) {
        queue!(self.rope_backward [rows, dims] (dqkv, &rows, inv_freq, &dims))
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
        queue!(self.attention_forward [rows, dims] (out, lse, qkv, &rows, window, &dims))
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
        queue!(self.attention_backward [rows, dims] (dqkv, dout, out, lse, qkv, &rows, window, &dims))
    }

    fn swiglu_forward(&self, out: DeviceSpan, gate_up: DeviceSpan, n: usize, f: usize) {
        queue!(self.swiglu_forward [] (out, gate_up, n, f))
    }

    fn swiglu_backward(&self, gate_up: DeviceSpan, dout: DeviceSpan, n: usize, f: usize) {
        queue!(self.swiglu_backward [] (gate_up, dout, n, f))
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
        queue!(self.cross_entropy_forward[rows](loss, logits, &rows, n, v, stride))
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
        queue!(self.cross_entropy_forward_backward[rows](loss, logits, &rows, n, v, stride))
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
        queue!(self.cross_entropy_logprobs [] (logprobs, logits, targets, n, v, stride))
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
        queue!(self.cross_entropy_backward [] (logits, targets, dlogprobs, n, v, stride))
    }

    fn zero(&self, out: DeviceSpan) {
        queue!(self.zero [] (out))
    }

    fn sum_of_squares(&self, out: DeviceSpan, x: DeviceSpan) {
        queue!(self.sum_of_squares [] (out, x))
    }

    fn round(&self, out: DeviceSpan, squares: Option<DeviceSpan>, x: DeviceSpan, to: DType) {
        queue!(self.round [] (out, squares, x, to))
    }

    fn widen(&self, out: DeviceSpan, x: DeviceSpan) {
        queue!(self.widen [] (out, x))
    }
}
