//! Secrets, and the credentials that AUTH sends.

use std::fmt;

use crate::model::text::Printable;

/// The shortest secret, in bytes, that is looked for within other text. A shorter one is in much text by chance.
const SHORTEST: usize = 4;

/// A text that must not appear in logs, errors or debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, only to be sent to the server.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Truncates a server's `text` where it begins to show this secret. None if it does not show it.
    ///
    /// A server that does not know AUTH repeats its arguments, possibly truncated:
    /// `ERR unknown command 'AUTH', with args beginning with: …` (Redis's `server.c`, `commandCheckExistence`). The
    /// fixed texts of known error replies are kept, even if the secret is one of their words.
    pub fn cut_from(&self, text: &str) -> Option<String> {
        let head: String = self.0.chars().take(8).collect();
        if head.is_empty() {
            return None;
        }
        let known = crate::model::failure::known_prefix_length(text);
        let found = forms(&head).into_iter().chain(forms(&self.0)).filter_map(|form| {
            // A secret that begins within the fixed text and continues after it is redacted too.
            let from = (known + 1).saturating_sub(form.len());
            Some(from + text[from..].find(&form)?)
        });
        found.min().map(|at| format!("{}{REDACTED}", &text[..at]))
    }

    /// Whether `text` shows the whole of this secret, in one of the forms in which a server may repeat it. A line of a
    /// reply can show only a line of it.
    pub fn is_in(&self, text: &str) -> bool {
        let mut lines = self.0.split(['\r', '\n']).filter(|line| line.len() >= SHORTEST);
        let shown = |part: &str| forms(part).iter().any(|form| text.contains(form));
        text == self.0 || (self.0.len() >= SHORTEST && shown(&self.0)) || lines.any(shown)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Replaces a secret in output.
pub const REDACTED: &str = "[redacted]";

/// Whether a misplaced argument may be a URI with a password, or part of one.
pub fn might_be_secret(text: &str) -> bool {
    text.contains("://") || text.contains('@')
}

/// Takes in what a server says about itself: printable, of limited length, and without the password that it was sent.
///
/// Replies are redacted by the connection only where they are errors: other replies are data, which must not be
/// altered. So each of their fields that is kept goes through this.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intake<'a> {
    secret: Option<&'a Secret>,
}

impl<'a> Intake<'a> {
    pub const fn of(secret: Option<&'a Secret>) -> Self {
        Intake { secret }
    }

    /// Escapes `text` and truncates it at `limit` bytes. A text that shows the password is replaced by a whole.
    pub fn text(self, text: &str, limit: usize) -> Printable {
        Printable::new(if self.shows_secret(text) { REDACTED } else { text }, limit)
    }

    /// Whether `text` shows the password.
    pub fn shows_secret(self, text: &str) -> bool {
        self.secret.is_some_and(|secret| secret.is_in(text))
    }
}

/// How a server or a proxy may repeat a text: unchanged, with line ends as spaces (Redis's `addReplyErrorLength`), or
/// escaped as in JSON, Redis's `sdscatrepr` and most languages. We escape it as in Rust.
fn forms(text: &str) -> [String; 6] {
    let escaped = |marks: &[char], other: &dyn Fn(char) -> String| {
        text.chars().map(|c| if marks.contains(&c) { format!("\\{c}") } else { other(c) }).collect()
    };
    let bytes = |c: char| match c {
        ' '..='~' => c.to_string(),
        _ => c.to_string().bytes().map(|byte| format!("\\x{byte:02x}")).collect(),
    };

    let same = |c: char| c.to_string();
    [
        text.to_owned(),
        text.replace(['\r', '\n'], " "),
        escaped(&['\\', '"'], &same),
        escaped(&['\\', '"', '\''], &same),
        escaped(&['\\', '"'], &bytes),
        Printable::new(text, usize::MAX).to_string(),
    ]
}

/// What AUTH sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user. None for the server's `default` user.
    pub user: Option<String>,
    pub password: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_redacted() {
        let credentials = Credentials { user: Some("ops".into()), password: Secret::new("hunter2") };
        assert!(!format!("{credentials:?}{credentials:#?}").contains("hunter2"));
    }

    #[test]
    fn a_text_is_cut_where_it_shows_a_secret() {
        let secret = Secret::new("hünter2-s3cret");
        let cut = |secret: &Secret, text: &str| secret.cut_from(text).unwrap_or_else(|| text.to_owned());
        assert_eq!(cut(&secret, "ERR args: 'hünter2-s3cret' 'b'"), "ERR args: '[redacted]");
        assert_eq!(cut(&secret, "ERR args: 'hünter2-"), "ERR args: '[redacted]");
        assert_eq!(cut(&secret, r"ERR args: 'h\xc3\xbcnter2-s3cret'"), "ERR args: '[redacted]");
        assert_eq!(secret.cut_from("ERR syntax error"), None);
        assert_eq!(cut(&Secret::new("ab"), "ERR 'ab'"), "ERR '[redacted]");
        assert_eq!(Secret::new("").cut_from("ERR"), None);
        let marks = Secret::new(r#"a"b\c'd"#);
        for shown in [r#"a"b\c'd"#, r#"a\"b\\c'd"#, r#"a\"b\\c\'d"#] {
            assert_eq!(cut(&marks, &format!("ERR <{shown}>")), "ERR <[redacted]", "{shown}");
        }
        assert_eq!(cut(&Secret::new("a\nb"), "ERR 'a b'"), "ERR '[redacted]");
    }

    #[test]
    fn an_intake_hides_the_secret_in_every_form() {
        let secret = Secret::new("hunt\"er2\r\nline");
        let text = |text: &str| Intake::of(Some(&secret)).text(text, 64).to_string();
        for shown in ["7.0", "hunt", "er2"] {
            assert_eq!(text(shown), shown);
        }
        for form in [
            "hunt\"er2\r\nline",
            "hunt\"er2  line",
            "hunt\\\"er2\\r\\nline",
            "hunt\"er2",
            "line",
            "a\\\"hunt\\\"er2\\\"",
        ] {
            assert_eq!(text(&format!("7{form}.0")), REDACTED, "{form}");
        }
        // A short secret is in many texts by chance.
        let short = Secret::new("7.0");
        assert_eq!(Intake::of(Some(&short)).text("7.0.15", 64), "7.0.15");
        assert_eq!(Intake::of(Some(&short)).text("7.0", 64), REDACTED);
        assert!(!Secret::new("").is_in("text"));
    }

    #[test]
    fn known_error_texts_are_kept() {
        let known = "WRONGPASS invalid username-password pair or user is disabled.";
        for word in ["password", "invalid", "WRONGPASS", "disabled.", known] {
            assert_eq!(Secret::new(word).cut_from(known), None);
            let more = format!("{known} It was {word}!");
            assert_eq!(Secret::new(word).cut_from(&more), Some(format!("{known} It was [redacted]")));
        }
        // A secret that begins within the fixed text.
        let cut = Secret::new("password: x").cut_from("ERR invalid password: x");
        assert_eq!(cut.as_deref(), Some("ERR invalid [redacted]"));
    }
}
