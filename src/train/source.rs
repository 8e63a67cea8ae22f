//! Opens a model: a built-in shape, or a Hugging Face folder.

use std::path::{Path, PathBuf};

use crate::base::{Error, Progress, Result, Status};
use crate::checkpoint;
use crate::data::chat::ChatTemplate;
use crate::data::tokenizer::TokenizerSource;
use crate::engine::Trainer;
use crate::hf::{FolderConfig, Weights};
use crate::model::{Layout, preset, preset_names};

/// An open model, whose weights can be written into a trainer.
#[derive(Debug)]
pub struct ModelSource {
    /// Model, family, and the files that an export copies.
    pub config: FolderConfig,
    /// The model's tensors.
    pub layout: Layout,
    folder: Option<PathBuf>,
    weights: Option<Weights>,
}

impl ModelSource {
    /// Opens a built-in shape by name, or a folder. Built-in shapes, and folders with `fresh`,
    /// start from fresh (random) weights. Otherwise the folder's weights are opened and checked;
    /// [`ModelSource::fill`] reads them.
    pub fn open(model: &str, fresh: bool) -> Result<ModelSource> {
        if let Some(config) = preset(model) {
            let layout = Layout::new(&config);
            return Ok(ModelSource {
                config: FolderConfig::of(config)?,
                layout,
                folder: None,
                weights: None,
            });
        }
        let folder = Path::new(model);
        if !folder.is_dir() {
            return Err(Error::new(
                Status::NotFound,
                format!(
                    "model {model} is neither a folder nor a built-in model ({})",
                    preset_names().join(", ")
                ),
            ));
        }
        ModelSource::folder(folder, fresh)
    }

    /// Opens a folder, with its weights or, if `fresh`, with fresh ones.
    pub fn folder(folder: &Path, fresh: bool) -> Result<ModelSource> {
        let no_model = |error: Error| {
            if error.status() != Status::NotFound || checkpoint::open(folder).is_err() {
                return error;
            }
            let folder = folder.display();
            Error::argument(format!(
                "{folder} is a checkpoint, not a model; `horizon train --resume {folder} --out DIR` trains \
                 to the run's last step and exports the model to DIR"
            ))
        };
        let config = FolderConfig::open(folder).map_err(no_model)?;
        let layout = Layout::new(&config.model);
        let weights =
            if fresh { None } else { Some(Weights::open(folder, config.family, &layout).map_err(no_model)?) };
        Ok(ModelSource { config, layout, folder: Some(folder.to_owned()), weights })
    }

    /// Replaces the model's chat template, so that exports and checkpoints have that of `file`.
    /// Returns whether it differs from the model's `chat_template.jinja`.
    pub fn use_chat_template(&mut self, file: &Path) -> Result<bool> {
        Ok(self.config.set_chat_template(ChatTemplate::source_of(file)?.into_bytes()))
    }

    /// Remarks for the user about the folder's config and weights.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        let weights = self.weights.as_ref().map_or(&[][..], Weights::notes);
        self.config.notes.iter().chain(weights).map(String::as_str)
    }

    /// True if training starts from fresh weights.
    pub fn is_fresh(&self) -> bool {
        self.weights.is_none()
    }

    /// True for a built-in shape.
    pub fn is_preset(&self) -> bool {
        self.folder.is_none()
    }

    /// Writes all weights into a trainer: the folder's, or fresh ones from a seed. `progress`
    /// counts the bytes read.
    pub fn fill(&self, trainer: &mut Trainer, seed: u64, progress: Progress) -> Result<()> {
        if let Some(weights) = &self.weights {
            return weights.load(trainer, progress);
        }
        trainer.write_fresh(seed)
    }

    /// The location of the model's tokenizer.
    pub fn tokenizer(&self) -> TokenizerSource {
        TokenizerSource { folder: self.folder.clone(), vocabulary: self.config.model.dims.v }
    }
}
