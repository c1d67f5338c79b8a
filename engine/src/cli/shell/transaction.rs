//! Whether a transaction is open, as far as the statements that have run tell.
//!
//! The protocol does not say it. Knowing it decides what a lost connection means: inside a
//! transaction everything is rolled back, outside a single statement is in doubt.

/// The transaction of one connection.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    is_open: bool,
    /// The open savepoints, the innermost last.
    savepoints: Vec<String>,
    /// Whether the first savepoint has opened it, and its release will commit it.
    by_savepoint: bool,
}

/// What a statement is, as far as its first word tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatementKind {
    /// It changes nothing, so that it may be run again.
    Read,
    /// It may commit a transaction.
    Commit,
    /// Anything else.
    Other,
}

impl StatementKind {
    pub(super) fn of(sql: &str) -> Self {
        // WITH and PRAGMA may write.
        match words(sql)
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase()
            .as_str()
        {
            "SELECT" | "VALUES" | "EXPLAIN" => Self::Read,
            "COMMIT" | "END" | "RELEASE" => Self::Commit,
            _ => Self::Other,
        }
    }
}

impl Transaction {
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// It was rolled back, with the connection or by the server.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// `sql` has run.
    pub(super) fn after_success(&mut self, sql: &str) {
        let mut words = words(sql);
        let first = words.next().unwrap_or_default().to_ascii_uppercase();
        let is_word = |word: &str, known: &str| word.eq_ignore_ascii_case(known);
        match first.as_str() {
            "BEGIN" => {
                *self = Self {
                    is_open: true,
                    ..Self::default()
                }
            }
            "COMMIT" | "END" => self.close(),
            "ROLLBACK" => {
                // ROLLBACK [TRANSACTION] [TO [SAVEPOINT] name]
                match words.find(|word| !is_word(word, "TRANSACTION")) {
                    Some(to) if is_word(to, "TO") => {
                        let name = words.find(|word| !is_word(word, "SAVEPOINT"));
                        if let Some(at) = self.position(name.unwrap_or_default()) {
                            self.savepoints.truncate(at + 1);
                        }
                    }
                    _ => self.close(),
                }
            }
            "SAVEPOINT" => {
                self.by_savepoint |= !self.is_open;
                self.is_open = true;
                self.savepoints
                    .push(words.next().unwrap_or_default().to_owned());
            }
            "RELEASE" => {
                let name = words.find(|word| !is_word(word, "SAVEPOINT"));
                if let Some(at) = self.position(name.unwrap_or_default()) {
                    self.savepoints.truncate(at);
                }
                if self.savepoints.is_empty() && self.by_savepoint {
                    self.close();
                }
            }
            _ => {}
        }
    }

    /// A statement has failed with SQLite's `message`, which may tell what we did not know: the
    /// server rolls back a transaction that was left idle, and so do some errors.
    pub(super) fn after_failure(&mut self, message: &str) {
        if message.contains("no transaction is active") {
            self.close();
        } else if message.contains("within a transaction") {
            self.is_open = true;
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.savepoints
            .iter()
            .rposition(|savepoint| savepoint.eq_ignore_ascii_case(name))
    }
}

/// The words and quoted names at the start of a statement, up to anything else.
fn words(sql: &str) -> impl Iterator<Item = &str> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        rest = skip_blanks(rest);
        let first = rest.chars().next()?;
        let word = match first {
            '"' | '\'' | '`' => rest[1..].split(first).next()?,
            '[' => rest[1..].split(']').next()?,
            _ => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
                let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
                rest = tail;
                return (!word.is_empty()).then_some(word);
            }
        };
        // One quote on each side; the second may be missing.
        rest = rest.get(word.len() + 2..).unwrap_or_default();
        Some(word)
    })
}

fn skip_blanks(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start();
        if let Some(comment) = sql.strip_prefix("--") {
            sql = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = sql.strip_prefix("/*") {
            sql = comment.split_once("*/").map_or("", |(_, rest)| rest);
        } else {
            return sql;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(statements: &[&str], is_open: bool) {
        let mut transaction = Transaction::default();
        for statement in statements {
            transaction.after_success(statement);
        }
        assert_eq!(transaction.is_open(), is_open, "{statements:?}");
    }

    #[test]
    fn begin_opens_and_commit_ends() {
        check(&["begin immediate;"], true);
        check(&["/* now */ BEGIN", "INSERT INTO t VALUES (1)"], true);
        check(&["BEGIN", "COMMIT"], false);
        check(&["BEGIN", "-- done\nend transaction"], false);
        check(&["BEGIN", "ROLLBACK TRANSACTION;"], false);
        check(&["EXPLAIN BEGIN"], false);
    }

    #[test]
    fn savepoints_nest() {
        check(&["SAVEPOINT a"], true);
        check(&["SAVEPOINT a", "SAVEPOINT b", "RELEASE b"], true);
        check(
            &["SAVEPOINT a", "SAVEPOINT b", "RELEASE SAVEPOINT \"A\";"],
            false,
        );
        check(&["SAVEPOINT a", "ROLLBACK TO a"], true);
        check(
            &[
                "SAVEPOINT a",
                "ROLLBACK TRANSACTION TO SAVEPOINT a",
                "RELEASE a",
            ],
            false,
        );
        check(&["BEGIN", "SAVEPOINT a", "RELEASE a"], true);
        check(
            &["SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a", "RELEASE b"],
            true,
        );
    }

    #[test]
    fn failures_correct_what_was_believed() {
        let mut transaction = Transaction::default();
        transaction.after_failure("cannot start a transaction within a transaction");
        assert!(transaction.is_open());
        transaction.after_failure("UNIQUE constraint failed: t.a");
        assert!(transaction.is_open());
        transaction.after_failure("cannot commit - no transaction is active");
        assert!(!transaction.is_open());
    }

    #[test]
    fn the_kind_of_a_statement() {
        let cases = [
            ("-- x\n select 1", StatementKind::Read),
            ("EXPLAIN QUERY PLAN DELETE FROM t", StatementKind::Read),
            ("WITH a AS (SELECT 1) DELETE FROM t", StatementKind::Other),
            ("PRAGMA user_version = 3", StatementKind::Other),
            ("release a", StatementKind::Commit),
            ("", StatementKind::Other),
            ("'ä", StatementKind::Other),
        ];
        for (sql, kind) in cases {
            assert_eq!(StatementKind::of(sql), kind, "{sql}");
        }
    }
}
