//! Warnings about data: nothing is wrong, but perhaps not as the user means it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::format::escaped;

/// A kind of warning. Its text is for rows, turns, texts, lines or files, as many as are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Warning {
    /// A row was left out because it is invalid (`--skip-bad-lines`).
    SkippedLine,
    /// A file of a folder is not read.
    UnreadFile,
    /// A row has a field that nothing reads.
    UnusedField(String),
    /// A message has a field that neither Horizon nor the chat template reads.
    UnusedTurnField(String),
    /// A row has two different system prompts.
    TwoSystemPrompts,
    /// The arguments of a tool call, or the parameters of a tool, are text, but not a JSON object.
    ToolArguments,
    /// A message that is not trained on has a field by which it would be.
    UntrainedRole,
    /// The tokenizer adds a BOS token, and the text already begins with it.
    BosTwice,
    /// The template does not show the tools of a row.
    ToolsIgnored,
    /// The template does not show the reasoning of a trained turn.
    ReasoningIgnored,
    /// A trained turn does not contain the content of its message.
    ContentMissing,
    /// A trained turn is empty.
    EmptyTurn,
    /// A trained turn does not end with a token that ends generation.
    NoEndToken,
    /// A trained turn follows another one, so that it has no question of its own.
    AdjacentTurns,
    /// A row has no text, token or turn to train on.
    NothingTrained,
    /// A text or a rendered chat begins with several BOS tokens.
    BosRepeated,
    /// A trained turn does not show a tool call of its message.
    ToolCallsIgnored,
    /// The template does not show a message of this role.
    MessageIgnored(String),
    /// A trained turn begins with the header of the turn.
    HeaderTrained,
    /// The content of a trained turn ends with the token that ends the turn.
    EndTwice,
    /// The template tags a message of this role to be trained on.
    RoleTagged(String),
    /// A file of a folder is for validation or test by its name, and not trained on.
    HeldOut,
    /// A file of a folder is validated on, and files that are not for validation or test by their
    /// names are not.
    OnlyHeldOut,
    /// A token file of a folder is not read.
    TokenFile,
    /// A file has no text or rows.
    EmptyFile,
    /// An entry of a folder is a link to a folder, or no regular file.
    NotRegular,
    /// The tokenizer has BPE dropout, which is not applied.
    Dropout,
}

/// Warnings of a row, a file or all data: for each kind, how often, and where first.
///
/// A kind that names a field or a role is counted for each of the first 64 names, and
/// for all others together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Counted", into = "Counted")]
pub struct Warnings {
    counts: BTreeMap<Warning, (u64, String)>,
    /// Counts of all other names, in the order of [`NAMED`].
    others: [u64; NAMED.len()],
}

/// Most names of a kind that are counted one by one.
const NAMES_MAX: usize = 64;
/// Most characters of a name.
const NAME_CHARACTERS_MAX: usize = 100;

/// Warnings with counts and first examples, and the counts of other names.
type Counted = (Vec<(Warning, (u64, String))>, [u64; NAMED.len()]);

impl From<Counted> for Warnings {
    fn from((counts, others): Counted) -> Warnings {
        Warnings { counts: counts.into_iter().collect(), others }
    }
}

impl From<Warnings> for Counted {
    fn from(warnings: Warnings) -> Counted {
        (warnings.counts.into_iter().collect(), warnings.others)
    }
}

impl Warnings {
    /// Counts a warning. `example` shows the value or says where; it may be empty.
    pub fn add(&mut self, warning: Warning, example: impl fmt::Display) {
        self.add_many(warning, 1, || example.to_string());
    }

    /// Adds the warnings found at a place, e.g. "a.jsonl, line 3".
    pub fn extend(&mut self, place: impl fmt::Display, found: Warnings) {
        self.add_all(found, |example| match example.is_empty() {
            true => place.to_string(),
            false => format!("{place}: {example}"),
        });
    }

    /// Adds the warnings that were found after these, at the same place.
    pub fn append(&mut self, later: Warnings) {
        self.add_all(later, |example| example);
    }

