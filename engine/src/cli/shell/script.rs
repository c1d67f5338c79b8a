//! Takes single statements out of SQL text that arrives line by line.
//!
//! SQLite decides where a statement ends: only it knows that the semicolons in the body of a
//! trigger end nothing. A small scanner saves it the work for the semicolons that stand in strings,
//! names and comments, so that a long literal is scanned once and not once per semicolon.

use std::ffi::CString;

/// SQL text on its way in.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// What has come since the last complete statement.
    pending: String,
    /// How much of it has been scanned.
    scanned: usize,
    context: Context,
    /// Whether it has more than blanks, comments and semicolons.
    has_content: bool,
}

/// Where the scanner is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Context {
    #[default]
    Sql,
    /// Up to this character. A doubled one inside leaves it and enters it again, to the same end.
    Quoted(char),
    LineComment,
    BlockComment,
}

impl Script {
    /// Adds text, which has to end in whole characters only, and returns the statements that it
    /// completes, without the blanks around them.
    pub(super) fn push(&mut self, text: &str) -> Vec<String> {
        self.pending.push_str(text);
        let mut complete = Vec::new();
        while let Some(end) = self.scan() {
            let rest = self.pending.split_off(end);
            let statement = std::mem::replace(&mut self.pending, rest);
            let had_content = std::mem::take(&mut self.has_content);
            self.scanned = 0;
            if had_content {
                complete.push(statement.trim().to_owned());
            }
        }
        complete
    }

    /// Whether a statement has begun.
    pub(super) fn is_pending(&self) -> bool {
        self.has_content || self.context != Context::Sql
    }

    /// Takes what is left at the end of the text: a statement needs no semicolon there.
    pub(super) fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(self);
        rest.is_pending_statement()
            .then(|| rest.pending.trim().to_owned())
    }

    /// Forgets what has come since the last complete statement.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn is_pending_statement(&self) -> bool {
        self.has_content
    }

    /// Scans what has not been scanned; the end of the statement, if it is there.
    fn scan(&mut self) -> Option<usize> {
        let bytes_before = self.scanned;
        let mut characters = self.pending[bytes_before..].char_indices().peekable();
        while let Some((offset, c)) = characters.next() {
            let at = bytes_before + offset;
            let next = characters.peek().map(|&(_, next)| next);
            match (self.context, c) {
                // A comment's two characters may come in two pieces of text: wait for the second.
                (Context::Sql, '-' | '/') | (Context::BlockComment, '*') if next.is_none() => {
                    self.scanned = at;
                    return None;
                }
                (Context::Sql, '-') if next == Some('-') => self.context = Context::LineComment,
                (Context::Sql, '/') if next == Some('*') => {
                    characters.next();
                    self.context = Context::BlockComment;
                }
                (Context::Sql, ';') => {
                    let end = at + 1;
                    if !self.has_content || is_complete(&self.pending[..end]) {
                        return Some(end);
                    }
                }
                (Context::Sql, _) => {
                    self.has_content |= !c.is_whitespace();
                    self.context = match c {
                        '\'' | '"' | '`' => Context::Quoted(c),
                        '[' => Context::Quoted(']'),
                        _ => Context::Sql,
                    };
                }
                (Context::Quoted(end), _) if c == end => self.context = Context::Sql,
                (Context::LineComment, '\n') => self.context = Context::Sql,
                (Context::BlockComment, '*') if next == Some('/') => {
                    characters.next();
                    self.context = Context::Sql;
                }
                _ => {}
            }
        }
        self.scanned = self.pending.len();
        None
    }
}

