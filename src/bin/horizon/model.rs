//! Opens the model of `--model`, where its weights or its tokenizer are needed.

use std::path::Path;

use horizon::base::{Error, Message, Result, Status};
use horizon::model::{preset, shape, shape_id};
use horizon::train::ModelSource;

/// Opens a folder or a built-in model; see [`ModelSource::open`]. Prints remarks about it.
///
/// Errors: also a name that only `plan` and `calibrate` know, and an id of the Hugging Face Hub;
/// both say how to get the folder.
pub fn open(name: &str, fresh: bool) -> Result<ModelSource> {
    let model = open_quietly(name, fresh)?;
    model.notes().for_each(|note| message!("warning: {name}: {}", Message::from(note)));
    Ok(model)
}

fn open_quietly(name: &str, fresh: bool) -> Result<ModelSource> {
    if preset(name).is_some() || Path::new(name).is_dir() {
        return ModelSource::open(name, fresh);
    }
    let get = |id: &str| format!("download it, e.g. `hf download {id} --local-dir DIR`, then --model DIR");
    let missing = if Path::new(name).is_file() {
        format!("model {name} is a file; give --model the folder of the model, with config.json and weights")
    } else if shape(name).is_some() {
        let get = shape_id(name).map_or("give --model a Hugging Face folder".to_owned(), get);
        format!(
            "model {name} is a name for `plan` and `calibrate`; here a folder with the model is needed: {get}"
        )
    } else if is_hub_id(name) {
        format!("model {name} is not a folder; if it is an id of the Hugging Face Hub, {}", get(name))
    } else {
        return ModelSource::open(name, fresh);
    };
    Err(Error::new(Status::NotFound, missing))
}

/// True for ORGANIZATION/NAME.
fn is_hub_id(name: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split_once('/').is_some_and(|(organization, name)| is_name(organization) && is_name(name))
}

#[cfg(test)]
mod tests {
    use horizon::model::shape_names;

    use super::*;

    #[test]
    fn known_shapes_have_ids_unless_they_are_hypothetical() {
        for name in shape_names() {
            let id = shape_id(name);
            assert_eq!(id.is_none(), name.starts_with("dense-"), "{name}: {id:?}");
            assert!(id.is_none_or(is_hub_id), "{name}");
        }
        assert_eq!(shape_id("qwen2.5-0.5b"), Some("Qwen/Qwen2.5-0.5B"));
        for path in ["model", "./model", "/model", "a/b/c", "../model", "a/", "a b/c"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }
}