    fn add_all(&mut self, later: Warnings, first: impl Fn(String) -> String) {
        for (warning, (count, example)) in later.counts {
            self.add_many(warning, count, || first(example));
        }
        for (others, more) in self.others.iter_mut().zip(later.others) {
            *others += more;
        }
    }

    fn add_many(&mut self, warning: Warning, count: u64, first: impl FnOnce() -> String) {
        let warning = warning.shortened();
        if let Some((known, _)) = self.counts.get_mut(&warning) {
            *known += count;
            return;
        }
        if let Some(kind) = NAMED.iter().position(|(name_of, _)| name_of(&warning).is_some()) {
            let names = || self.counts.keys().filter_map(NAMED[kind].0).count();
            if self.others[kind] > 0 || names() >= NAMES_MAX {
                self.others[kind] += count;
                return;
            }
        }
        self.counts.insert(warning, (count, first()));
    }

    /// The number of warnings of a kind.
    pub fn count(&self, warning: &Warning) -> u64 {
        self.counts.get(warning).map_or(0, |(count, _)| *count)
    }

    /// Kinds, counts and first examples, without the names that are counted together.
    pub fn iter(&self) -> impl Iterator<Item = (&Warning, u64, &str)> {
        self.counts.iter().map(|(warning, (count, first))| (warning, *count, &first[..]))
    }
}

impl Warning {
    /// Returns the warning with the beginning of a long name.
    fn shortened(mut self) -> Warning {
        if let Warning::UnusedField(name)
        | Warning::UnusedTurnField(name)
        | Warning::MessageIgnored(name)
        | Warning::RoleTagged(name) = &mut self
            && let Some((cut, _)) = name.char_indices().nth(NAME_CHARACTERS_MAX)
        {
            name.truncate(cut);
            name.push('…');
            name.shrink_to_fit();
        }
        self
    }

    /// Writes the warning for `count` rows, turns, lines or files.
    fn text(&self, count: u64) -> String {
        let of = |one: &str, several: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{} {several}", thousands(count)),
        };
        match self {
            Warning::SkippedLine => of("invalid row is skipped", "invalid rows are skipped"),
            Warning::UnreadFile => of("file is not read", "files are not read"),
            Warning::UnusedField(field) => {
                of("row has", "rows have") + &format!(" a field `{field}` that is not used")
            }
            Warning::UnusedTurnField(field) => {
                of("message has", "messages have")
                    + &format!(" a field `{field}` that neither Horizon nor the chat template reads")
            }
            Warning::TwoSystemPrompts => {
                of("row has", "rows have") + " two different system prompts; both are kept"
            }
            Warning::ToolArguments => {
                of("tool or tool call has", "tools or tool calls have")
                    + " arguments or parameters that are not a JSON object; they are kept as text"
            }
            Warning::UntrainedRole => {
                of("message is", "messages are")
                    + " marked to be trained on, but not the assistant's, or part of a prompt; they stay untrained"
            }
            Warning::BosTwice => {
                of("text begins", "texts begin")
                    + " with the BOS token, which the tokenizer adds, too; one is kept"
            }
            Warning::ToolsIgnored => {
                of("row has", "rows have") + " tools that the chat template does not show to the model"
            }
            Warning::ReasoningIgnored => {
                of("trained turn has", "trained turns have") + " reasoning that the chat template leaves out"
            }
            Warning::ContentMissing => {
                of("trained turn differs", "trained turns differ")
                    + " from the message's content: the chat template changes it"
            }
            Warning::EmptyTurn => of("trained turn is empty", "trained turns are empty"),
            Warning::NoEndToken => {
                of("trained turn does", "trained turns do")
                    + " not end with a token that ends generation, so the model does not learn to stop"
            }
            Warning::AdjacentTurns => {
                of("trained turn follows", "trained turns follow") + " another trained turn directly"
            }
            Warning::NothingTrained => of("row has", "rows have") + " nothing to train on",
            Warning::BosRepeated => {
                of("text begins", "texts begin")
                    + " with several BOS tokens, which are kept; remove those of the data that the tokenizer or the \
                       chat template adds, too"
            }
            Warning::ToolCallsIgnored => {
                of("trained turn has", "trained turns have")
                    + " a tool call that the chat template does not show to the model"
            }
            Warning::MessageIgnored(role) => {
                of("message", "messages")
                    + &format!(" of role `{role}`: the chat template does not show the content to the model")
            }
            Warning::HeaderTrained => {
                of("trained turn begins", "trained turns begin")
                    + " with the turn's header, because the chat template has no generation prompt"
            }
            Warning::EndTwice => {
                of("trained turn ends", "trained turns end")
                    + " with its end token twice: the message's content has it, too"
            }
            Warning::RoleTagged(role) => {
                of("message", "messages")
                    + &format!(
                        " of role `{role}`: trained on, since the chat template tags them with {{% generation %}}"
                    )
            }
            Warning::HeldOut => of(
                "file is for validation or test by its name, and not trained on",
                "files are for validation or test by their names, and not trained on",
            ),
            Warning::OnlyHeldOut => of(
                "file is for validation or test by its name; others of its folder are not read",
                "files are for validation or test by their names; others of their folders are not read",
            ),
            Warning::TokenFile => of(
                "token file of a folder is not read; name it alone",
                "token files of a folder are not read; name each one alone",
            ),
            Warning::EmptyFile => of("file is empty", "files are empty"),
            Warning::Dropout => {
                of("tokenizer has", "tokenizers have")
                    + " BPE dropout, which is not applied: tokens would be random, and a resumed run would differ"
            }
            Warning::NotRegular => of(
                "entry of a folder is not read: a link to a folder or to nothing, a pipe or a device",
                "entries of a folder are not read: links to folders or to nothing, pipes or devices",
            ),
        }
    }
}

