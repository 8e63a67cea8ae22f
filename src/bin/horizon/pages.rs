//! `horizon man` and `horizon completions`, both made from the options.

use std::fs;
use std::path::Path;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use horizon::base::{Error, Result};

use crate::options::{self, CompletionsOptions, Line, ManOptions};
use crate::print;

/// Prints the main manual page, or writes a page for each subcommand into a folder.
pub fn man(options: &ManOptions) -> Result<()> {
    let mut command = options::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &options.out else { return print(&page(&command)?) };
    let failed = |path: &Path, error| Error::writing(path, &error);
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    for page_of in std::iter::once(&command).chain(command.get_subcommands()) {
        let path = folder.join(Man::new(page_of.clone()).get_filename());
        fs::write(&path, page(page_of)?).map_err(|error| failed(&path, error))?;
    }
    eprintln!("wrote {} pages to {}", 1 + command.get_subcommands().count(), folder.display());
    Ok(())
}

/// The manual page of a command that was built.
fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let man = Man::new(command.clone()).source(concat!("horizon ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    let mut notes = Roff::default();
    for section in options::sections(command.get_name()) {
        notes.control("SH", [section.title.to_uppercase().as_str()]);
        for line in section.lines {
            match line {
                Line::Text(text) => notes.control("PP", []).text([roman(text)]),
                // An indented line that is not filled.
                Line::Command(command) => notes
                    .control("RS", ["4"])
                    .control("nf", [])
                    .text([bold(command)])
                    .control("fi", [])
                    .control("RE", []),
                Line::Entry(term, meaning) => {
                    notes.control("TP", []).text([bold(term)]).text([roman(meaning)])
                }
            };
        }
    }
    let written = (|| {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        if command.has_subcommands() {
            man.render_subcommands_section(&mut page)?;
        }
        notes.to_writer(&mut page)
    })();
    written.map_err(|error| Error::io("cannot render the manual page", &error))?;
    Ok(page)
}

/// Prints a completion script.
pub fn completions(options: &CompletionsOptions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut options::command(), "horizon", &mut script);
    print(&script)
}
