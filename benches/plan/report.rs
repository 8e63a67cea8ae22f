//! Markdown files under `benches/results`, made of paragraphs and tables.

use std::fs;
use std::path::Path;

/// Most columns of a line.
const COLUMNS: usize = 120;

/// The text of a file.
#[derive(Default)]
pub struct Report(String);

impl Report {
    /// A file that starts with a heading.
    pub fn titled(heading: &str) -> Report {
        Report(format!("# {heading}\n"))
    }

    /// Adds a heading of the second level.
    pub fn section(&mut self, heading: &str) {
        self.0 += &format!("\n## {heading}\n");
    }

    /// Adds a paragraph, wrapped outside of code spans.
    pub fn paragraph(&mut self, text: &str) {
        self.gap();
        let mut line = String::new();
        for word in words(text) {
            let with = line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && with > COLUMNS {
                self.0 += &format!("{line}\n");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += &word;
        }
        self.0 += &format!("{line}\n");
    }

    /// Adds a table.
    ///
    /// # Panics
    /// If a row has another number of cells than the head.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        self.gap();
        let head: Vec<String> = head.iter().map(|cell| cell.to_string()).collect();
        let rule = vec!["---".to_owned(); head.len()];
        for row in [&head, &rule].into_iter().chain(rows) {
            assert_eq!(row.len(), head.len(), "{row:?}");
            self.0 += &format!("| {} |\n", row.join(" | "));
        }
    }

    fn gap(&mut self) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
    }

    /// Writes the file `benches/results/NAME`.
    ///
    /// # Panics
    /// If a line is too long, or the file cannot be written.
    pub fn write(&self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results").join(name);
        fs::write(&path, &self.0).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        let long = self.0.lines().find(|line| line.chars().count() > COLUMNS);
        assert_eq!(long, None, "{name} has a line of more than {COLUMNS} columns");
        eprintln!("wrote {}", path.display());
    }
}

/// The words of a text; a code span is part of one word.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut().filter(|last| last.matches('`').count() % 2 == 1) {
            Some(open) => *open += &format!(" {word}"),
            None => words.push(word.to_owned()),
        }
    }
    words
}

/// Tokens per second with three significant digits: `15,900`.
pub fn tokens(per_second: f64) -> String {
    let scale = 10f64.powi(2 - per_second.log10().floor() as i32);
    let rounded = (per_second * scale).round() / scale;
    if rounded < 1000.0 { format!("{rounded:.0}") } else { grouped(rounded as u64) }
}

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let mut text = digits[..first].to_owned();
    for at in (first..digits.len()).step_by(3) {
        text += &format!(",{}", &digits[at..at + 3]);
    }
    text
}
