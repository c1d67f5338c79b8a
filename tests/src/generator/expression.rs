//! Literals and expressions.

use ringlite::Value;

use super::Generator;

const INTEGERS: [i64; 16] = [
    0,
    1,
    -1,
    2,
    3,
    5,
    7,
    10,
    42,
    100,
    127,
    -128,
    i32::MAX as i64,
    1 << 53,
    1 << 62,
    i64::MIN,
];
const REALS: [&str; 10] = [
    "0.0",
    "-0.0",
    "0.5",
    "-1.5",
    "3.0",
    "1e308",
    "-1e308",
    "1e-308",
    "9e999",
    "123456789.125",
];
const TEXTS: [&str; 14] = [
    "",
    "a",
    "A",
    "b",
    "abc",
    "ABC",
    "1",
    "1.0",
    " 7 ",
    "0x10",
    "\u{e4}\u{f6}",
    "\u{1F600}",
    "it's",
    "a%b_c",
];
const BLOBS: [&str; 5] = ["x''", "x'00'", "x'ff00ff'", "x'61'", "zeroblob(10)"];
const JSON: [&str; 5] = [
    "'{\"a\":1,\"b\":[1,2,{\"c\":null}]}'",
    "'[1,2.5,\"x\",true,null]'",
    "'{}'",
    "'not json'",
    "jsonb('{\"a\":{\"b\":7}}')",
];

/// Functions of one value that give the same everywhere.
const OF_ONE: [&str; 20] = [
    "abs",
    "hex",
    "length",
    "lower",
    "upper",
    "typeof",
    "quote",
    "unicode",
    "trim",
    "ltrim",
    "octet_length",
    "sign",
    "json_valid",
    "json_type",
    "json_array_length",
    "soundex",
    "json",
    "json_quote",
    "likely",
    "round",
];
const OF_TWO: [&str; 12] = [
    "coalesce",
    "ifnull",
    "nullif",
    "instr",
    "max",
    "min",
    "round",
    "substr",
    "trim",
    "glob",
    "like",
    "json_extract",
];
const AGGREGATES: [&str; 8] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "total",
    "group_concat",
    "json_group_array",
];
const OPERATORS: [&str; 26] = [
    "+",
    "-",
    "*",
    "/",
    "%",
    "||",
    "=",
    "<>",
    "<",
    ">",
    "<=",
    ">=",
    "AND",
    "OR",
    "IS",
    "IS NOT",
    "&",
    "|",
    "<<",
    ">>",
    "LIKE",
    "GLOB",
    "IS DISTINCT FROM",
    "->",
    "->>",
    "==",
];

impl Generator {
    /// A value that no row decides; a parameter, sometimes.
    pub(super) fn literal(&mut self) -> String {
        if self.may_bind && self.parameters.len() < 20 && self.random.percent(20) {
            let value = self.value();
            self.parameters.push(value);
            return format!("?{}", self.parameters.len());
        }
        match self.random.below(12) {
            0 => "NULL".to_owned(),
            1..=5 => {
                let number = *self.random.of(&INTEGERS);
                // The lexer knows no -9223372036854775808.
                match number {
                    i64::MIN => "(-9223372036854775807 - 1)".to_owned(),
                    number => number.to_string(),
                }
            }
            6 | 7 => self.word(&REALS),
            8 | 9 => format!("'{}'", self.random.of(&TEXTS).replace('\'', "''")),
            10 => self.word(&BLOBS),
            _ if self.random.percent(10) => {
                let length = [100, 1000, 5000, 20_000][self.random.below(4)];
                match self.random.below(2) {
                    0 => format!("zeroblob({length})"),
                    _ => format!("printf('%.*c', {length}, 'x')"),
                }
            }
            _ => self.random.below(1000).to_string(),
        }
    }

    fn value(&mut self) -> Value {
        match self.random.below(6) {
            0 => Value::Null,
            1 | 2 => Value::Integer(*self.random.of(&INTEGERS)),
            3 => Value::Real(self.random.below(1000) as f64 / 8.0 - 20.0),
            4 if self.random.percent(10) => Value::Text("a\0b".into()),
            4 => Value::Text((*self.random.of(&TEXTS)).into()),
            _ => {
                let length = [0, 1, 3, 40][self.random.below(4)];
                Value::Blob((0..length).map(|_| self.random.number() as u8).collect())
            }
        }
    }

