//! Checkpoints: `hz_trainer_save_to` and `hz_trainer_resume`.

use std::ffi::CString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::base::{DType, Result};
use crate::capi::argument::{LentText, OutPointer, Text};
use crate::capi::handle::Handle;
use crate::capi::progress::Work;
use crate::capi::status::{c_string, hz_status_t};
use crate::capi::trainer::{State, hz_trainer_t, with, with_failed};
use crate::capi::values::size;
use crate::checkpoint::{self, Changes, Checkpoints, Note};
use crate::hf::FolderConfig;

impl State {
    /// Opens the folder, or returns the open one. Another one stays open.
    fn checkpoints(&self, folder: &Path, keep: Option<NonZeroUsize>) -> Result<Arc<Checkpoints>> {
        let companions = self.folder.files(DType::Bf16);
        let checkpoints = match &self.saves {
            Some(open) if is_same(open.folder(), folder) => open.with(companions, keep),
            _ => Checkpoints::create(folder, companions, keep)?,
        };
        checkpoints.continue_run(self.runs.get(&checkpoints.real_folder()?).copied())?;
        Ok(Arc::new(checkpoints))
    }

    /// Stores a text as long as the handle lives.
    fn keep(&mut self, text: CString) -> LentText {
        let lent = LentText::new(&text);
        self.notes.push(text);
        lent
    }
}

/// True if both paths lead to one folder.
fn is_same(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_save_to(
    trainer: Handle<hz_trainer_t>,
    folder: Text,
    keep: u64,
    note: Text,
) -> hz_status_t {
    with_failed(&trainer, |state| {
        let folder = folder.path("folder")?;
        let keep = NonZeroUsize::new(size(keep, "keep")?);
        let note = note.optional("note")?.map_or(Value::Null, Value::from);
        state.need_weights()?;
        state.trainer.may_save()?;
        let checkpoints = state.checkpoints(folder, keep)?;
        let real = checkpoints.real_folder()?;
        let writer = checkpoints.writer(&state.trainer, Note { note, ..Note::default() })?;
        state.trainer.save(writer.watched(Box::new(state.watcher.of(Work::Save))))?;
        state.runs.insert(real, state.trainer.stats().steps);
        state.saves = Some(checkpoints);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_trainer_resume(
    trainer: Handle<hz_trainer_t>,
    folder: Text,
    changes: Text,
    out_note: OutPointer<LentText>,
) -> hz_status_t {
    with(&trainer, |_, state| {
        let folder = folder.path("folder")?;
        let changes = changes.optional("changes")?.unwrap_or_default();
        let changes = changes.split(',').map(str::trim).filter(|name| !name.is_empty());
        if !out_note.is_null() {
            out_note.check("out_note")?;
        }
        let checkpoint = checkpoint::open(folder)?;
        let (config, parent) = (FolderConfig::open(checkpoint.folder())?, checkpoint.parent()?);
        let progress = state.watcher.of(Work::Resume);
        checkpoint.restore_into(&mut state.trainer, &Changes::of(changes), &progress)?;
        // Later exports copy its tokenizer and other files.
        state.folder = config;
        state.has_weights = true;
        state.runs.insert(parent, checkpoint.manifest().step);
        if !out_note.is_null() {
            out_note.write(match &checkpoint.manifest().note {
                Value::Null => LentText::NULL,
                Value::String(text) => state.keep(c_string(text)),
                other => state.keep(c_string(&other.to_string())),
            });
        }
        Ok(())
    })
}
