//! The f32 masters in slices, processed by many threads: used to read, write and export weights.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::base::{Error, Result};
use crate::engine::store::Store;
use crate::host::Pool;
use crate::model::{FRESH_BLOCK, TensorLayout};
use crate::optim;

/// Maximum elements of a slice. Every slice begins at a multiple of it.
const SLICE: usize = 1 << 20;
const _: () = assert!(SLICE.is_multiple_of(FRESH_BLOCK), "fresh weights are written slice by slice");

/// A range of one tensor's f32 masters, exclusively borrowed by one thread.
pub struct TensorSlice<'a> {
    /// The tensor's index in layout order.
    pub index: usize,
    /// The tensor.
    pub tensor: &'a TensorLayout,
    /// The elements of the tensor in this slice.
    pub elements: Range<usize>,
    pub(super) weights: &'a mut [u16],
    pub(super) residual: &'a mut [i16],
}

impl TensorSlice<'_> {
    /// Reads masters from element `at` of the slice.
    ///
    /// # Panics
    /// This and the other methods: if the slice is too short.
    pub fn read(&self, at: usize, out: &mut [f32]) {
        let all = at..at + out.len();
        optim::read_master(&self.weights[all.clone()], &self.residual[all], out);
    }

    /// Reads masters rounded to bf16, i.e. the uploaded weights.
    pub fn read_bf16(&self, at: usize, out: &mut [u16]) {
        out.copy_from_slice(&self.weights[at..at + out.len()]);
    }

    /// Writes masters from element `at` of the slice. Moments are unchanged.
    pub fn write(&mut self, at: usize, values: &[f32]) {
        let all = at..at + values.len();
        optim::write_master(&mut self.weights[all.clone()], &mut self.residual[all], values);
    }

    /// Writes bf16 values as masters.
    pub fn write_bf16(&mut self, at: usize, values: &[u16]) {
        let all = at..at + values.len();
        self.weights[all.clone()].copy_from_slice(values);
        self.residual[all].fill(0);
    }
}

/// Processes a slice. Called on any thread of the pool.
pub type SliceJob<'a> = dyn Fn(&mut TensorSlice) -> Result<()> + Sync + 'a;

/// Calls `job` for every slice of the tensors in `order` (indices in layout order), on the threads
/// of a pool, earlier tensors first. After an error no further slice is begun; returns the error of
/// the earliest slice.
pub fn each_slice(store: &Store, pool: &Pool, order: &[usize], job: &SliceJob) -> Result<()> {
    let tensors: Vec<_> = store.layout().tensors().collect();
    let distinct: HashSet<usize> = order.iter().copied().collect();
    assert_eq!(distinct.len(), order.len(), "a tensor is named twice: its slices would be lent twice");
    let mut slices = Vec::new();
    for &index in order {
        let elements = tensors[index].1.elements();
        slices.extend((0..elements).step_by(SLICE).map(|from| (index, from..elements.min(from + SLICE))));
    }
    each(pool, slices.len(), &|number| {
        let (index, elements) = slices[number].clone();
        job(&mut store.slice(index, tensors[index], elements))
    })
}

/// Calls `job` for every number below `count`, on the threads of a pool, lower numbers first. After
/// an error no further call is begun; returns the error of the lowest number.
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