    /// A small whole number, so that keys meet.
    pub(super) fn key(&mut self) -> String {
        self.random.below(30).to_string()
    }

    /// An expression over `columns`.
    pub(super) fn expression(&mut self, columns: &[String], depth: usize) -> String {
        let leaf = depth == 0 || self.random.percent(25);
        if leaf {
            if columns.is_empty() || self.random.percent(35) {
                return self.literal();
            }
            return self.random.of(columns).clone();
        }
        let one = self.expression(columns, depth - 1);
        match self.random.below(14) {
            0..=4 => {
                let operator = self.word(&OPERATORS);
                let two = self.expression(columns, depth - 1);
                format!("({one} {operator} {two})")
            }
            5 => format!("{}({one})", self.word(&OF_ONE)),
            6 => {
                let two = self.expression(columns, depth - 1);
                format!("{}({one}, {two})", self.word(&OF_TWO))
            }
            7 => {
                let class = self.word(&["INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC"]);
                format!("CAST({one} AS {class})")
            }
            8 => {
                let two = self.expression(columns, depth - 1);
                let three = self.literal();
                format!("CASE WHEN {one} THEN {two} ELSE {three} END")
            }
            9 => {
                let count = 1 + self.random.below(4);
                let values = self.list(count, ", ", Self::literal);
                format!("({one} IN ({values}))")
            }
            10 => {
                let (low, high) = (self.literal(), self.literal());
                format!("({one} BETWEEN {low} AND {high})")
            }
            11 => format!(
                "({one} COLLATE {})",
                self.word(&["NOCASE", "BINARY", "RTRIM"])
            ),
            12 => format!("({one} {})", self.word(&["IS NULL", "NOT NULL", "IS TRUE"])),
            _ => {
                let (json, path) = (
                    self.word(&JSON),
                    self.word(&["'$.a'", "'$.b[1]'", "'$'", "'$.a.b'", "'$['"]),
                );
                match self.random.below(4) {
                    0 => format!("json_extract({json}, {path})"),
                    1 => format!("json_set({json}, {path}, {one})"),
                    2 => format!("json_remove({json}, {path})"),
                    _ => format!("hex(jsonb_array({one}, {json}))"),
                }
            }
        }
    }

    /// An aggregate over `columns`.
    pub(super) fn aggregate(&mut self, columns: &[String]) -> String {
        let of = self.expression(columns, 1);
        let name = self.word(&AGGREGATES);
        match self.random.below(5) {
            0 => "count(*)".to_owned(),
            1 => format!("{name}(DISTINCT {of})"),
            2 => {
                let order = self.expression(columns, 1);
                format!("group_concat({of}, '|' ORDER BY {order})")
            }
            3 => {
                let only = self.expression(columns, 1);
                format!("{name}({of}) FILTER (WHERE {only})")
            }
            _ => format!("{name}({of})"),
        }
    }

    /// A window function over `columns`.
    pub(super) fn window(&mut self, columns: &[String]) -> String {
        let of = self.expression(columns, 1);
        let function = match self.random.below(9) {
            0 => "row_number()".to_owned(),
            1 => "rank()".to_owned(),
            2 => "dense_rank()".to_owned(),
            3 => "ntile(3)".to_owned(),
            4 => format!("lag({of})"),
            5 => format!("lead({of}, 2, 'none')"),
            6 => format!("first_value({of})"),
            7 => format!("nth_value({of}, 2)"),
            _ => format!("sum({of})"),
        };
        let partition = self.maybe(50, |own| {
            format!("PARTITION BY {} ", own.expression(columns, 1))
        });
        let order = self.expression(columns, 1);
        let frame = self.maybe(40, |own| {
            let unit = own.word(&["ROWS", "RANGE", "GROUPS"]);
            let bounds = own.word(&[
                "BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
                "BETWEEN 1 PRECEDING AND 1 FOLLOWING",
                "BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
                "BETWEEN 2 PRECEDING AND 1 PRECEDING EXCLUDE TIES",
            ]);
            format!(" {unit} {bounds}")
        });
        format!("{function} OVER ({partition}ORDER BY {order}{frame})")
    }
}
