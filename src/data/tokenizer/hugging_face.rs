//! Reads `tokenizer.json` with the `tokenizers` crate.

use std::ops::Range;

use tokenizers::{
    AddedToken, ModelWrapper, NormalizedString, Normalizer, PostProcessorWrapper, Tokenizer as Inner,
};

use super::special::FolderTokens;
use super::{Encoded, limits, overlaps};
use crate::base::{Error, Result, Status, caught};

/// A tokenizer. Its post-processor is replaced by the tokens that it adds before and after a text,
/// since it trims the byte offsets from which the loss mask is made.
#[derive(Debug)]
pub struct HuggingFace {
    inner: Inner,
    before: Vec<i32>,
    after: Vec<i32>,
    /// V of the model; all tokens are below it.
    vocabulary_max: usize,
    /// One more than the largest token id of `tokenizer.json`.
    json_vocabulary: usize,
    has_dropout: bool,
}

impl HuggingFace {
    /// Parses a `tokenizer.json` and adds the tokens of the folder's other files, for a model with a
    /// vocabulary of `vocabulary_max` tokens.
    pub fn new(json: &[u8], tokens: &FolderTokens, vocabulary_max: usize) -> Result<HuggingFace> {
        limits::check(json)?;
        let bad = |error: tokenizers::Error| {
            Error::new(Status::BadFormat, format!("not a Hugging Face tokenizer: {error}"))
        };
        let mut inner = guarded(|| Inner::from_bytes(json)).map_err(bad)?;
        inner.with_truncation(None).map_err(bad)?.with_padding(None);
        let has_dropout = remove_dropout(&mut inner);
        let json_vocabulary = vocabulary(&inner);
        let missing = tokens.missing();
        let known = inner.get_added_tokens_decoder();
        let all =
            known.values().map(|token| &token.content).chain(missing.iter().map(|token| &token.content));
        limits::check_added(all.map(String::as_str))?;
        inner
            .add_tokens(missing.into_iter().map(|token| AddedToken {
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                normalized: token.normalized(),
                special: token.special,
                content: token.content,
            }))
            .map_err(bad)?;
        inner.set_encode_special_tokens(tokens.split_special);
        refuse_empty(&inner)?;
        let probe = guarded(|| inner.encode_fast("a", true)).map_err(bad)?;
        let ids: Vec<i32> = probe.get_ids().iter().map(|&id| id as i32).collect();
        let is_text = |&mask: &u32| mask == 0;
        let mask = probe.get_special_tokens_mask();
        let start = mask.iter().position(is_text).unwrap_or(ids.len());
        let end = mask.iter().rposition(is_text).map_or(ids.len(), |last| last + 1);
        let (before, after) = (ids[..start].to_vec(), ids[end..].to_vec());
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let tokenizer = HuggingFace { inner, before, after, vocabulary_max, json_vocabulary, has_dropout };
        for &token in tokenizer.before.iter().chain(&tokenizer.after) {
            tokenizer.check_vocabulary(token as u32)?;
        }
        Ok(tokenizer)
    }

    /// Returns the id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the text of a special token; `None` for others.
    pub fn special(&self, id: u32) -> Option<String> {
        let text = self.inner.id_to_token(id)?;
        self.inner.get_added_vocabulary().is_special_token(&text).then_some(text)
    }

    /// One more than the largest token id, added tokens included.
    pub fn vocabulary(&self) -> usize {
        vocabulary(&self.inner)
    }

    /// See [`super::Tokenizer::has_dropout`].
    pub fn has_dropout(&self) -> bool {
        self.has_dropout
    }

    /// Special tokens added before and after a text.
    pub fn added(&self) -> (&[i32], &[i32]) {
        (&self.before, &self.after)
    }

    /// Encodes a text; a token with a byte in one of the spans is supervised.
    pub fn encode(&self, text: &str, spans: &[Range<usize>]) -> Result<Encoded> {
        let encoding = guarded(|| self.inner.encode(text, false))
            .map_err(|error| Error::new(Status::BadFormat, format!("the tokenizer failed: {error}")))?;
        let mut encoded = Encoded::default();
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            self.check_vocabulary(id)?;
            encoded.tokens.push(id as i32);
            encoded.supervised.push(overlaps(spans, start..end));
        }
        Ok(encoded)
    }

    /// Decodes tokens, without special tokens.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(tokens, true)).map_err(|error| {
            Error::new(Status::BadFormat, format!("the tokenizer failed to decode: {error}"))
        })
    }

    /// Errors: the token is outside the model's vocabulary.
    pub fn check_vocabulary(&self, id: u32) -> Result<()> {
        if (id as usize) < self.vocabulary_max {
            return Ok(());
        }
        let text = self.inner.id_to_token(id).unwrap_or_default();
        let why = if (id as usize) < self.json_vocabulary {
            "tokenizer.json belongs to another model"
        } else {
            "tokenizer_config.json, special_tokens_map.json or added_tokens.json adds it to those of \
             tokenizer.json; remove it there, or resize the model's embedding"
        };
        Err(Error::new(
            Status::BadFormat,
            format!(
                "token {id} ({text:?}) is outside the model's vocabulary of {} tokens; {why}",
                self.vocabulary_max
            ),
        ))
    }
}

/// Calls the `tokenizers` crate. A panic becomes an error: tokenizers are untrusted input.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    caught(call).unwrap_or_else(|| Err("the tokenizers library panicked".into()))
}

/// Removes BPE dropout; returns true if there was any.
fn remove_dropout(inner: &mut Inner) -> bool {
    let ModelWrapper::BPE(model) = inner.get_model() else { return false };
    if model.dropout.is_none_or(|share| share == 0.0) {
        return false;
    }
    let mut model = model.clone();
    model.dropout = None;
    inner.with_model(model);
    true
}

/// Refuses an added token whose normalized text is empty: it would be found everywhere.
fn refuse_empty(inner: &Inner) -> Result<()> {
    let Some(normalizer) = inner.get_normalizer() else { return Ok(()) };
    let normalized = |token: &AddedToken| {
        let mut text = NormalizedString::from(token.content.as_str());
        guarded(|| normalizer.normalize(&mut text)).map(|()| text.get().to_owned())
    };
    let tokens = inner.get_added_tokens_decoder();
    let empty = tokens.iter().filter(|(_, token)| token.normalized && !token.content.is_empty());
    let mut empty = empty.filter(|(_, token)| normalized(token).is_ok_and(|text| text.is_empty()));
    match empty.next() {
        None => Ok(()),
        Some((id, token)) => Err(Error::new(
            Status::BadFormat,
            format!(
                "the added token {:?} ({id}) is empty after normalization, so that it would be found everywhere; set \
                 its `normalized` to false, or remove it",
                token.content
            ),
        )),
    }
}

/// One more than the largest token id, added tokens included.
fn vocabulary(inner: &Inner) -> usize {
    inner.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1)
}
