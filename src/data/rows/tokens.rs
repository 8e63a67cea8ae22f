//! Rows of token ids with masks: padding, packed documents, and the tokens trained on.

use std::ops::Range;

use serde_json::Value;

use super::Row;
use super::fields::{Entry, Fields, bad, integer, shown};
use super::formats::{
    ASSISTANT_MASKS, ATTENTION_MASK, COMPLETION_MASK, CU_SEQLENS, Field, LABELS, LOSS_MASK, POSITION_IDS,
    SEQ_LENGTHS,
};
use crate::base::format::several;
use crate::base::{Error, IGNORED_TARGET, Result};

/// Reads a row of tokens: one document, or several if a field says where they begin. Padding is
/// dropped at both ends.
pub fn read(fields: &mut Fields, ids: &Field) -> Result<Vec<Row>> {
    let ids = fields.needed(ids)?;
    let count = ids.list()?.len();
    let mut starts = Starts { kept: 0..count, found: None };
    if let Some(mask) = per_token(fields, &ATTENTION_MASK, ids)? {
        let (kept, found) = without_padding(mask)?;
        starts.kept = kept;
        starts.agree(mask, found)?;
    }
    let kept = starts.kept.clone();
    let tokens = tokens(ids, &kept)?;
    if let Some(entry) = per_token(fields, &POSITION_IDS, ids)? {
        starts.agree(entry, restarts(entry, &kept)?)?;
    }
    if let Some(entry) = fields.get(&SEQ_LENGTHS)? {
        starts.agree(entry, by_length(entry, &numbers(entry, "a length")?, &kept, count)?)?;
    }
    if let Some(entry) = fields.get(&CU_SEQLENS)? {
        let bounds = numbers(entry, "an offset")?;
        if bounds.first() != Some(&0) {
            return Err(entry.not("a list that begins with 0"));
        }
        let lengths: Vec<i64> = bounds.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        starts.agree(entry, by_length(entry, &lengths, &kept, count)?)?;
    }
    let starts = starts.all();
    let supervised = supervised(fields, ids, &tokens, &kept, &starts)?;
    // Nothing predicts the first token of a document.
    let trained = |at: usize| supervised[at] && starts.binary_search(&at).is_err();
    fields.count_untrained(!(0..tokens.len()).any(trained), "");
    if starts.len() == 1 {
        return Ok(vec![Row::Tokens(tokens, supervised)]);
    }
    let ends = starts[1..].iter().copied().chain([tokens.len()]);
    let documents = starts.iter().zip(ends);
    Ok(documents
        .map(|(&start, end)| Row::Tokens(tokens[start..end].to_vec(), supervised[start..end].to_vec()))
        .collect())
}

/// Returns a field with one value per token.
fn per_token<'a>(fields: &mut Fields<'a>, field: &Field, ids: Entry) -> Result<Option<Entry<'a>>> {
    let Some(entry) = fields.get(field)? else { return Ok(None) };
    let (values, count) = (entry.list()?.len(), ids.list()?.len());
    if values != count {
        return Err(bad(format!(
            "`{}` has {}, but `{}` has {count}; the counts must be equal",
            entry.name,
            several(values, "value"),
            ids.name
        )));
    }
    Ok(Some(entry))
}

fn tokens(ids: Entry, kept: &Range<usize>) -> Result<Vec<i32>> {
    let mut tokens = Vec::with_capacity(kept.len());
    for (at, value) in values(ids, kept)? {
        let id = integer(value).and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0);
        tokens.push(id.ok_or_else(|| not(ids, at, value, "a token id"))?);
    }
    Ok(tokens)
}

/// Returns the values of a list in a range, with their indices.
fn values<'a>(entry: Entry<'a>, range: &Range<usize>) -> Result<impl Iterator<Item = (usize, &'a Value)>> {
    Ok(range.clone().zip(&entry.list()?[range.clone()]))
}

fn not(entry: Entry, at: usize, value: &Value, kind: &str) -> Error {
    bad(format!("`{}`[{at}] is {}; it must be {kind}", entry.name, shown(value)))
}

/// Reads a number that is not negative.
fn number(entry: Entry, at: usize, value: &Value, kind: &str) -> Result<i64> {
    integer(value).filter(|number| *number >= 0).ok_or_else(|| not(entry, at, value, kind))
}

fn numbers(entry: Entry, kind: &str) -> Result<Vec<i64>> {
    entry.list()?.iter().enumerate().map(|(at, value)| number(entry, at, value, kind)).collect()
}

