//! A text of words, hashed into classes: `ORIGIN.md` says which, and how.

/// The number of classes.
pub const VOCABULARY: usize = 65_536;

/// The Devil's Dictionary.
const TEXT: &str = include_str!("../devils_dictionary.txt");

/// The class of each word of the text, below [`VOCABULARY`].
pub fn text() -> Vec<u32> {
    words(TEXT).map(|word| hash(&word)).collect()
}

/// The longest runs of ASCII letters, digits and apostrophes, in lower case.
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '\''))
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
}

/// FNV-1a of 32 bits (Fowler, Noll and Vo), modulo [`VOCABULARY`].
pub fn hash(word: &str) -> u32 {
    let hash =
        word.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    hash % VOCABULARY as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_digits_and_apostrophes() {
        let found: Vec<String> = words("ABATIS, n.  The enemy's 2-edged").collect();
        assert_eq!(found, ["abatis", "n", "the", "enemy's", "2", "edged"]);
    }

    /// The test vectors of the draft "The FNV Non-Cryptographic Hash Algorithm": 0xe40c292c for "a", 0xbf9cf968 for
    /// "foobar".
    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash("a"), 0x292c);
        assert_eq!(hash("foobar"), 0xf968);
    }

    #[test]
    fn the_text_has_its_words() {
        let text = text();
        assert_eq!(text.len(), 60_993);
        let mut classes = text.clone();
        classes.sort_unstable();
        classes.dedup();
        assert_eq!(classes.len(), 10_310);
    }
}
