//! L11, the C interface.
//!
//! `include/horizon.h` documents every function; the functions here have no documentation of their
//! own. All exported functions of the project are here. Each is `guard` around a body that
//! converts parameters to Rust values, calls lower levels, and writes outputs last. None is
//! `unsafe`: only C can make their parameters.
//!
//! - `guard`: panics become errors, errors become statuses; a failed handle stays failed
//! - `process`: the caller's floating-point environment, forks and callbacks
//! - `handle`: handles are keys of a table
//! - `argument`: pointers to values, strings and arrays
//! - `enums`: one table for each enum
//! - `values`, `options_json`: limits of fields, and their description in JSON
//! - `sized`: structs with `struct_size`, shared with programs of other versions
//! - `status`: numbers and names of statuses, versions, the last error of a thread
//! - `log`: the log callback
//! - `device`: the devices of this machine
//! - `model`, `options`: arguments of the functions that open handles
//! - `lane`: names of lanes
//! - `plan`, `adam`, `arena`: handles with their functions
//! - `trainer`, with `weights`, `steps`, `progress`, `save` and `checkpoint`: the same

// The header has these names and documents them.
#![allow(non_camel_case_types, missing_docs)]

mod adam;
mod arena;
mod argument;
mod checkpoint;
mod device;
mod enums;
mod guard;
mod handle;
mod lane;
mod log;
mod model;
mod options;
mod options_json;
mod plan;
mod process;
mod progress;
mod save;
mod sized;
mod status;
mod steps;
mod trainer;
mod values;
mod weights;

pub use adam::{
    hz_adam_arrays_t, hz_adam_close, hz_adam_open, hz_adam_options_t, hz_adam_state, hz_adam_step, hz_adam_t,
    hz_master_join, hz_master_split,
};
pub use arena::{
    hz_arena_close, hz_arena_info, hz_arena_info_t, hz_arena_node_at, hz_arena_open, hz_arena_options_t,
    hz_arena_t, hz_arena_touch,
};
pub use checkpoint::{hz_trainer_resume, hz_trainer_save_to};
pub use device::{hz_device_count, hz_device_info, hz_device_info_t};
pub use lane::hz_lane_name;
pub use log::{hz_log_callback_t, hz_set_log_callback, hz_set_log_level};
pub use model::{hz_model_config_from_hf, hz_model_config_from_preset, hz_model_config_t};
pub use options::{hz_layer_placement_t, hz_trainer_options_t};
pub use options_json::hz_options_json;
pub use plan::{
    hz_plan_admit, hz_plan_busy_seconds, hz_plan_close, hz_plan_json, hz_plan_open, hz_plan_search,
    hz_plan_summary, hz_plan_summary_t, hz_plan_t, hz_plan_trace,
};
pub use progress::{hz_progress_callback_t, hz_trainer_set_progress};
pub use save::{hz_save_callback_t, hz_trainer_save, hz_trainer_save_wait};
pub use sized::{Field, SizedStruct};
pub use status::{hz_abi_version, hz_last_error, hz_status_name, hz_status_t, hz_version, hz_version_number};
pub use steps::{
    hz_batch_t, hz_eval_report_t, hz_loss_callback_t, hz_step_report_t, hz_trainer_accumulate,
    hz_trainer_announce, hz_trainer_cancel, hz_trainer_discard, hz_trainer_eval, hz_trainer_logits,
    hz_trainer_logprobs, hz_trainer_step, hz_trainer_step_with_loss, hz_trainer_update,
};
pub use trainer::{
    hz_stats_t, hz_trainer_busy_seconds, hz_trainer_close, hz_trainer_device, hz_trainer_model,
    hz_trainer_open, hz_trainer_open_planned, hz_trainer_stats, hz_trainer_sync, hz_trainer_t,
    hz_trainer_trace,
};
pub use weights::{
    hz_tensor_options_t, hz_tensor_t, hz_trainer_export_hf, hz_trainer_init, hz_trainer_load_hf,
    hz_trainer_read_gradient, hz_trainer_read_tensor, hz_trainer_set_tensor_options, hz_trainer_tensor,
    hz_trainer_tensor_count, hz_trainer_tensor_options, hz_trainer_write_tensor,
};