/// Returns the tokens between the padding at both ends, and the starts of the documents that the
/// mask numbers: 1, 1, 1, 2, 2, ….
fn without_padding(mask: Entry) -> Result<(Range<usize>, Vec<usize>)> {
    let count = mask.list()?.len();
    let (mut kept, mut starts, mut document) = (0..count, Vec::new(), 0);
    for (at, value) in values(mask, &(0..count))? {
        let kind = "0 or 1, or the number of a document";
        let number = value.as_bool().map_or_else(|| number(mask, at, value, kind), |bit| Ok(bit.into()))?;
        if number == 0 {
            let ends = document > 0 && kept.end == count;
            kept.end = if ends { at } else { kept.end };
        } else if kept.end < count {
            return Err(bad(format!(
                "`{}`[{}] is 0 between ones; only padding at the ends of a row can be left out; to exclude tokens from \
                 the loss, give `labels` or `loss_mask`",
                mask.name, kept.end
            )));
        } else if number == document + 1 {
            kept.start = if document == 0 { at } else { kept.start };
            starts.push(at - kept.start);
            document = number;
        } else if number != document {
            return Err(bad(format!(
                "`{}`[{at}] is {number} after {document}; documents are numbered 1, 2, 3, …",
                mask.name
            )));
        }
    }
    if document == 0 && count > 0 {
        return Err(bad(format!("`{}` has only zeros: every token is padding", mask.name)));
    }
    Ok((kept, starts))
}

/// Returns the starts of the documents whose positions restart. Positions count from 0, from 1, or,
/// of a row with padding on the left, from its length.
fn restarts(entry: Entry, kept: &Range<usize>) -> Result<Vec<usize>> {
    let Some((_, first)) = values(entry, kept)?.next() else { return Ok(Vec::new()) };
    let first = number(entry, kept.start, first, "a position")?;
    // Behind one token of padding, 1 may also be the second position.
    let from_zero = kept.start == 1 && values(entry, kept)?.any(|(_, value)| integer(value) == Some(0));
    let base = i64::from(first == 1 && !from_zero);
    if first != base && first != kept.start as i64 {
        let message =
            format!("`{}`[{}] is {first}; the first position must be 0 or 1", entry.name, kept.start);
        return Err(bad(message));
    }
    let (mut starts, mut before) = (vec![0], first);
    for (at, value) in values(entry, kept)?.skip(1) {
        let position = number(entry, at, value, "a position")?;
        if position == base {
            starts.push(at - kept.start);
        } else if position != before + 1 {
            return Err(bad(format!(
                "`{}`[{at}] is {position} after {before}; positions must count up, or restart at {base} with a document",
                entry.name
            )));
        }
        before = position;
    }
    Ok(starts)
}

/// Returns the starts of documents with these lengths, which make up the row, or its tokens without
/// padding.
fn by_length(entry: Entry, lengths: &[i64], kept: &Range<usize>, count: usize) -> Result<Vec<usize>> {
    let total =
        lengths.iter().try_fold(0_i64, |sum, &length| sum.checked_add(length).filter(|_| length >= 0));
    let mut at = match total.and_then(|total| usize::try_from(total).ok()) {
        Some(total) if total == kept.len() => kept.start,
        Some(total) if total == count => 0,
        _ => return Err(entry.not(&format!("documents that make up the {count} tokens of the row"))),
    };
    let mut starts = Vec::new();
    for &length in lengths.iter().filter(|length| **length > 0) {
        let end = at + length as usize;
        // A document of padding alone is dropped.
        if end > kept.start && at < kept.end {
            starts.push(at.saturating_sub(kept.start));
        }
        at = end;
    }
    Ok(starts)
}

/// Starts of the documents of a row, relative to the first token kept.
struct Starts<'a> {
    kept: Range<usize>,
    found: Option<(Entry<'a>, Vec<usize>)>,
}

impl<'a> Starts<'a> {
    /// Takes the starts from one field. Fields that find several documents must find the same.
    fn agree(&mut self, entry: Entry<'a>, starts: Vec<usize>) -> Result<()> {
        if starts.len() < 2 {
            return Ok(());
        }
        match &self.found {
            Some((other, found)) if *found != starts => {
                let differs = found.iter().zip(&starts).position(|(a, b)| a != b);
                let document = differs.unwrap_or(found.len().min(starts.len()));
                let at = |starts: &[usize]| match starts.get(document) {
                    Some(start) => format!("at token {}", self.kept.start + start),
                    None => "nowhere".to_owned(),
                };
                Err(bad(format!(
                    "`{}` and `{}` disagree: document {document} begins {} and {}",
                    other.name,
                    entry.name,
                    at(found),
                    at(&starts)
                )))
            }
            Some(_) => Ok(()),
            None => {
                self.found = Some((entry, starts));
                Ok(())
            }
        }
    }

