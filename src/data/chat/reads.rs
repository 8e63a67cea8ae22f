//! The fields and variables that the source of a template names.

/// A template's source without comments.
#[derive(Debug)]
pub struct Reads {
    source: String,
    /// True if it tells null content from empty content.
    pub null_content: bool,
    /// True if it loops over the parts of content.
    pub content_parts: bool,
}

impl Reads {
    /// Reads a source.
    pub fn of(source: &str) -> Reads {
        let source = without_comments(source);
        let null_content = behind_content(&source).any(|after| {
            let words: Vec<&str> = after.split_whitespace().take(3).collect();
            let word = words.join(" ");
            ["is none", "is not none", "== none", "!= none"].iter().any(|test| begins_word(&word, test))
        });
        let content_parts = loops(&source).any(is_content);
        Reads { source, null_content, content_parts }
    }

    /// Returns true if the source has a word.
    pub fn names(&self, word: &str) -> bool {
        words(&self.source, word).next().is_some()
    }

    /// Returns true if the source reads a field of this name: `.x`, `['x']`, `get('x')`, `'x' in`,
    /// or as an attribute of a filter.
    pub fn field(&self, name: &str) -> bool {
        words(&self.source, name).any(|(before, after)| {
            if let Some(owner) = before.strip_suffix('.') {
                return !owner.ends_with("loop");
            }
            let Some(before) = before.strip_suffix(['\'', '"']) else { return false };
            let Some(after) = after.strip_prefix(['\'', '"']) else { return false };
            let before = before.trim_end();
            let tested = after.trim_start();
            let reads = ["[", "get(", "attr(", "attribute=", "attribute ="];
            reads.iter().any(|reader| before.ends_with(reader))
                || tested.starts_with("in ")
                || tested.starts_with("not in ")
        })
    }
}

/// Returns true if a text is a word, or begins with it.
fn begins_word(text: &str, word: &str) -> bool {
    let lower = text.to_lowercase();
    lower.strip_prefix(word).is_some_and(|after| !after.starts_with(is_part))
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The places of a word: the text before, and behind it.
fn words<'a>(source: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let places = source.match_indices(word).map(move |(at, _)| (&source[..at], &source[at + word.len()..]));
    places.filter(|(before, after)| !before.ends_with(is_part) && !after.starts_with(is_part))
}

/// The texts behind a value `content`, `x.content` or `x['content']`.
fn behind_content(source: &str) -> impl Iterator<Item = &str> {
    words(source, "content").filter_map(|(before, after)| match before.ends_with(['\'', '"']) {
        true => after.strip_prefix(['\'', '"'])?.trim_start().strip_prefix([']', ')']),
        false => Some(after),
    })
}

/// The iterated expressions of loops, without filters and conditions.
fn loops(source: &str) -> impl Iterator<Item = &str> {
    let tags = source.split("{%").skip(1).map(|tag| tag.split("%}").next().unwrap_or_default());
    let inside = tags.map(|tag| tag.trim_start_matches(['-', '+']).trim_start());
    let iterated = inside.filter_map(|tag| tag.strip_prefix("for ")?.split_once(" in "));
    iterated.map(|(_, rest)| {
        let end = ["|", " if ", " or "].iter().filter_map(|end| rest.find(end)).min();
        rest[..end.unwrap_or(rest.len())].trim_end_matches('-').trim()
    })
}

/// Returns true for an expression that is the content of a message.
fn is_content(expression: &str) -> bool {
    behind_content(expression).any(|after| after.trim_matches(')').is_empty())
}

/// Returns a template without its comments.
fn without_comments(source: &str) -> String {
    let mut parts = source.split("{#");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once("#}").map_or("", |(_, after)| after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_by_an_access_to_it() {
        for source in [
            "{{ m.mood }}",
            "{{ m['mood'] }}",
            "{{ m[ \"mood\" ] }}",
            "{{ m.get('mood', '') }}",
            "{% if 'mood' in m %}",
            "{{ messages | map(attribute='mood') }}",
            "{{ messages | selectattr(\"mood\") }}",
            "{{ m.mood.tone }}",
        ] {
            assert!(Reads::of(source).field("mood"), "{source}");
        }
        for source in [
            "{# m.mood #}{{ m }}",
            "mood",
            "{% set mood = 1 %}",
            "{{ mood }}",
            "{{ 'mood' }}",
            "{{ raise_exception('mood') }}",
            "{{ m.moods }}",
            "{{ m.my_mood }}",
            "{{ loop.mood }}",
        ] {
            assert!(!Reads::of(source).field("mood"), "{source}");
        }
    }

    #[test]
    fn tests_of_null_content_are_seen() {
        for source in [
            "{% if message['content'] is none %}",
            "{% if m.content is not none and m.tool_calls %}",
            "{% if m.get('content') == None %}",
            "{%- set content = m.content %}{% if content is none%}",
        ] {
            assert!(Reads::of(source).null_content, "{source}");
        }
        for source in
            ["{{ m.content }}{% if tools is none %}", "{# m.content is none #}", "{% if m.content %}"]
        {
            assert!(!Reads::of(source).null_content, "{source}");
        }
    }

    #[test]
    fn loops_over_content_are_seen() {
        for source in [
            "{% for p in m.content %}",
            "{%- for part in message['content'] -%}",
            "{% for p in content if p.type == 'text' %}",
            "{% for p in m.content | selectattr('type', 'equalto', 'text') %}",
            "{% for p in (m.get('content') or []) %}",
        ] {
            assert!(Reads::of(source).content_parts, "{source}");
        }
        for source in [
            "{% for m in messages %}{{ m.content }}",
            "{% for m in messages if m.content %}",
            "{% for line in m.content.split('x') %}",
            "{# {% for p in m.content %} #}",
        ] {
            assert!(!Reads::of(source).content_parts, "{source}");
        }
    }
}
