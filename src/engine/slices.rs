//! The model's masters in pieces, by many threads: how checkpoints come in and go out.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::base::{Error, Result};
use crate::engine::store::Store;
use crate::host::Pool;
use crate::model::{FRESH_BLOCK, TensorLayout};
use crate::optim;

/// Elements of a piece, at most; every piece begins at a multiple of it.
const PIECE: usize = 1 << 20;
const _: () = assert!(PIECE.is_multiple_of(FRESH_BLOCK), "fresh weights are written slice by slice");

/// A run of one tensor's f32 masters, lent to one thread. Nobody else reads or writes it meanwhile.
pub struct TensorSlice<'a> {
    /// The tensor's place in the layout's order.
    pub index: usize,
    /// The tensor.
    pub tensor: &'a TensorLayout,
    /// The elements of the tensor that the piece covers.
    pub elements: Range<usize>,
    pub(super) weights: &'a mut [u16],
    pub(super) residual: &'a mut [i16],
}

impl TensorSlice<'_> {
    /// Reads masters from element `at` of the piece.
    ///
    /// # Panics
    /// If the piece is shorter, as in all of these.
    pub fn read(&self, at: usize, out: &mut [f32]) {
        let all = at..at + out.len();
        optim::read_master(&self.weights[all.clone()], &self.residual[all], out);
    }

    /// Reads masters rounded to bf16, which is what is streamed.
    pub fn read_bf16(&self, at: usize, out: &mut [u16]) {
        out.copy_from_slice(&self.weights[at..at + out.len()]);
    }

    /// Writes masters from element `at` of the piece; moments stay.
    pub fn write(&mut self, at: usize, values: &[f32]) {
        let all = at..at + values.len();
        optim::write_master(&mut self.weights[all.clone()], &mut self.residual[all], values);
    }

    /// Writes masters that are bf16.
    pub fn write_bf16(&mut self, at: usize, values: &[u16]) {
        let all = at..at + values.len();
        self.weights[all.clone()].copy_from_slice(values);
        self.residual[all].fill(0);
    }
}

/// What is done with a piece, by any thread.
pub type SliceJob<'a> = dyn Fn(&mut TensorSlice) -> Result<()> + Sync + 'a;

/// Calls `job` for every piece of the tensors `order` names, by the threads of a pool, first tensors first. After an
/// error no further piece is begun; the error of the earliest piece is given.
pub fn each_slice(store: &Store, pool: &Pool, order: &[usize], job: &SliceJob) -> Result<()> {
    let tensors: Vec<_> = store.layout().tensors().collect();
    let distinct: HashSet<usize> = order.iter().copied().collect();
    assert_eq!(distinct.len(), order.len(), "a tensor is named twice: its slices would be lent twice");
    let mut slices = Vec::new();
    for &index in order {
        let elements = tensors[index].1.elements();
        slices.extend((0..elements).step_by(PIECE).map(|from| (index, from..elements.min(from + PIECE))));
    }
    each(pool, slices.len(), &|number| {
        let (index, elements) = slices[number].clone();
        job(&mut store.slice(index, tensors[index], elements))
    })
}

/// Calls `job` for every number below `count`, by the threads of a pool, low numbers first. After an error no further
/// one is begun; the error of the lowest number is given.
pub fn each(pool: &Pool, count: usize, job: &(dyn Fn(usize) -> Result<()> + Sync)) -> Result<()> {
    let failed = AtomicUsize::new(usize::MAX);
    let first: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    pool.run(count, &|_, number| {
        if failed.load(Ordering::Relaxed) < number {
            return;
        }
        if let Err(error) = job(number) {
            failed.fetch_min(number, Ordering::Relaxed);
            let mut first = first.lock();
            if first.as_ref().is_none_or(|(other, _)| number < *other) {
                *first = Some((number, error));
            }
        }
    });
    first.into_inner().map_or(Ok(()), |(_, error)| Err(error))
}
