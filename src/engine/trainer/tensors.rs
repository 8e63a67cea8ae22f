//! Tensors by name: read and written between steps, each waiting for its own unit alone.

use std::collections::BTreeSet;

use super::Trainer;
use crate::base::{ChunkIndex, Result, UnitIndex};
use crate::engine::TensorOptions;
use crate::engine::slices::{SliceJob, each_slice};
use crate::model::{TensorLayout, fresh_values};
use crate::schedule::{Access, Content, Resource};

impl Trainer {
    /// Reads a tensor's f32 master by its Hugging Face name, `[out, in]` row-major. Waits for AdamW of its unit
    /// and for no other.
    pub fn read_tensor(&mut self, name: &str, out: &mut [f32]) -> Result<()> {
        let (unit, tensor) = self.find(name, out.len())?;
        self.outside(&[Access::read(Resource::Master { unit }, Content::Weights(unit))])?;
        self.runner.store.read_tensor(unit, &tensor, out);
        Ok(())
    }

    /// Writes a tensor's f32 master; moments stay as they are. Waits for whatever reads or writes its unit (its
    /// upload, its AdamW, its save) and for nothing of another.
    pub fn write_tensor(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let (unit, tensor) = self.find(name, values.len())?;
        self.outside(&[Access::write(Resource::Master { unit }, Content::Weights(unit))])?;
        self.runner.store.write_tensor(unit, &tensor, values);
        Ok(())
    }

    /// Writes fresh weights into every tensor by the trainer's threads, whose number changes no bit; see
    /// [`fresh_values`]. Moments and step number stay as they are. Waits as [`Trainer::write_tensor`].
    pub fn write_fresh(&mut self, seed: u64) -> Result<()> {
        let runner = self.runner.clone();
        let every: Vec<usize> = (0..runner.store.layout().tensors().count()).collect();
        self.each_slice(&every, &|slice| {
            let mut values = vec![0.0; slice.elements.len()];
            fresh_values(&runner.config, slice.tensor, seed, slice.elements.start, &mut values);
            slice.write(0, &values);
            Ok(())
        })
    }

    /// Calls `job` for every piece of the tensors that `order` names by their places in the layout's order, each at
    /// most once, by the trainer's threads; first tensors first. Waits, before the first, as [`Trainer::write_tensor`]
    /// does for each of them. After an error no further piece is begun, and the error of the earliest piece is given.
    ///
    /// # Panics
    /// If a tensor is named twice, or there is no such tensor.
    #[doc(hidden)]
    pub fn each_slice(&mut self, order: &[usize], job: &SliceJob) -> Result<()> {
        self.usable()?;
        let runner = self.runner.clone();
        let units: Vec<UnitIndex> = runner.store.layout().tensors().map(|(unit, _)| unit).collect();
        let named: BTreeSet<UnitIndex> = order.iter().map(|&index| units[index]).collect();
        for unit in named {
            self.outside(&[Access::write(Resource::Master { unit }, Content::Weights(unit))])?;
        }
        each_slice(&runner.store, &runner.pool, order, job)
    }

    /// Reads the gradient a tensor had in the last step, before clipping; zeros before the first. Waits until its
    /// unit's gradient has landed.
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

    /// Sets what is particular to AdamW of a tensor, from the next step on. Checkpoints do not keep it: whoever
    /// resumes sets it again. Waits for AdamW of the tensor's unit.
    ///
    /// Errors: no such tensor (`NotFound`); a value that is no number to step with (`InvalidArgument`).
    pub fn set_tensor_options(&mut self, name: &str, options: &TensorOptions) -> Result<()> {
        options.check()?;
        let (unit, tensor) = self.number(name)?;
        self.outside(&[Access::read(Resource::Master { unit }, Content::Weights(unit))])?;
        self.runner.tuning.set(unit, tensor, options);
        Ok(())
    }

    /// What is particular to AdamW of a tensor. Waits for nothing.
    ///
    /// Errors: no such tensor (`NotFound`).
    pub fn tensor_options(&self, name: &str) -> Result<TensorOptions> {
        let (unit, tensor) = self.number(name)?;
        Ok(self.runner.tuning.get(unit, tensor))
    }

    /// A tensor's unit, and its number there.
    fn number(&self, name: &str) -> Result<(UnitIndex, usize)> {
        self.usable()?;
        let store = &self.runner.store;
        let (unit, found) = store.named(name)?;
        let mut tensors = store.layout().unit(unit).tensors.iter();
        Ok((unit, tensors.position(|tensor| tensor == found).expect("a unit has its tensors")))
    }

    fn find(&self, name: &str, len: usize) -> Result<(UnitIndex, TensorLayout)> {
        self.usable()?;
        let (unit, tensor) = self.runner.store.find(name, len)?;
        Ok((unit, tensor.clone()))
    }
}
