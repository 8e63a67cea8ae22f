//! The weights of an `hz_trainer_t`: enumerating, starting, loading, exporting, reading, writing.

use std::ffi::c_char;

use crate::base::Error;
use crate::capi::argument::{array, array_out, handle, path, place, text};
use crate::capi::config::{SHAPE_MAX, dtype, hz_tensor_t};
use crate::capi::sized::{Output, SizedStruct};
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{State, hz_trainer_t, with};
use crate::capi::wall::wall;
use crate::model::{Layout, fresh_tensor};
use crate::train::hf::{ExportTarget, FolderConfig, Weights, export, export_bytes};

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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_init(trainer: *mut hz_trainer_t, seed: u64) -> hz_status_t {
    let body = |handle: &hz_trainer_t, state: &mut State| {
        let mut values = Vec::new();
        for (_, tensor) in Layout::new(&handle.model).tensors() {
            values.resize(tensor.elements(), 0.0);
            fresh_tensor(&handle.model, tensor, seed, &mut values);
            state.trainer.write_tensor(&tensor.name, &values)?;
        }
        Ok(())
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_load_hf(
    trainer: *mut hz_trainer_t,
    folder: *const c_char,
) -> hz_status_t {
    let body = |handle: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a NUL-terminated string that stays as it is during the call.
        let folder = unsafe { path(folder, "folder") }?;
        let config = FolderConfig::open(folder)?;
        if config.model != handle.model {
            return Err(Error::argument(format!(
                "{} holds another model ({:?}) than the trainer was opened with ({:?}): open it with what \
                 hz_model_config_from_hf gives",
                folder.display(),
                config.model,
                handle.model
            )));
        }
        let weights = Weights::open(folder, state.trainer.layout())?;
        weights.load(|name, values| state.trainer.write_tensor(name, values))?;
        state.folder = config;
        Ok(())
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_export_hf(
    trainer: *mut hz_trainer_t,
    folder: *const c_char,
    dtype_number: u32,
) -> hz_status_t {
    let body = |handle: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a NUL-terminated string that stays as it is during the call.
        let folder = unsafe { path(folder, "folder") }?;
        let dtype = dtype(dtype_number, "dtype")?;
        let layout = Layout::new(&handle.model);
        let target = ExportTarget::check(folder, export_bytes(&layout, dtype))?;
        let State { trainer, folder: config } = state;
        export(&target, config, &layout, dtype, |name, out| trainer.read_tensor(name, out))
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_read_tensor(
    trainer: *mut hz_trainer_t,
    name: *const c_char,
    values: *mut f32,
    count: usize,
) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a NUL-terminated string that stays as it is during the call.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: the header asks for `count` floats, the caller's alone during the call.
        let values = unsafe { array_out(values, count, "values") }?;
        state.trainer.read_tensor(name, values)
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_write_tensor(
    trainer: *mut hz_trainer_t,
    name: *const c_char,
    values: *const f32,
    count: usize,
) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a NUL-terminated string that stays as it is during the call.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: the header asks for `count` floats, left alone during the call.
        let values = unsafe { array(values, count, "values") }?;
        state.trainer.write_tensor(name, values)
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hz_trainer_read_gradient(
    trainer: *mut hz_trainer_t,
    name: *const c_char,
    values: *mut f32,
    count: usize,
) -> hz_status_t {
    let body = |_: &hz_trainer_t, state: &mut State| {
        // SAFETY: the header asks for a NUL-terminated string that stays as it is during the call.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: the header asks for `count` floats, the caller's alone during the call.
        let values = unsafe { array_out(values, count, "values") }?;
        state.trainer.read_gradient(name, values)
    };
    // SAFETY: an open trainer or NULL, as the header asks.
    unsafe { with(trainer, body) }
}