/// More names than this share one line.
const SINGLE_NAMES: usize = 3;
/// Most names of a line.
const LISTED_NAMES: usize = 10;

impl Warnings {
    /// Writes the names of one kind in one line, the most frequent first; `None` if they are few.
    fn together(&self, (name_of, text): (NameOf, &str), others: u64) -> Option<String> {
        let mut names: Vec<(u64, &str)> =
            self.iter().filter_map(|(warning, count, _)| Some((count, name_of(warning)?))).collect();
        names.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let (listed, rest) = names.split_at(names.len().min(LISTED_NAMES));
        let others = others + rest.iter().map(|(count, _)| count).sum::<u64>();
        let listed = listed.iter().map(|(count, name)| format!("`{name}` ({})", thousands(*count)));
        let others = (others > 0).then(|| format!("and others ({})", thousands(others)));
        (names.len() > SINGLE_NAMES)
            .then(|| format!("{text}: {}", listed.chain(others).collect::<Vec<_>>().join(", ")))
    }
}

/// Returns the name in a warning of one kind; `None` for other warnings.
type NameOf = fn(&Warning) -> Option<&str>;

/// The kinds of warnings with a name, and the text for several names.
const NAMED: [(NameOf, &str); 4] = [
    (
        |warning| if let Warning::UnusedField(field) = warning { Some(field) } else { None },
        "rows have fields that are not used",
    ),
    (
        |warning| if let Warning::UnusedTurnField(field) = warning { Some(field) } else { None },
        "messages have fields that neither Horizon nor the chat template reads",
    ),
    (
        |warning| if let Warning::MessageIgnored(role) = warning { Some(role) } else { None },
        "messages of roles whose content the chat template does not show to the model",
    ),
    (
        |warning| if let Warning::RoleTagged(role) = warning { Some(role) } else { None },
        "messages of other roles are trained on, since the chat template tags them with {% generation %}",
    ),
];