    fn all(self) -> Vec<usize> {
        self.found.map_or_else(|| vec![0], |(_, starts)| starts)
    }
}

/// Returns the tokens trained on: those that every mask and `labels` select, as in TRL.
///
/// `labels` that select every token are a copy of the tokens and leave the choice to the masks.
/// Otherwise both must select the same tokens. A document's first token may differ: no token
/// predicts it.
fn supervised(
    fields: &mut Fields,
    ids: Entry,
    tokens: &[i32],
    kept: &Range<usize>,
    starts: &[usize],
) -> Result<Vec<bool>> {
    let (mut masks, mut masked) = (Vec::new(), vec![true; tokens.len()]);
    for field in [&LOSS_MASK, &COMPLETION_MASK, &ASSISTANT_MASKS] {
        let Some(mask) = per_token(fields, field, ids)? else { continue };
        for ((at, value), masked) in values(mask, kept)?.zip(&mut masked) {
            *masked &= bit(value).ok_or_else(|| not(mask, at, value, "0 or 1"))?;
        }
        masks.push(mask);
    }
    let Some(labels) = per_token(fields, &LABELS, ids)? else { return Ok(masked) };
    let mut labeled = Vec::with_capacity(tokens.len());
    for ((at, value), &token) in values(labels, kept)?.zip(tokens) {
        let label = integer(value);
        if label != Some(token.into()) && label != Some(IGNORED_TARGET.into()) {
            let kind = format!("the token at that index, {token}, or {IGNORED_TARGET}");
            return Err(not(labels, at, value, &kind));
        }
        labeled.push(label == Some(token.into()));
    }
    let Some(first_mask) = masks.first() else { return Ok(labeled) };
    let targets = |at: &usize| starts.binary_search(at).is_err();
    if (0..tokens.len()).filter(targets).all(|at| labeled[at]) {
        return Ok(masked.iter().zip(&labeled).map(|(a, b)| *a && *b).collect());
    }
    match (0..tokens.len()).filter(targets).find(|&at| labeled[at] != masked[at]) {
        None => Ok(labeled),
        Some(at) => {
            let row = kept.start + at;
            let off = |mask: &&Entry| bit(&mask.value[row]) == Some(false);
            let mask = masks.iter().find(off).unwrap_or(first_mask);
            Err(bad(format!(
                "`labels`[{row}] is {}, but `{}`[{row}] is {}; they select different tokens; give one of them",
                shown(&labels.value[row]),
                mask.name,
                u8::from(masked[at])
            )))
        }
    }
}

