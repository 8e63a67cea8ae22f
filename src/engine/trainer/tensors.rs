//! Tensors by name: reads and writes between steps. Each waits for its own unit only.

use std::collections::BTreeSet;

use super::Trainer;
use crate::base::{ChunkIndex, Error, Result, UnitIndex, filled, find_non_finite};
use crate::engine::TensorOptions;
use crate::engine::slices::{SliceJob, TensorSlice, each_slice};
use crate::model::{TensorLayout, fresh_values};
use crate::schedule::{Access, Content, Resource};

impl Trainer {
    /// Reads a tensor's f32 master weights by its name in the layout, `[out, in]` row-major.
    /// Waits for AdamW of its unit only.
    ///
    /// Errors: no such tensor (`NotFound`); `out` has another length (`InvalidArgument`).
    pub fn read_tensor(&mut self, name: &str, out: &mut [f32]) -> Result<()> {
        self.readable()?;
        let (unit, tensor) = self.find(name, out.len())?;
        self.outside(&[Access::read(Resource::Master { unit }, Content::Weights(unit))])?;
        self.runner.store.read_tensor(unit, &tensor, out);
        Ok(())
    }

    /// Writes a tensor's f32 master weights. Moments are unchanged. Waits for operations that use
    /// its unit (upload, AdamW, save) only.
    ///
    /// Errors: no such tensor (`NotFound`); `values` has another length, or a value that is not
    /// finite (`InvalidArgument`; nothing is written).
    pub fn write_tensor(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.usable()?;
        let (unit, tensor) = self.find(name, values.len())?;
        if let Some((at, value)) = find_non_finite(values, |value| value) {
            return Err(Error::argument(format!(
                "element {at} of {name} is {value}; weights must be finite"
            )));
        }
        self.outside(&[Access::write(Resource::Master { unit }, Content::Weights(unit))])?;
        self.runner.store.write_tensor(unit, &tensor, values);
        Ok(())
    }

    /// Initializes every tensor at random from a seed, on the trainer's threads; their number
    /// changes no bit. Moments and step number are unchanged. Waits like [`Trainer::write_tensor`]
    /// for every unit.
    pub fn write_fresh(&mut self, seed: u64) -> Result<()> {
        let runner = self.runner.clone();
        let every: Vec<usize> = (0..runner.store.layout().tensors().count()).collect();
        self.each_slice(&every, &|slice| {
            let mut values = filled(0.0, slice.elements.len())?;
            fresh_values(&runner.config, slice.tensor, seed, slice.elements.start, &mut values);
            slice.write(0, &values);
            Ok(())
        })
    }

    /// Calls `job` for every slice of the tensors in `order` (indices in layout order), on the
    /// trainer's threads, earlier tensors first. Before the first call, waits like
    /// [`Trainer::write_tensor`] for each tensor. After an error no further slice is begun; returns
    /// the error of the earliest slice.
    ///
    /// # Panics
    /// If an index occurs twice or is out of range.
    #[doc(hidden)]
    pub fn each_slice(&mut self, order: &[usize], job: &SliceJob) -> Result<()> {
        self.usable()?;
        self.each_slice_of(order, job)
    }

    /// Like [`Trainer::each_slice`], for a job that only reads.
    #[doc(hidden)]
    pub fn read_each_slice(
        &mut self,
        order: &[usize],
        job: &(dyn Fn(&TensorSlice) -> Result<()> + Sync),
    ) -> Result<()> {
        self.readable()?;
        self.each_slice_of(order, &|slice| job(slice))
    }

    fn each_slice_of(&mut self, order: &[usize], job: &SliceJob) -> Result<()> {
        let runner = self.runner.clone();
        let units: Vec<UnitIndex> = runner.store.layout().tensors().map(|(unit, _)| unit).collect();
        let named: BTreeSet<UnitIndex> = order.iter().map(|&index| units[index]).collect();
        for unit in named {
            self.outside(&[Access::write(Resource::Master { unit }, Content::Weights(unit))])?;
        }
        each_slice(&runner.store, &runner.pool, order, job)
    }

    /// Reads a tensor's gradient of the last step, before clipping; zeros before the first step.
    /// Waits until it is downloaded.
    ///
    /// Errors: no such tensor (`NotFound`); `out` has another length (`InvalidArgument`); the mode
    /// does not store gradients (`Unsupported`).
    pub fn read_gradient(&mut self, name: &str, out: &mut [f32]) -> Result<()> {
        self.usable()?;
        self.runner.store.stores_gradients()?;
        let (unit, tensor) = self.find(name, out.len())?;
        let chunks = (0..self.runner.plan.geometry.chunks(unit)).map(ChunkIndex::from);
        let looks: Vec<Access> =
            chunks.map(|chunk| Access::look(Resource::HostGradient { unit, chunk })).collect();
        self.outside(&looks)?;
        self.runner.store.read_gradient(unit, &tensor, out);
        Ok(())
    }

    /// Sets AdamW options of a tensor, from the next step on. They are not stored in checkpoints
    /// and must be set again after a restore in a new trainer. Waits for AdamW of the tensor's
    /// unit.
    ///
    /// Errors: no such tensor (`NotFound`); a value that is negative or not finite
    /// (`InvalidArgument`).
    pub fn set_tensor_options(&mut self, name: &str, options: &TensorOptions) -> Result<()> {
        options.check()?;
        let (unit, tensor) = self.number(name)?;
        self.outside(&[Access::read(Resource::Master { unit }, Content::Weights(unit))])?;
        self.runner.tuning.set(unit, tensor, options);
        Ok(())
    }

    /// The AdamW options of a tensor. Does not block.
    ///
    /// Errors: no such tensor (`NotFound`).
    pub fn tensor_options(&self, name: &str) -> Result<TensorOptions> {
        let (unit, tensor) = self.number(name)?;
        Ok(self.runner.tuning.get(unit, tensor))
    }

    /// A tensor's unit and its index in the unit.
    fn number(&self, name: &str) -> Result<(UnitIndex, usize)> {
        self.usable()?;
        let store = &self.runner.store;
        let (unit, found) = store.named(name)?;
        let mut tensors = store.layout().unit(unit).tensors.iter();
        Ok((unit, tensors.position(|tensor| tensor == found).expect("a unit has its tensors")))
    }

    fn find(&self, name: &str, len: usize) -> Result<(UnitIndex, TensorLayout)> {
        let (unit, tensor) = self.runner.store.find(name, len)?;
        Ok((unit, tensor.clone()))
    }
}
