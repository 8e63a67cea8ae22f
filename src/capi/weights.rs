//! The weights of an `hz_trainer_t`: enumerating, starting, loading, exporting, reading, writing.

use std::ffi::c_char;

use crate::base::{Error, Result, Status};
use crate::capi::argument::{array, array_out, handle, path, place, text};
use crate::capi::config::{SHAPE_MAX, dtype, hz_tensor_t};
use crate::capi::sized::{Output, SizedStruct};
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{State, hz_trainer_t, with};
use crate::capi::wall::wall;
use crate::model::{Layout, fresh_tensor};
use crate::train::hf::{self, ExportTarget, FolderConfig, Weights};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_tensor_count(
    trainer: *const hz_trainer_t,
    out_count: *mut usize,
) -> hz_status_t {
    wall(|| {
        // SAFETY: a trainer that is not closed, as the header asks; the field read never changes.
        let trainer = unsafe { handle(trainer, "trainer") }?;
        let out = place(out_count, "out_count")?;
        // SAFETY: `place` has looked at the pointer, and the header gives it to this call alone.
        unsafe { out.write(trainer.tensors.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_tensor(
    trainer: *const hz_trainer_t,
    index: usize,
    out_tensor: *mut hz_tensor_t,
) -> hz_status_t {
    wall(|| {
        // SAFETY: a trainer that is not closed, as the header asks; the field read never changes.
        let trainer = unsafe { handle(trainer, "trainer") }?;
        // SAFETY: the header asks for a struct initialised with its macro, the caller's alone during the call.
        let out = unsafe { Output::new(out_tensor, "out_tensor") }?;
        let tensors = &trainer.tensors;
        let (name, shape) = tensors.get(index).ok_or_else(|| {
            Error::argument(format!("index is {index}; the model has {} tensors, counted from 0", tensors.len()))
        })?;
        let mut sizes = [0; SHAPE_MAX];
        for (to, &from) in sizes.iter_mut().zip(shape) {
            *to = from as u64;
        }
        out.write(hz_tensor_t {
            rank: shape.len() as u32,
            name: name.as_ptr(),
            shape: sizes,
            elements: shape.iter().product::<usize>() as u64,
            ..hz_tensor_t::defaults()
        });
        Ok(())
    })
}

/// Writes every tensor of a model, filled by `fill`.
fn write_all(state: &mut State, mut fill: impl FnMut(&Layout, &str, &mut [f32])) -> Result<()> {
    let layout = state.trainer.layout().clone();
    let mut values = Vec::new();
    for (_, tensor) in layout.tensors() {
        values.resize(tensor.elements(), 0.0);
        fill(&layout, &tensor.name, &mut values);
        state.trainer.write_tensor(&tensor.name, &values)?;
    }
    Ok(())
}
