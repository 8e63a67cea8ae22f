//! Where a model comes from: a built-in shape, or a Hugging Face folder.

use std::path::{Path, PathBuf};

use crate::base::{Error, Progress, Result, Status};
use crate::checkpoint;
use crate::data::tokenizer::TokenizerSource;
use crate::engine::Trainer;
use crate::hf::{FolderConfig, Weights};
use crate::model::{Layout, preset, preset_names};

/// A model that can be put into a trainer.
#[derive(Debug)]
pub struct ModelSource {
    /// What it is.
    pub config: FolderConfig,
    /// Its tensors.
    pub layout: Layout,
    folder: Option<PathBuf>,
    weights: Option<Weights>,
}

impl ModelSource {
    /// Opens a preset by name, or a folder. A preset, and with `fresh` a folder too, starts from fresh weights;
    /// otherwise the folder's weights are opened and checked, and read by [`ModelSource::fill`].
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

    /// Opens a folder, for its weights or, with `fresh`, for fresh ones.
    pub fn folder(folder: &Path, fresh: bool) -> Result<ModelSource> {
        let no_model = |error: Error| {
            if error.status() != Status::NotFound || checkpoint::open(folder).is_err() {
                return error;
            }
            let folder = folder.display();
            Error::argument(format!(
                "{folder} is a checkpoint and no model: `horizon train --resume {folder} --out DIR` trains to the \
                 run's last step and exports the model to DIR"
            ))
        };
        let config = FolderConfig::open(folder).map_err(no_model)?;
        let layout = Layout::new(&config.model);
        let weights = if fresh { None } else { Some(Weights::open(folder, &layout).map_err(no_model)?) };
        Ok(ModelSource { config, layout, folder: Some(folder.to_owned()), weights })
    }

    /// Whether the weights start fresh.
    pub fn is_fresh(&self) -> bool {
        self.weights.is_none()
    }

    /// Whether it is a built-in shape.
    pub fn is_preset(&self) -> bool {
        self.folder.is_none()
    }

    /// Puts weights into every tensor of a trainer: the folder's, or fresh ones of a seed. `progress` is told of those
    /// that are read.
    pub fn fill(&self, trainer: &mut Trainer, seed: u64, progress: Progress) -> Result<()> {
        if let Some(weights) = &self.weights {
            return weights.load(trainer, progress);
        }
        trainer.write_fresh(seed)
    }

    /// Where to find what turns text into this model's tokens.
    pub fn tokenizer(&self) -> TokenizerSource {
        TokenizerSource { folder: self.folder.clone(), vocabulary: self.config.model.dims.v }
    }
}
