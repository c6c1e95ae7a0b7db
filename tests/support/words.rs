//! Command lines written as one string.

use std::ffi::{OsStr, OsString};

/// The words of a command line. A string is split like in a shell, so a value with a space needs quotes. A list of
/// words is passed unchanged, for bytes that are not UTF-8 and for values that would need many quotes.
pub trait Words {
    fn words(&self) -> Vec<OsString>;
}

impl Words for str {
    fn words(&self) -> Vec<OsString> {
        let words = shlex::split(self).unwrap_or_else(|| panic!("a quote is not closed in {self}"));
        words.into_iter().map(OsString::from).collect()
    }
}

impl Words for String {
    fn words(&self) -> Vec<OsString> {
        self.as_str().words()
    }
}

impl<T: AsRef<OsStr>> Words for [T] {
    fn words(&self) -> Vec<OsString> {
        self.iter().map(|word| word.as_ref().to_owned()).collect()
    }
}

impl<const N: usize> Words for [&str; N] {
    fn words(&self) -> Vec<OsString> {
        self.as_slice().words()
    }
}

impl<T: AsRef<OsStr>> Words for Vec<T> {
    fn words(&self) -> Vec<OsString> {
        self.as_slice().words()
    }
}
