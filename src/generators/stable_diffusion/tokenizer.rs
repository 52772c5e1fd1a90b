//! CLIP's tokenizer: converts a text to a fixed number of token ids.

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Replace, Sequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::hub::CheckpointError;

const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The words that CLIP encodes by byte pairs (`CLIPTokenizer` of transformers,
/// `simple_tokenizer.py` of openai/CLIP).
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The tokenizer of SD 1.x: `tokenizer/vocab.json` and `tokenizer/merges.txt`.
pub(super) struct ClipTokenizer {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
}

/// A text as input of the text encoder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    /// The start token, the text, and end tokens up to the length.
    pub ids: Vec<u32>,
    /// The truncated rest of the text, if it was too long.
    pub truncated: Option<String>,
}

impl ClipTokenizer {
    /// Reads the two files.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] and [`CheckpointError::Format`] naming the file.
    pub fn open(vocab: &Path, merges: &Path) -> Result<Self, CheckpointError> {
        let format = |message: String| CheckpointError::Format {
            path: vocab.to_owned(),
            message,
        };
        let text = |path: &Path| match path.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format("its path is not valid Unicode".to_owned())),
        };
        for path in [vocab, merges] {
            std::fs::File::open(path).map_err(|source| CheckpointError::Io {
                path: path.to_owned(),
                cause: source,
            })?;
        }
        let model = BPE::from_file(&text(vocab)?, &text(merges)?)
            .unk_token(END.to_owned())
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".to_owned())
            .build()
            .map_err(|error| format(format!("with its merges.txt: {error}")))?;
        let mut tokenizer = Tokenizer::new(model);
        // Looked up before `add_special_tokens`, which would add missing ones to the vocabulary.
        let id = |token: &str| {
            let found = tokenizer.token_to_id(token);
            found.ok_or_else(|| format(format!("it has no token \"{token}\"")))
        };
        let (begin, end) = (id(BEGIN)?, id(END)?);
        let build = |tokenizer: &mut Tokenizer| -> tokenizers::Result<()> {
            let spaces = ReplacePattern::Regex(r"\s+".to_owned());
            tokenizer.with_normalizer(Some(Sequence::new(vec![
                NormalizerWrapper::NFC(NFC),
                NormalizerWrapper::Replace(Replace::new(spaces, " ")?),
                NormalizerWrapper::Lowercase(Lowercase),
            ])))?;
            let words = SplitPattern::Regex(WORDS.to_owned());
            let words = Split::new(words, SplitDelimiterBehavior::Removed, true)?;
            tokenizer.with_pre_tokenizer(Some(PreSequence::new(vec![
                PreTokenizerWrapper::Split(words),
                PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false)),
            ])));
            let special = [BEGIN, END].map(|token| AddedToken::from(token, true));
            tokenizer.add_special_tokens(special)?;
            Ok(())
        };
        build(&mut tokenizer).map_err(|error| format(error.to_string()))?;
        Ok(Self {
            tokenizer,
            begin,
            end,
        })
    }

    /// Returns the number of tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Converts `text` to `length` ids and truncates it if it is longer.
    ///
    /// # Errors
    /// A text that cannot be tokenized.
    pub fn encode(&self, text: &str, length: usize) -> Result<Tokens, tokenizers::Error> {
        let encoding = self.tokenizer.encode(text, false)?;
        let ids = encoding.get_ids();
        let available = length.saturating_sub(2);
        let kept = ids.get(..available).unwrap_or(ids);
        let truncated = (ids.len() > available).then(|| {
            let first = encoding.get_offsets().get(available);
            let rest = first.and_then(|(from, _)| text.get(*from..));
            rest.unwrap_or_default().to_owned()
        });
        let mut padded = vec![self.begin];
        padded.extend(kept);
        padded.resize(length, self.end);
        Ok(Tokens {
            ids: padded,
            truncated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Writes a vocabulary of all bytes, inside and at the end of a word, the given tokens, and the
    /// special tokens.
    fn write(folder: &Path, words: &[&str], merges: &str) {
        let mut tokens: Vec<String> = ByteLevel::alphabet().iter().map(char::to_string).collect();
        tokens.sort();
        let ends: Vec<String> = tokens.iter().map(|token| format!("{token}</w>")).collect();
        tokens.extend(ends);
        tokens.extend(words.iter().map(|word| (*word).to_owned()));
        tokens.extend([BEGIN.to_owned(), END.to_owned()]);
        let vocab: BTreeMap<String, usize> = tokens.into_iter().zip(0..).collect();
        let vocab = serde_json::to_string(&vocab).unwrap();
        std::fs::write(folder.join("vocab.json"), vocab).unwrap();
        std::fs::write(
            folder.join("merges.txt"),
            format!("#version: 0.2\n{merges}"),
        )
        .unwrap();
    }

    fn open(folder: &Path) -> Result<ClipTokenizer, CheckpointError> {
        ClipTokenizer::open(&folder.join("vocab.json"), &folder.join("merges.txt"))
    }

    fn cats() -> (tempfile::TempDir, ClipTokenizer) {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            &["ca", "cat</w>", "'s</w>", "é</w>"],
            "c a\nca t</w>\n' s</w>\n",
        );
        let tokenizer = open(folder.path()).unwrap();
        (folder, tokenizer)
    }

    fn words(tokenizer: &ClipTokenizer, text: &str) -> Vec<String> {
        let tokens = tokenizer.encode(text, 12).unwrap();
        assert_eq!((tokens.ids[0], tokens.ids.len()), (tokenizer.begin, 12));
        let ids = tokens.ids.iter().skip(1);
        ids.take_while(|id| **id != tokenizer.end)
            .map(|id| tokenizer.tokenizer.id_to_token(*id).unwrap())
            .collect()
    }

    #[test]
    fn words_are_split_lowercased_and_paired() {
        let (_folder, tokenizer) = cats();
        assert_eq!(words(&tokenizer, "a cat"), ["a</w>", "cat</w>"]);
        assert_eq!(
            words(&tokenizer, "  A \n CAT's"),
            ["a</w>", "cat</w>", "'s</w>"]
        );
        assert_eq!(
            words(&tokenizer, "cat12!?"),
            ["cat</w>", "1</w>", "2</w>", "!", "?</w>"]
        );
        assert_eq!(words(&tokenizer, "cab"), ["ca", "b</w>"]);
        assert!(words(&tokenizer, "").is_empty());
        // Two bytes of UTF-8; both Unicode forms are normalized to the composed one.
        assert_eq!(words(&tokenizer, "é"), words(&tokenizer, "e\u{301}"));
        assert_eq!(words(&tokenizer, "é").len(), 2);
    }

    #[test]
    fn long_texts_are_truncated() {
        let (_folder, tokenizer) = cats();
        let fits = tokenizer.encode("a cat a cat", 6).unwrap();
        assert_eq!(fits.truncated, None);
        assert_eq!(fits.ids.last(), Some(&tokenizer.end));
        let long = tokenizer.encode("a cat a Cat!", 5).unwrap();
        assert_eq!(long.truncated.as_deref(), Some("Cat!"));
        assert_eq!((long.ids.len(), long.ids[4]), (5, tokenizer.end));
    }

    #[test]
    fn broken_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("vocab.json"), "{error}");
        write(folder.path(), &[], "c a\n");
        let error = open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("merges.txt"), "{error}");
        std::fs::write(folder.path().join("vocab.json"), "{\"a\": 0}").unwrap();
        std::fs::write(folder.path().join("merges.txt"), "#version: 0.2\n").unwrap();
        let error = open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("<|startoftext|>"), "{error}");
        std::fs::write(folder.path().join("vocab.json"), "nonsense").unwrap();
        assert!(open(folder.path()).is_err());
    }
}
