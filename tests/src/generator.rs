//! Generates SQL statements from a seed, for a schema as it is at that moment.
//!
//! Statements need not succeed: errors are compared like results. Nothing depends on the time, on
//! random numbers or on anything else that two runs may see differently.

mod expression;
mod schema;
mod statement;

use ringlite::Value;

pub use schema::{Schema, Table, TableKind};

/// A statement and the values of its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// One statement of SQL, or [`Statement::REOPEN`].
    pub sql: String,
    /// The parameters.
    pub parameters: Vec<Value>,
}

impl Statement {
    /// No SQL: the session is closed and opened again.
    pub const REOPEN: &'static str = "-- close the session and open it again";

    /// A statement without parameters.
    pub fn plain(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            parameters: Vec::new(),
        }
    }
}

/// A source of random numbers that a seed determines (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The source of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Whether something happens that happens in `percent` of all cases.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    ///
    /// # Panics
    /// If there are none.
    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Generates the statements of one case.
pub struct Generator {
    random: Random,
    /// Parameters of the statement in the making, and whether it may have any.
    parameters: Vec<Value>,
    may_bind: bool,
    names: usize,
}

impl Generator {
    /// The statements of this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            parameters: Vec::new(),
            may_bind: false,
            names: 0,
        }
    }

    /// The next statement, for a session in this state.
    pub fn next(&mut self, schema: &Schema) -> Statement {
        self.parameters.clear();
        self.may_bind = false;
        let sql = self.statement(schema);
        // An expression may have been made and left out again.
        let used = (0..self.parameters.len()).rfind(|n| sql.contains(&format!("?{}", n + 1)));
        self.parameters.truncate(used.map_or(0, |n| n + 1));
        Statement {
            sql,
            parameters: std::mem::take(&mut self.parameters),
        }
    }

    /// `what` this or that often, by percent.
    fn maybe(&mut self, percent: usize, what: impl FnOnce(&mut Self) -> String) -> String {
        if self.random.percent(percent) {
            what(self)
        } else {
            String::new()
        }
    }

    fn list(&mut self, count: usize, by: &str, each: impl FnMut(&mut Self) -> String) -> String {
        let mut each = each;
        let items: Vec<String> = (0..count).map(|_| each(self)).collect();
        items.join(by)
    }

    fn word(&mut self, choices: &[&str]) -> String {
        (*self.random.of(choices)).to_owned()
    }
}