/// Whether SQLite takes the text for complete statements.
fn is_complete(sql: &str) -> bool {
    // With a NUL in it SQLite would not see the end; it will refuse the statement anyway.
    let Ok(sql) = CString::new(sql) else {
        return true;
    };
    // SAFETY: sqlite3_complete reads a NUL-terminated string, keeps nothing of it, and needs no
    // initialised library.
    unsafe { rusqlite::ffi::sqlite3_complete(sql.as_ptr()) == 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &str) -> Vec<String> {
        let mut script = Script::default();
        let mut statements = script.push(text);
        statements.extend(script.finish());
        statements
    }

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(split(text), expected, "at once: {text}");
        let mut script = Script::default();
        let mut statements = Vec::new();
        for c in text.chars() {
            statements.extend(script.push(c.encode_utf8(&mut [0; 4])));
        }
        statements.extend(script.finish());
        assert_eq!(statements, expected, "character by character: {text}");
    }

    const TRIGGER: &str = "CREATE TRIGGER t AFTER INSERT ON a BEGIN
        DELETE FROM b WHERE c = 'x;'; -- not yet;
        INSERT INTO b VALUES (1); END;";

    #[test]
    fn statements_end_at_semicolons() {
        check("SELECT 1; SELECT 2;", &["SELECT 1;", "SELECT 2;"]);
        check("SELECT 1;\n\nSELECT 2\n", &["SELECT 1;", "SELECT 2"]);
        check("SELECT 8 - 4 / 2 * 1;", &["SELECT 8 - 4 / 2 * 1;"]);
    }

    #[test]
    fn semicolons_in_strings_names_and_comments_end_nothing() {
        for statement in [
            "SELECT 'a;b''c;';",
            "SELECT \"a;\"\"b\";",
            "SELECT `a;`;",
            "SELECT [a;];",
            "SELECT 1 /* ; ' */ + 1;",
            "SELECT 1 -- ; '\n + 1;",
            "SELECT 'ä;€';",
        ] {
            check(&format!("{statement} {statement}"), &[statement, statement]);
        }
    }

    #[test]
    fn a_trigger_is_one_statement() {
        check(&format!("{TRIGGER}\nSELECT 1;"), &[TRIGGER, "SELECT 1;"]);
    }

    #[test]
    fn what_is_no_statement_is_left_out() {
        for text in [
            "",
            " \n",
            ";;\n;",
            "-- only this",
            "/* and this */;",
            "/* open",
            "-- a;\n",
        ] {
            check(text, &[]);
        }
        check(";SELECT 1;;", &["SELECT 1;"]);
    }

    #[test]
    fn what_is_open_at_the_end_is_left_to_the_server_to_refuse() {
        check("SELECT 'open; SELECT 2;", &["SELECT 'open; SELECT 2;"]);
        check(
            "CREATE TRIGGER t BEGIN SELECT 1;",
            &["CREATE TRIGGER t BEGIN SELECT 1;"],
        );
        check("SELECT 1 -", &["SELECT 1 -"]);
    }

    #[test]
    fn a_statement_is_pending_until_it_ends() {
        let mut script = Script::default();
        assert!(!script.is_pending());
        assert!(script.push("SELECT\n").is_empty());
        assert!(script.is_pending());
        assert_eq!(script.push("1;\n"), ["SELECT\n1;"]);
        assert!(!script.is_pending());
        script.push("SELECT 'x");
        script.clear();
        assert!(!script.is_pending());
        script.push("/* x");
        assert!(script.is_pending());
    }

    #[test]
    fn a_long_string_of_semicolons_is_scanned_once() {
        let statement = format!("SELECT '{}';", ";".repeat(1 << 20));
        assert_eq!(split(&statement), [statement]);
    }

    proptest! {
        /// No text is lost or invented, however it is cut into pieces.
        #[test]
        fn pieces_do_not_matter(text in "[a;'\"/*\\-\n \\[\\]ä]{0,60}", cut: prop::sample::Index) {
            let whole = split(&text);
            let boundaries: Vec<usize> =
                text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let (head, tail) = text.split_at(boundaries[cut.index(boundaries.len())]);
            let mut script = Script::default();
            let mut pieces = script.push(head);
            pieces.extend(script.push(tail));
            pieces.extend(script.finish());
            prop_assert_eq!(whole, pieces);
        }
    }
}
