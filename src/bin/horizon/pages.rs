//! `horizon man` and `horizon completions`, both made from the options.

use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use horizon::base::format::shown;
use horizon::base::{Error, Result};
use horizon::host::folder::{NewFile, check_own, create_folder};

use crate::options::{self, CompletionsOptions, Line, ManOptions};
use crate::print::print;

/// The formats of rows, behind a comment on how the file is made.
const FORMATS: &str = include_str!("../../data/formats.md");

/// Bytes of a manual page in which its title is.
const HEAD_BYTES: u64 = 512;

/// Prints the main manual page or the formats of data, or writes a page for each subcommand into a
/// folder.
pub fn man(options: &ManOptions) -> Result<()> {
    if options.formats {
        let (_, text) = FORMATS.split_once("-->\n\n").unwrap_or(("", FORMATS));
        return print(text.as_bytes());
    }
    let pages = pages()?;
    let Some(folder) = &options.out else { return print(&pages[0].1) };
    create_folder(folder).map_err(|error| Error::writing(folder, &error))?;
    for path in pages.iter().map(|(name, _)| folder.join(name)) {
        // A link is replaced, and the file to which it leads is not.
        if !path.is_symlink() {
            check_own(&path, "a manual page of horizon", HEAD_BYTES, is_page)?;
        }
    }
    for (name, page) in &pages {
        let mut file = NewFile::create_in(folder, name)?;
        file.put(page)?;
        file.finish()?;
    }
    message!("wrote {} pages to {}", pages.len(), shown(folder));
    Ok(())
}

/// True for the beginning of a manual page of this command, of any version.
fn is_page(head: &[u8]) -> bool {
    String::from_utf8_lossy(head).lines().any(|line| line.starts_with(".TH horizon"))
}

/// File names and texts of the manual pages, the main page first.
pub fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = options::command().disable_help_subcommand(true);
    command.build();
    let commands = std::iter::once(&command).chain(command.get_subcommands());
    commands.map(|of| Ok((Man::new(of.clone()).get_filename(), page(of)?))).collect()
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
    print(&completion(options.shell))
}

/// The completion script of a shell.
pub fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut options::command(), "horizon", &mut script);
    script
}
