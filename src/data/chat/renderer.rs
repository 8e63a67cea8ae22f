//! Renders a chat template in this process or in others.

use std::path::Path;

use serde_json::Value;

#[cfg(feature = "text")]
use super::files::Sources;
#[cfg(feature = "text")]
use super::worker::Workers;
use super::{ChatTemplate, Conversation, Rendered};
use crate::base::{Error, Result};
use crate::data::warning::Warnings;

/// A chat template that is open. Both kinds give the same texts, warnings and errors.
#[derive(Debug)]
pub enum Renderer {
    /// In this process, which a template may end.
    InProcess(ChatTemplate),
    /// In worker processes.
    #[cfg(feature = "text")]
    Workers(Workers),
}

impl Renderer {
    /// Opens the template of a file or of a model folder (see [`ChatTemplate`]); `None` if there is
    /// none. `worker` is the program of the worker processes.
    pub fn open(
        file: Option<&Path>,
        folder: Option<&Path>,
        time: Option<i64>,
        worker: Option<&Path>,
    ) -> Result<Option<Renderer>> {
        #[cfg(feature = "text")]
        if let Some(program) = worker {
            let sources = match (file, folder) {
                (Some(file), folder) => Some(Sources::of_file(file, folder, time)?),
                (None, Some(folder)) => Sources::of_folder(folder, time)?,
                (None, None) => None,
            };
            return sources.map(|sources| Workers::open(program, sources).map(Renderer::Workers)).transpose();
        }
        #[cfg(not(feature = "text"))]
        let _ = worker;
        let template = match (file, folder) {
            (Some(file), folder) => Some(ChatTemplate::open(file, folder, time)?),
            (None, Some(folder)) => ChatTemplate::of_folder(folder, time)?,
            (None, None) => None,
        };
        Ok(template.map(Renderer::InProcess))
    }

    /// As [`ChatTemplate::render`], for each conversation, with its warnings. Errors: also that the
    /// row ended its worker process.
    pub fn render_all(&self, conversations: &[&Conversation]) -> Vec<Result<(Rendered, Warnings)>> {
        match self {
            Renderer::InProcess(template) => {
                let one = |conversation: &&Conversation| {
                    let mut warnings = Warnings::default();
                    Ok((template.render(conversation, &mut warnings)?, warnings))
                };
                conversations.iter().map(one).collect()
            }
            #[cfg(feature = "text")]
            Renderer::Workers(workers) => workers.render(conversations),
        }
    }

    /// As [`Renderer::render_all`], for one conversation.
    pub fn render(&self, conversation: &Conversation, warnings: &mut Warnings) -> Result<Rendered> {
        let rendered = self.render_all(&[conversation]).pop();
        let (rendered, found) = rendered.ok_or_else(|| Error::internal("no answer"))??;
        warnings.append(found);
        Ok(rendered)
    }

    /// As [`ChatTemplate::prompt`]. Errors: also that the prompt ended its worker process.
    pub fn prompt(&self, messages: &[Value]) -> Result<String> {
        match self {
            Renderer::InProcess(template) => template.prompt(messages),
            #[cfg(feature = "text")]
            Renderer::Workers(workers) => workers.prompt(messages),
        }
    }

    /// True if this error says that every later row is refused, since too many rows have ended their
    /// worker process.
    pub fn has_stopped_by(&self, error: &Error) -> bool {
        #[cfg(feature = "text")]
        if let Renderer::Workers(workers) = self {
            return workers.have_stopped_by(error);
        }
        let _ = error;
        false
    }
}
