//! `hz_tensor_options_t`: AdamW settings of one tensor.

use crate::base::Result;
use crate::capi::argument::Text;
use crate::capi::config::flag;
use crate::capi::handle::Handle;
use crate::capi::sized::{In, Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::trainer::{hz_trainer_t, with};
use crate::capi::values::Values;
use crate::engine::TensorOptions;

/// `weight_decay` of a tensor without a setting of its own.
const DECAY_DEFAULT: f64 = -1.0;

sized_struct! {
    hz_tensor_options_t, hz_tensor_options_init {
        frozen: u32 = 0 => Values::FLAG,
        lr_scale: f64 = 1.0 => Values::between(0.0, f32::MAX as f64),
        weight_decay: f64 = DECAY_DEFAULT => Values::between(0.0, f32::MAX as f64).or(DECAY_DEFAULT),
    }
}

pub(super) fn tensor_options(raw: &hz_tensor_options_t) -> Result<TensorOptions> {
    Ok(TensorOptions {
        lr_scale: raw.lr_scale,
        weight_decay: (raw.weight_decay != DECAY_DEFAULT).then_some(raw.weight_decay),
        frozen: flag(raw.frozen, "frozen")?,
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_set_tensor_options(
    trainer: Handle<hz_trainer_t>,
    name: Text,
    options: In<hz_tensor_options_t>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let options = options.optional("options")?.unwrap_or_else(hz_tensor_options_t::defaults);
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
