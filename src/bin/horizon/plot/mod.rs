//! `horizon plot`: logs and traces as SVG.

mod draw;
mod read;

use std::fmt::Display;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use horizon::base::format::{escaped, shown};
use horizon::base::{Error, Result, Status};
use horizon::host::folder::replace_file;
use horizon::host::input::{self, InputFile};

use crate::options::PlotOptions;
use crate::paths::Paths;
use draw::{draw_lanes, draw_runs};
use read::{Run, read_trace};

/// Draws logs or traces.
///
/// Errors: a file that cannot be read or is neither a log nor a trace; both kinds at once; a
/// picture that would replace one of the files.
pub fn plot(options: &PlotOptions) -> Result<()> {
    check_out(options)?;
    let names = names(&options.files);
    let is_trace = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    let traces = options.files.iter().filter(|path| is_trace(path)).count();
    let mut svg = String::new();
    let drawn = if traces == 0 {
        let runs = options
            .files
            .iter()
            .zip(names)
            .map(|(path, name)| read_log(path, name))
            .collect::<Result<Vec<_>>>()?;
        draw_runs(&runs, &mut svg)
    } else if traces == options.files.len() {
        let mut spans = Vec::new();
        for (path, name) in options.files.iter().zip(&names) {
            let prefix = if traces > 1 { format!("{name} ") } else { String::new() };
            let text = input::read_text(path, TRACE_BYTES_MAX)?;
            spans.append(&mut read_trace(&text, &prefix).map_err(|error| error.within(path.display()))?);
        }
        draw_lanes(&spans, &mut svg)
    } else {
        return Err(Error::argument(
            "logs (.jsonl) and traces (.json) cannot share a picture: give one kind",
        ));
    };
    let out = &options.out;
    let cannot =
        |error: &dyn Display| Error::new(Status::Io, format!("cannot write {}: {error}", out.display()));
    drawn.map_err(|error| cannot(&error))?;
    let svg = xml(&svg);
    replace_file(out, |file| file.write_all(svg.as_bytes()).map_err(|error| cannot(&error)))?;
    message!("wrote {}", shown(out));
    Ok(())
}

/// Largest log that is drawn: that of more than a million steps.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// Largest trace that is drawn.
const TRACE_BYTES_MAX: u64 = 1 << 27;

fn read_log(path: &Path, name: String) -> Result<Run> {
    let log = InputFile::open(path)?.into_reader(LOG_BYTES_MAX)?;
    Run::read(BufReader::with_capacity(1 << 16, log), name).map_err(|error| error.within(path.display()))
}

/// Replaces characters that XML does not have; names of files and of lanes can have some.
fn xml(svg: &str) -> String {
    escaped(svg, "\n").replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

/// Refuses a path for the picture that cannot be written or is one of the files.
fn check_out(PlotOptions { files, out }: &PlotOptions) -> Result<()> {
    if !out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("svg")) {
        return Err(Error::argument(format!(
            "pictures are SVG, and --out {} does not end in .svg: name it FILE.svg",
            out.display()
        )));
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::new(
            Status::NotFound,
            format!("cannot write {}: there is no folder {}", out.display(), folder.display()),
        ));
    }
    if out.is_dir() {
        return Err(Error::argument(format!("cannot write {}: it is a folder; name a file", out.display())));
    }
    let paths = Paths::default().writes_file("--out", Some(out))?;
    files.iter().try_fold(paths, |paths, file| paths.reads("the file", file))?.check()
}

/// Names of files: each is as much of the end of its path as distinguishes it from the others.
fn names(files: &[PathBuf]) -> Vec<String> {
    let parts: Vec<Vec<String>> = files
        .iter()
        .map(|file| {
            let whole = file.with_extension("");
            whole.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
        })
        .collect();
    let end = |parts: &[String], count: usize| parts[parts.len().saturating_sub(count)..].join("/");
    let name = |one: &Vec<String>| {
        let is_alone = |count: &usize| {
            let alike = parts.iter().filter(|other| end(other, *count) == end(one, *count));
            alike.filter(|other| *other != one).count() == 0
        };
        end(one, (1..one.len()).find(is_alone).unwrap_or(one.len()))
    };
    parts.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_xml() {
        assert_eq!(xml("<a>\u{1}\u{fffe}\n\u{ffff}é</a>"), "<a>\\u{1}\u{fffd}\n\u{fffd}é</a>");
    }

    #[test]
    fn files_are_named_by_what_distinguishes_them() {
        let of = |files: &[&str]| names(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(of(&["a/run.json", "b/other.json"]), ["run", "other"]);
        assert_eq!(of(&["da/run.json", "db/run.json", "c/two.json"]), ["da/run", "db/run", "two"]);
        assert_eq!(of(&["x/a/run.json", "y/a/run.json", "run.json"]), ["x/a/run", "y/a/run", "run"]);
        assert_eq!(of(&["run.json", "run.json"]), ["run", "run"]);
    }
}
