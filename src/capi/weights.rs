//! The weights of an `hz_trainer_t`: listing, initializing, loading, exporting, reading, writing.

use crate::base::Error;
use crate::capi::argument::{Array, ArrayOut, LentText, OutPointer, Text};
use crate::capi::config::{SHAPE_MAX, dtype, hz_tensor_t};
use crate::capi::guard::guard;
use crate::capi::handle::Handle;
use crate::capi::progress::Work;
use crate::capi::sized::{Out, SizedStruct};
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{State, hz_trainer_t, with};
use crate::checkpoint::same_model_as;
use crate::hf::{ExportTarget, FolderConfig, SHARD_BYTES, Weights, export, export_bytes};

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_tensor_count(
    trainer: Handle<hz_trainer_t>,
    out_count: OutPointer<usize>,
) -> hz_status_t {
    guard(|| {
        let count = trainer.get("trainer")?.tensors.len();
        out_count.check("out_count")?;
        out_count.write(count);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_tensor(
    trainer: Handle<hz_trainer_t>,
    index: usize,
    out_tensor: Out<hz_tensor_t>,
) -> hz_status_t {
    guard(|| {
        let tensors = &trainer.get("trainer")?.tensors;
        let out = out_tensor.check("out_tensor")?;
        let (name, shape) = tensors.get(index).ok_or_else(|| {
            Error::argument(format!(
                "index is {index}; it must be less than the model's {} tensors",
                tensors.len()
            ))
        })?;
        let mut sizes = [0; SHAPE_MAX];
        for (to, &from) in sizes.iter_mut().zip(shape) {
            *to = from as u64;
        }
        out.write(hz_tensor_t {
            rank: shape.len() as u32,
            name: LentText::new(name),
            shape: sizes,
            elements: shape.iter().product::<usize>() as u64,
            ..hz_tensor_t::defaults()
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_init(trainer: Handle<hz_trainer_t>, seed: u64) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.write_fresh(seed))
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_load_hf(trainer: Handle<hz_trainer_t>, folder: Text) -> hz_status_t {
    with(&trainer, |handle, state| {
        let folder = folder.path("folder")?;
        let config = FolderConfig::open(folder)?;
        same_model_as(&handle.model, &config.model, folder.display()).map_err(|error| {
            error.map(|message| {
                format!("{message}; open the trainer with the result of hz_model_config_from_hf")
            })
        })?;
        let weights = Weights::open(folder, state.trainer.layout())?;
        weights.load(&mut state.trainer, &state.watcher.of(Work::Load))?;
        state.folder = config;
        state.saves = None;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_export_hf(
    trainer: Handle<hz_trainer_t>,
    folder: Text,
    dtype_number: u32,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let folder = folder.path("folder")?;
        let dtype = dtype(dtype_number, "dtype")?;
        let State { trainer, folder: config, watcher, .. } = state;
        let target = ExportTarget::check(folder, export_bytes(trainer.layout(), dtype))?;
        export(&target, config, trainer, dtype, SHARD_BYTES, &watcher.of(Work::Export))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_read_tensor(
    trainer: Handle<hz_trainer_t>,
    name: Text,
    mut values: ArrayOut,
    count: usize,
) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.read_tensor(name.get("name")?, values.get(count, "values")?))
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_write_tensor(
    trainer: Handle<hz_trainer_t>,
    name: Text,
    values: Array<f32>,
    count: usize,
) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.write_tensor(name.get("name")?, values.get(count, "values")?))
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_read_gradient(
    trainer: Handle<hz_trainer_t>,
    name: Text,
    mut values: ArrayOut,
    count: usize,
) -> hz_status_t {
    with(&trainer, |_, state| state.trainer.read_gradient(name.get("name")?, values.get(count, "values")?))
}
