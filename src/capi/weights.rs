//! The tensors of an `hz_trainer_t`: listing, initializing, loading, exporting, reading, writing, and
//! their AdamW settings.

use crate::base::{Error, Result};
use crate::capi::argument::{Array, ArrayOut, LentText, OutPointer, Text};
use crate::capi::guard::guard;
use crate::capi::handle::Handle;
use crate::capi::log;
use crate::capi::options::DTYPES;
use crate::capi::progress::Work;
use crate::capi::sized::{In, Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{State, hz_trainer_t, with, with_failed};
use crate::capi::values::{Values, flag};
use crate::checkpoint::same_model_as;
use crate::engine::TensorOptions;
use crate::hf::{ExportTarget, FolderConfig, SHARD_BYTES, Weights, export, export_bytes};

sized_struct! {
    hz_tensor_info_t, hz_tensor_info_init {
        rank: u32 = 0,
        name: LentText = LentText::NULL,
        shape: [u64; SHAPE_MAX] = [0; SHAPE_MAX],
        elements: u64 = 0,
    }
}

sized_struct! {
    hz_tensor_options_t, hz_tensor_options_init {
        frozen: u32 = 0 => Values::FLAG,
        lr_scale: f64 = 1.0 => Values::f32_at_least(0.0),
        weight_decay: f64 = DECAY_DEFAULT => Values::f32_at_least(0.0).or(DECAY_DEFAULT),
    }
}

/// Length of `shape`.
const SHAPE_MAX: usize = 4;

/// `weight_decay` of a tensor without a setting of its own.
const DECAY_DEFAULT: f64 = -1.0;

/// The settings of a tensor.
pub(super) fn tensor_options(raw: &hz_tensor_options_t) -> Result<TensorOptions> {
    Ok(TensorOptions {
        lr_scale: raw.lr_scale,
        weight_decay: (raw.weight_decay != DECAY_DEFAULT).then_some(raw.weight_decay),
        frozen: flag(raw.frozen, "frozen")?,
    })
}

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
    out_tensor: Out<hz_tensor_info_t>,
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
        out.write(hz_tensor_info_t {
            rank: shape.len() as u32,
            name: LentText::new(name),
            shape: sizes,
            elements: shape.iter().product::<usize>() as u64,
            ..hz_tensor_info_t::defaults()
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_init_weights(trainer: Handle<hz_trainer_t>, seed: u64) -> hz_status_t {
    with(&trainer, |_, state| {
        state.trainer.write_fresh(seed)?;
        state.has_weights = true;
        Ok(())
    })
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
        let weights = Weights::open(folder, config.family, state.trainer.layout())?;
        for note in config.notes.iter().chain(weights.notes()) {
            log::warning(format!("{}: {note}", folder.display()));
        }
        weights.load(&mut state.trainer, &state.watcher.of(Work::Load))?;
        state.folder = config;
        state.has_weights = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_export_hf(
    trainer: Handle<hz_trainer_t>,
    folder: Text,
    dtype: u32,
) -> hz_status_t {
    with_failed(&trainer, |state| {
        let folder = folder.path("folder")?;
        let dtype = DTYPES.required(dtype, "dtype")?;
        state.need_weights()?;
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
    with_failed(&trainer, |state| state.trainer.read_tensor(name.get("name")?, values.get(count, "values")?))
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_write_tensor(
    trainer: Handle<hz_trainer_t>,
    name: Text,
    values: Array<f32>,
    count: usize,
) -> hz_status_t {
    with(&trainer, |_, state| {
        state.trainer.write_tensor(name.get("name")?, values.get(count, "values")?)?;
        state.has_weights = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_set_tensor_options(
    trainer: Handle<hz_trainer_t>,
    name: Text,
    options: In<hz_tensor_options_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let options = options.or_defaults("options")?;
        state.trainer.set_tensor_options(name.get("name")?, &tensor_options(&options)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_tensor_options(
    trainer: Handle<hz_trainer_t>,
    name: Text,
    out_options: Out<hz_tensor_options_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let out = out_options.check("out_options")?;
        let options = state.trainer.tensor_options(name.get("name")?)?;
        out.write(hz_tensor_options_t {
            frozen: options.frozen.into(),
            lr_scale: options.lr_scale,
            weight_decay: options.weight_decay.unwrap_or(DECAY_DEFAULT),
            ..hz_tensor_options_t::defaults()
        });
        Ok(())
    })
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