impl fmt::Display for Warnings {
    /// Writes one line per kind, safe for a terminal; nothing without warnings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = NAMED.iter().zip(self.others);
        let together: Vec<_> = kinds.map(|(kind, others)| (kind.0, self.together(*kind, others))).collect();
        let is_together = |warning: &Warning| {
            together.iter().any(|(name_of, line)| line.is_some() && name_of(warning).is_some())
        };
        for (warning, count, first) in self.iter().filter(|(warning, ..)| !is_together(warning)) {
            let text = warning.text(count);
            let which = if count == 1 { "" } else { "the first: " };
            let example = if first.is_empty() { String::new() } else { format!(" ({which}{first})") };
            writeln!(f, "warning: {}", escaped(&format!("{text}{example}"), ""))?;
        }
        for line in together.iter().filter_map(|(_, line)| line.as_ref()) {
            writeln!(f, "warning: {}", escaped(line, ""))?;
        }
        Ok(())
    }
}

/// Writes a number with commas: 1,204.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_unused_fields_share_a_line() {
        let mut all = Warnings::default();
        for (field, count) in [("a", 2), ("b", 1500), ("c", 1), ("d", 3)] {
            (0..count).for_each(|_| all.add(Warning::UnusedField(field.into()), "x"));
        }
        all.add(Warning::UnusedTurnField("e".into()), "y");
        let expected = "warning: 1 message has a field `e` that neither Horizon nor the chat template reads (y)\n\
             warning: rows have fields that are not used: `b` (1,500), `d` (3), `a` (2), `c` (1)\n";
        assert_eq!(all.to_string(), expected);
    }

    /// However the warnings of rows are joined, in memory that does not grow with the names.
    #[test]
    fn many_names_are_counted_together() {
        let mut all = Warnings::default();
        for row in 0..50 {
            let mut found = Warnings::default();
            (0..20).for_each(|at| found.add(Warning::UnusedField(format!("f{}", row * 20 + at)), ""));
            found.add(Warning::UnusedField("f7".into()), "");
            found.add(Warning::MessageIgnored(format!("{row:02}").repeat(1 << 10)), "");
            (0..100).for_each(|at| found.add(Warning::RoleTagged(format!("{at}")), ""));
            let sent = serde_json::to_string(&found).unwrap();
            all.extend("a", serde_json::from_str(&sent).unwrap());
        }
        assert_eq!(all.iter().count(), 64 + 50 + 64);
        assert!(all.iter().all(|(warning, ..)| warning.text(1).len() < 250));
        let text = all.to_string();
        let line = |at: usize| text.lines().nth(at).unwrap();
        assert!(
            line(0).starts_with("warning: rows have fields that are not used: `f7` (51), `f0` (1), `f1` (1)")
        );
        // 50 times 21, of which 51 + 9 are listed.
        assert!(line(0).ends_with("`f16` (1), and others (990)"), "{text}");
        assert!(line(1).ends_with("…` (1), and others (40)"), "{text}");
        assert!(line(2).ends_with("`17` (50), and others (4,500)"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_kind_is_one_line_with_its_count_and_first_place() {
        let mut all = Warnings::default();
        for line in 1..=1204 {
            let mut row = Warnings::default();
            row.add(Warning::UnusedField("weight".into()), "");
            if line == 7 {
                row.add(Warning::NoEndToken, "… Paris.");
            }
            all.extend(format_args!("a.jsonl, line {line}"), row);
        }
        let expected = "warning: 1,204 rows have a field `weight` that is not used (the first: a.jsonl, line 1)\n\
                        warning: 1 trained turn does not end with a token that ends generation, so the model does \
                        not learn to stop (a.jsonl, line 7: … Paris.)\n";
        assert_eq!(all.to_string(), expected);
        assert_eq!(all.count(&Warning::NoEndToken), 1);
        let mut odd = Warnings::default();
        odd.add(Warning::UnusedField("\x1b[2J".into()), "two\nlines");
        let expected = "warning: 1 row has a field `\\u{1b}[2J` that is not used (two\\nlines)\n";
        assert_eq!(odd.to_string(), expected);
        assert_eq!(all.count(&Warning::EmptyTurn), 0);
        assert_eq!([0, 12, 999, 1000, 1_234_567].map(thousands), ["0", "12", "999", "1,000", "1,234,567"]);
    }
}