fn bit(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| match integer(value)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::IGNORED_TARGET as NO;
    use crate::data::warning::{Warning, Warnings};

    fn read(row: &Value) -> Result<Vec<(Vec<i32>, Vec<u8>)>> {
        let mut warnings = Warnings::default();
        let rows = Row::parse(row.to_string().as_bytes(), &mut warnings)?;
        assert_eq!(warnings, Warnings::default(), "{row}");
        let documents = rows.into_iter().map(|row| match row {
            Row::Tokens(tokens, supervised) => (tokens, supervised.into_iter().map(u8::from).collect()),
            other => panic!("{other:?}"),
        });
        Ok(documents.collect())
    }

    fn is(row: Value, documents: &[(&[i32], &[u8])]) {
        let documents: Vec<_> = documents.iter().map(|(a, b)| (a.to_vec(), b.to_vec())).collect();
        assert_eq!(read(&row).unwrap_or_else(|error| panic!("{row}: {error}")), documents, "{row}");
    }

    #[test]
    fn masks_and_labels_select_the_tokens_trained_on() {
        is(json!({"tokens": [1, 2]}), &[(&[1, 2], &[1, 1])]);
        is(json!({"input_ids": [1, 2, 3], "labels": [NO, 2, 3]}), &[(&[1, 2, 3], &[0, 1, 1])]);
        is(json!({"tokens": [1, 2, 3], "loss_mask": [0, true, 1]}), &[(&[1, 2, 3], &[0, 1, 1])]);
        // As pandas writes a column with gaps.
        is(
            json!({"input_ids": [1.0, 2.0], "labels": [-100.0, 2.0], "loss_mask": [0.0, 1.0]}),
            &[(&[1, 2], &[0, 1])],
        );
        // DataCollatorForLanguageModeling of TRL sets the labels of every mask's zeros to −100.
        let ids = json!([40, 41, 42, 43, 44]);
        is(
            json!({"input_ids": ids, "completion_mask": [0, 0, 0, 1, 1]}),
            &[(&[40, 41, 42, 43, 44], &[0, 0, 0, 1, 1])],
        );
        let (completion, assistant) = (json!([0, 0, 1, 1, 1]), json!([0, 1, 1, 0, 1]));
        let masks = json!({"input_ids": ids, "completion_mask": completion, "assistant_masks": assistant, "labels": ids});
        is(masks, &[(&[40, 41, 42, 43, 44], &[0, 0, 1, 0, 1])]);
    }

    /// A tokenizer of transformers pads on either side; its `position_ids` are
    /// `attention_mask.cumsum(-1) - 1`, and 1 (in older releases) or 0 at padding.
    #[test]
    fn padding_is_dropped_on_both_sides() {
        let document: (&[i32], &[u8]) = (&[7, 8, 9], &[1, 1, 1]);
        for (ids, mask, positions) in [
            (json!([7, 8, 9, 0, 0]), json!([1, 1, 1, 0, 0]), json!([0, 1, 2, 1, 1])),
            (json!([0, 0, 7, 8, 9]), json!([0, 0, 1, 1, 1]), json!([1, 1, 0, 1, 2])),
            (json!([0, 0, 7, 8, 9]), json!([false, false, true, true, true]), json!([0, 1, 2, 3, 4])),
            (json!([-1, 7, 8, 9, -1]), json!([0.0, 1.0, 1.0, 1.0, 0.0]), json!([0, 1, 2, 3, 0])),
        ] {
            is(json!({"input_ids": ids, "attention_mask": mask}), &[document]);
            is(json!({"input_ids": ids, "attention_mask": mask, "labels": ids}), &[document]);
            is(json!({"input_ids": ids, "attention_mask": mask, "position_ids": positions}), &[document]);
        }
        let labels = json!({"input_ids": [0, 7, 8], "attention_mask": [0, 1, 1], "labels": [NO, NO, 8]});
        is(labels, &[(&[7, 8], &[0, 1])]);
    }

    #[test]
    fn packed_rows_are_cut_into_their_documents() {
        let documents: [(&[i32], &[u8]); 2] = [(&[1, 2, 3], &[0, 1, 1]), (&[4, 5], &[0, 1])];
        let ids = json!([1, 2, 3, 4, 5]);
        // DataCollatorWithFlattening of transformers 5.24, for [1, 2, 3] and [4, 5].
        let labels = json!([NO, 2, 3, NO, 5]);
        is(json!({"input_ids": ids, "labels": labels, "position_ids": [0, 1, 2, 0, 1]}), &documents);
        is(json!({"input_ids": ids, "labels": labels, "cu_seqlens": [0, 3, 5]}), &documents);
        // pack_dataset of TRL
        is(json!({"input_ids": ids, "labels": labels, "seq_lengths": [3, 2]}), &documents);
        // V2BatchSamplerDataCollatorForSeq2Seq of axolotl, with padding
        let mask = json!([1, 1, 1, 2, 2, 0]);
        let padded = json!({"input_ids": [1, 2, 3, 4, 5, 0], "labels": [NO, 2, 3, NO, 5, NO], "attention_mask": mask,
            "position_ids": [0, 1, 2, 0, 1, 0]});
        is(padded, &documents);
        let lengths = json!({"input_ids": [1, 2, 3, 4, 5, 0], "attention_mask": [1, 1, 1, 1, 1, 0], "seq_lengths": [3, 2, 1],
            "loss_mask": [0, 1, 1, 0, 1, 1]});
        is(lengths, &documents);
        // Positions that count through, and from 1, cut nothing.
        for positions in [json!([0, 1, 2, 3, 4]), json!([1, 2, 3, 4, 5])] {
            is(json!({"input_ids": ids, "position_ids": positions}), &[(&[1, 2, 3, 4, 5], &[1; 5])]);
        }
        let from_one = json!({"input_ids": ids, "position_ids": [1, 2, 3, 1, 2], "labels": ids});
        is(from_one, &[(&[1, 2, 3], &[1, 1, 1]), (&[4, 5], &[1, 1])]);
        // Labels and mask may differ in a document's first token.
        let first =
            json!({"input_ids": ids, "seq_lengths": [3, 2], "labels": labels, "loss_mask": [1, 1, 1, 1, 1]});
        is(first, &documents);
    }

    /// Behind one token of padding, the second position of a count from 0 is 1, too.
    #[test]
    fn positions_behind_one_token_of_padding_count_from_0_or_1() {
        let mask = json!([0, 1, 1, 1, 1, 2, 2]);
        let documents: [(&[i32], &[u8]); 2] = [(&[1, 2, 3, 4], &[1; 4]), (&[5, 6], &[1, 1])];
        for positions in
            [json!([1, 1, 2, 3, 4, 1, 2]), json!([0, 1, 2, 3, 4, 0, 1]), json!([1, 0, 1, 2, 3, 0, 1])]
        {
            let row = json!({"input_ids": [0, 1, 2, 3, 4, 5, 6], "attention_mask": mask, "position_ids": positions});
            is(row, &documents);
        }
    }

    #[test]
    fn rows_in_which_nothing_is_trained_on_are_counted() {
        for row in [
            json!({"tokens": []}),
            json!({"tokens": [1, 2], "labels": [NO, NO]}),
            json!({"tokens": [1, 2], "labels": [1, NO]}),
            json!({"tokens": [1, 2, 3, 4], "loss_mask": [1, 0, 1, 0], "seq_lengths": [2, 2]}),
        ] {
            let mut warnings = Warnings::default();
            Row::parse(row.to_string().as_bytes(), &mut warnings).unwrap();
            assert_eq!(warnings.count(&Warning::NothingTrained), 1, "{row}");
        }
    }

    #[test]
    fn errors_name_the_field_the_token_and_its_value() {
        for (row, words) in [
            (json!({"tokens": [1, -2]}), &["`tokens`[1] is -2", "a token id"][..]),
            (json!({"tokens": [1, 4294967296_u64]}), &["`tokens`[1] is 4294967296"]),
            (json!({"tokens": [1.5]}), &["`tokens`[0] is 1.5"]),
            (
                json!({"tokens": [1], "labels": [2]}),
                &["`labels`[0] is 2", "the token at that index, 1, or -100"],
            ),
            (
                json!({"tokens": [1, 2], "loss_mask": [1]}),
                &["`loss_mask` has 1 value, but", "`tokens` has 2"],
            ),
            (json!({"tokens": [1], "loss_mask": [2]}), &["`loss_mask`[0] is 2; it must be 0 or 1"]),
            (json!({"tokens": [1], "attention_mask": [-1]}), &["`attention_mask`[0] is -1"]),
            (json!({"tokens": [1, 2], "attention_mask": [0, 0]}), &["`attention_mask` has only zeros"]),
            (
                json!({"tokens": [1, 2, 3], "attention_mask": [1, 0, 1]}),
                &["`attention_mask`[1] is 0 between", "give `labels` or `loss_mask`"],
            ),
            (json!({"tokens": [1, 2], "attention_mask": [1, 3]}), &["`attention_mask`[1] is 3 after 1"]),
            (json!({"tokens": [1, 2], "attention_mask": [2, 2]}), &["`attention_mask`[0] is 2 after 0"]),
            (json!({"tokens": [1, 2], "position_ids": [5, 6]}), &["`position_ids`[0] is 5"]),
            (
                json!({"tokens": [1, 2], "position_ids": [0, 2]}),
                &["`position_ids`[1] is 2 after 0", "restart at 0"],
            ),
            (json!({"tokens": [1, 2], "seq_lengths": [1, 2]}), &["`seq_lengths` is [1,2]", "the 2 tokens"]),
            (json!({"tokens": [1, 2], "cu_seqlens": [1, 2]}), &["`cu_seqlens` is [1,2]", "begins with 0"]),
            (json!({"tokens": [1, 2], "cu_seqlens": [0, 3, 2]}), &["`cu_seqlens` is [0,3,2]"]),
            (
                json!({"tokens": [1, 2, 3], "seq_lengths": [1, 2], "position_ids": [0, 1, 0]}),
                &["`position_ids` and `seq_lengths` disagree: document 1 begins at token 2 and at token 1"],
            ),
            (
                json!({"tokens": [1, 2, 3], "labels": [NO, NO, 3], "completion_mask": [0, 1, 1]}),
                &["`labels`[1] is -100, but `completion_mask`[1] is 1"],
            ),
            (
                json!({"tokens": [1, 2, 3], "labels": [NO, NO, 3], "loss_mask": [1, 0, 1], "assistant_masks": [1, 1, 0]}),
                &["`labels`[2] is 3, but `assistant_masks`[2] is 0"],
            ),
        ] {
            let error = read(&row).expect_err(&row.to_string());
            for word in words {
                assert!(error.message().contains(word), "{row}: no {word:?} in {error}");
            }
        }
    }
}
