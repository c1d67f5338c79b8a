//! Statements.

use super::{Generator, Schema, Table, TableKind};

const TYPES: [&str; 9] = [
    "INTEGER",
    "TEXT",
    "REAL",
    "BLOB",
    "NUMERIC",
    "",
    "VARCHAR(10)",
    "BOOLEAN",
    "DATETIME",
];
const STRICT_TYPES: [&str; 6] = ["INTEGER", "INT", "TEXT", "REAL", "BLOB", "ANY"];
const CONFLICTS: [&str; 5] = ["ABORT", "FAIL", "IGNORE", "REPLACE", "ROLLBACK"];
/// Tables that there may be at once.
const TABLES_MAX: usize = 9;

const ROWS: [TableKind; 3] = [TableKind::Plain, TableKind::Fts, TableKind::Rtree];

impl Generator {
    pub(super) fn statement(&mut self, schema: &Schema) -> String {
        let plain = schema.of(&[TableKind::Plain]).len();
        if plain < 2 {
            if schema.tables.is_empty() && self.random.percent(10) {
                // It holds if it comes before the first table.
                return format!("PRAGMA encoding = '{}'", self.word(&["UTF-8", "UTF-16le"]));
            }
            return self.create_table(schema);
        }
        match self.random.below(1000) {
            0..=24 if schema.tables.len() < TABLES_MAX => self.create_table(schema),
            25..=39 => self.create_index(schema),
            40..=49 => self.create_view(schema),
            50..=64 => self.create_trigger(schema),
            65..=74 => self.create_virtual(schema),
            75..=94 => self.alter(schema),
            95..=114 => self.drop_something(schema),
            115..=199 => self.transaction(schema),
            200..=239 => self.pragma(schema),
            240..=249 => self.maintenance(schema),
            250..=254 => super::Statement::REOPEN.to_owned(),
            255..=264 => self.nonsense(schema),
            265..=274 => self.fill(schema),
            275..=549 => self.insert(schema),
            550..=649 => self.update(schema),
            650..=699 => self.delete(schema),
            _ => {
                self.may_bind = true;
                self.select(schema, 2)
            }
        }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}_{}", self.names)
    }

    fn table<'a>(&mut self, schema: &'a Schema, kinds: &[TableKind]) -> &'a Table {
        let tables = schema.of(kinds);
        if tables.is_empty() {
            return self.random.of(&schema.tables);
        }
        tables[self.random.below(tables.len())]
    }

    fn create_table(&mut self, schema: &Schema) -> String {
        let name = self.name("t");
        let strict = self.random.percent(25);
        let without_rowid = self.random.percent(25);
        let count = 2 + self.random.below(5);
        let columns: Vec<String> = (0..count).map(|n| format!("c{n}")).collect();
        let mut definitions = Vec::new();
        let key = self.random.below(5);
        for (number, column) in columns.iter().enumerate() {
            let of_type = match (number, key) {
                (0, 0 | 1) => "INTEGER".to_owned(),
                _ if strict => self.word(&STRICT_TYPES),
                _ => self.word(&TYPES),
            };
            let mut definition = format!("{column} {of_type}");
            match (number, key) {
                (0, 0) => definition += " PRIMARY KEY",
                (0, 1) if !without_rowid => definition += " PRIMARY KEY AUTOINCREMENT",
                (0, 1 | 2) => definition += " PRIMARY KEY NOT NULL",
                _ => definition += &self.column_constraint(schema, &columns[..number]),
            }
            definitions.push(definition);
        }
        if key == 3 || (without_rowid && key > 2) {
            definitions.push("PRIMARY KEY (c0, c1)".to_owned());
        }
        if self.random.percent(20) {
            definitions.push(format!(
                "UNIQUE (c1, c0) ON CONFLICT {}",
                self.word(&CONFLICTS)
            ));
        }
        if self.random.percent(15) {
            let check = self.expression(&columns, 1);
            definitions.push(format!("CONSTRAINT odd CHECK ({check} IS NOT 5)"));
        }
        let options = match (strict, without_rowid) {
            (true, true) => " STRICT, WITHOUT ROWID",
            (true, false) => " STRICT",
            (false, true) => " WITHOUT ROWID",
            (false, false) => "",
        };
        let temporary = self.maybe(8, |_| "TEMP ".to_owned());
        format!(
            "CREATE {temporary}TABLE {name} ({}){options}",
            definitions.join(", ")
        )
    }

    fn column_constraint(&mut self, schema: &Schema, before: &[String]) -> String {
        match self.random.below(18) {
            0 => " NOT NULL".to_owned(),
            1 => format!(" NOT NULL ON CONFLICT {} DEFAULT 3", self.word(&CONFLICTS)),
            2 => " UNIQUE".to_owned(),
            3 => format!(" DEFAULT {}", self.default_value()),
            4 => " COLLATE NOCASE".to_owned(),
            5 => " CHECK (length(c0) < 8)".to_owned(),
            6 | 7 => {
                let from = self.expression(before, 2);
                let kind = self.word(&["VIRTUAL", "STORED"]);
                format!(" GENERATED ALWAYS AS ({from}) {kind}")
            }
            8..=10 => {
                let tables = schema.of(&[TableKind::Plain]);
                if tables.is_empty() {
                    return String::new();
                }
                let parent = *self.random.of(&tables);
                let column = &parent.columns[0];
                let action = self.word(&["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT"]);
                let update = self.word(&["CASCADE", "SET NULL", "NO ACTION"]);
                let deferred = self.maybe(50, |_| " DEFERRABLE INITIALLY DEFERRED".to_owned());
                format!(
                    " REFERENCES {} ({column}) ON DELETE {action} ON UPDATE {update}{deferred}",
                    parent.name
                )
            }
            _ => String::new(),
        }
    }

    fn default_value(&mut self) -> String {
        self.word(&["7", "'text'", "NULL", "(1 + 2)", "x'0102'", "-1.5", "TRUE"])
    }

    fn create_index(&mut self, schema: &Schema) -> String {
        let name = self.name("i");
        let unique = self.maybe(20, |_| "UNIQUE ".to_owned());
        let table = self.table(schema, &[TableKind::Plain]);
        let count = 1 + self.random.below(3);
        let columns = self.list(count, ", ", |own| {
            let what = match own.random.below(4) {
                0 => own.expression(&table.columns, 1),
                _ => own.random.of(&table.columns).clone(),
            };
            format!("{what}{}", own.maybe(30, |_| " DESC".to_owned()))
        });
        let only = self.maybe(30, |own| {
            format!(" WHERE {}", own.expression(&table.columns, 1))
        });
        format!(
            "CREATE {unique}INDEX {name} ON {} ({columns}){only}",
            table.name
        )
    }

    fn create_view(&mut self, schema: &Schema) -> String {
        let name = self.name("v");
        let select = self.select(schema, 1);
        format!("CREATE VIEW {name} AS {select}")
    }

    fn create_trigger(&mut self, schema: &Schema) -> String {
        let name = self.name("g");
        let table = self.table(schema, &[TableKind::Plain, TableKind::View]);
        let time = match table.kind {
            TableKind::View => "INSTEAD OF".to_owned(),
            _ => self.word(&["BEFORE", "AFTER"]),
        };
        let (event, row) =
            *self
                .random
                .of(&[("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")]);
        let seen: Vec<String> = table.columns.iter().map(|c| format!("{row}.{c}")).collect();
        let when = self.maybe(30, |own| format!(" WHEN {}", own.expression(&seen, 1)));
        let target = self.table(schema, &[TableKind::Plain]);
        let column = self.random.of(&target.columns).clone();
        let action = match self.random.below(5) {
            0 => {
                let value = self.expression(&seen, 1);
                format!(
                    "UPDATE {} SET {column} = {value} WHERE {column} = 3",
                    target.name
                )
            }
            1 => {
                let value = self.expression(&seen, 1);
                format!("DELETE FROM {} WHERE {column} = {value}", target.name)
            }
            2 => {
                let check = self.expression(&seen, 1);
                let kind = self.word(&["ABORT", "FAIL", "ROLLBACK", "IGNORE"]);
                let message = if kind == "IGNORE" { "" } else { ", 'refused'" };
                format!("SELECT raise({kind}{message}) WHERE {check} = 7")
            }
            _ => {
                let columns: Vec<String> = target.writable.clone();
                let values = self.list(columns.len(), ", ", |own| own.expression(&seen, 1));
                format!(
                    "INSERT OR {} INTO {} ({}) VALUES ({values})",
                    self.word(&CONFLICTS),
                    target.name,
                    columns.join(", ")
                )
            }
        };
        format!(
            "CREATE TRIGGER {name} {time} {event} ON {}{when} BEGIN {action}; END",
            table.name
        )
    }

    fn create_virtual(&mut self, schema: &Schema) -> String {
        if schema.of(&[TableKind::Fts, TableKind::Rtree]).len() > 2 {
            return self.select(schema, 1);
        }
        match self.random.below(2) {
            0 => {
                let name = self.name("ft").replace('_', "");
                let options = self.word(&["", ", prefix='2 3'", ", tokenize='porter ascii'"]);
                format!("CREATE VIRTUAL TABLE {name} USING fts5 (title, body{options})")
            }
            _ => {
                let name = self.name("rt").replace('_', "");
                format!("CREATE VIRTUAL TABLE {name} USING rtree (id, x0, x1, y0, y1, +note)")
            }
        }
    }

    fn alter(&mut self, schema: &Schema) -> String {
        let table = self.table(schema, &[TableKind::Plain]);
        let column = self.random.of(&table.columns).clone();
        let change = match self.random.below(5) {
            0 => format!("RENAME TO {}", self.name("t")),
            1 => format!("RENAME COLUMN {column} TO {}", self.name("c")),
            2 => format!("DROP COLUMN {column}"),
            _ => {
                let name = self.name("c");
                let kind = self.word(&["TEXT", "INTEGER", "ANY", "BLOB"]);
                let constraint = match self.random.below(4) {
                    0 => format!(" DEFAULT {}", self.default_value()),
                    1 => " NOT NULL DEFAULT 1".to_owned(),
                    2 => format!(" AS ({}) VIRTUAL", self.expression(&table.columns, 1)),
                    _ => String::new(),
                };
                format!("ADD COLUMN {name} {kind}{constraint}")
            }
        };
        format!("ALTER TABLE {} {change}", table.name)
    }

    fn drop_something(&mut self, schema: &Schema) -> String {
        match self.random.below(8) {
            0..=2 if !schema.triggers.is_empty() => {
                format!("DROP TRIGGER {}", self.random.of(&schema.triggers))
            }
            3 | 4 if !schema.indexes.is_empty() => {
                format!("DROP INDEX {}", self.random.of(&schema.indexes))
            }
            5 => "DROP TABLE IF EXISTS nowhere".to_owned(),
            _ => {
                let table = self.random.of(&schema.tables);
                let kind = match table.kind {
                    TableKind::View => "VIEW",
                    _ => "TABLE",
                };
                format!("DROP {kind} {}", table.name)
            }
        }
    }

    fn transaction(&mut self, schema: &Schema) -> String {
        if !schema.in_transaction && self.random.percent(80) {
            return self.word(&["BEGIN", "BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT a"]);
        }
        self.word(&[
            "COMMIT",
            "COMMIT",
            "END",
            "ROLLBACK",
            "SAVEPOINT a",
            "SAVEPOINT b",
            "SAVEPOINT b",
            "RELEASE a",
            "RELEASE b",
            "ROLLBACK TO a",
            "ROLLBACK TO b",
            "BEGIN",
        ])
    }

    fn pragma(&mut self, schema: &Schema) -> String {
        let table = self.random.of(&schema.tables).name.clone();
        match self.random.below(16) {
            0 | 1 => format!(
                "PRAGMA cache_size = {}",
                self.random.of(&[1, 2, 5, 10, -2000])
            ),
            2 => format!("PRAGMA foreign_keys = {}", self.word(&["ON", "ON", "OFF"])),
            3 => format!("PRAGMA recursive_triggers = {}", self.word(&["ON", "OFF"])),
            4 => format!("PRAGMA user_version = {}", self.random.below(100)),
            5 => format!("PRAGMA table_xinfo({table})"),
            6 => format!("PRAGMA index_list({table})"),
            7 => "PRAGMA foreign_key_check".to_owned(),
            8 => format!("PRAGMA foreign_key_list({table})"),
            9 => self.word(&["PRAGMA page_count", "PRAGMA freelist_count"]),
            10 => "PRAGMA defer_foreign_keys = ON".to_owned(),
            11 => format!(
                "PRAGMA reverse_unordered_selects = {}",
                self.word(&["ON", "OFF"])
            ),
            12 => format!("PRAGMA auto_vacuum = {}", self.random.below(3)),
            // The number of columns depends on whether a virtual table has been used.
            13 => "SELECT schema, name, type FROM pragma_table_list".to_owned(),
            14 => format!("PRAGMA case_sensitive_like = {}", self.word(&["ON", "OFF"])),
            _ => self.word(&["PRAGMA integrity_check", "PRAGMA quick_check"]),
        }
    }

    fn maintenance(&mut self, schema: &Schema) -> String {
        let table = self.random.of(&schema.tables).name.clone();
        match self.random.below(6) {
            0 | 1 => "VACUUM".to_owned(),
            2 => "ANALYZE".to_owned(),
            3 => format!("ANALYZE {table}"),
            4 => "REINDEX".to_owned(),
            _ => "PRAGMA incremental_vacuum".to_owned(),
        }
    }

    /// What SQLite refuses.
    fn nonsense(&mut self, schema: &Schema) -> String {
        let table = self.random.of(&schema.tables).name.clone();
        self.word(&[
            "SELEC 1",
            "SELECT * FROM nowhere",
            "SELECT nothing",
            "INSERT INTO nowhere VALUES (1)",
            "SELECT abs(1, 2)",
            "SELECT 1 +",
            "SELECT 'open",
            "SELECT abs(-9223372036854775807 - 1)",
            "SELECT json('[1,')",
            "SELECT zeroblob(1000000000)",
            "UPDATE sqlite_schema SET sql = NULL",
            "CREATE TABLE sqlite_own (a)",
            "SELECT count(*) OVER (ROWS -1 PRECEDING)",
            "SELECT CAST('x' AS INTEGER) / 0, 5 % 0, 1 << 70",
        ])
        .replace(
            "nowhere",
            if self.random.percent(20) {
                &table
            } else {
                "nowhere"
            },
        )
    }

    /// Many or large rows at once.
    fn fill(&mut self, schema: &Schema) -> String {
        let table = self.table(schema, &[TableKind::Plain]);
        let rows = [20, 100, 300][self.random.below(3)];
        let numbers = ["n.i".to_owned()];
        let values = self.list(table.writable.len(), ", ", |own| {
            match own.random.below(4) {
                0 => "n.i".to_owned(),
                1 => "printf('%.*c', n.i % 700, 'y')".to_owned(),
                2 => "n.i * 1000003 % 65537".to_owned(),
                _ => own.expression(&numbers, 2),
            }
        });
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT OR IGNORE INTO {} ({}) SELECT {values} FROM n",
            table.name,
            table.writable.join(", ")
        )
    }

    fn insert(&mut self, schema: &Schema) -> String {
        self.may_bind = true;
        let table = self.table(schema, &[ROWS[0], ROWS[0], ROWS[0], ROWS[1], ROWS[2]]);
        match table.kind {
            TableKind::Fts => return self.insert_text(table),
            TableKind::Rtree => return self.insert_box(table),
            TableKind::Plain | TableKind::View => {}
        }
        let verb = match self.random.below(10) {
            0 => "REPLACE".to_owned(),
            1..=3 => format!("INSERT OR {}", self.word(&CONFLICTS)),
            _ => "INSERT".to_owned(),
        };
        let columns: Vec<String> = table
            .writable
            .iter()
            .filter(|_| self.random.percent(90))
            .cloned()
            .collect();
        let into = format!("{verb} INTO {}", table.name);
        if columns.is_empty() || self.random.percent(3) {
            return format!("{into} DEFAULT VALUES");
        }
        let rows = match self.random.below(12) {
            0 => {
                let from = self.table(schema, &[TableKind::Plain, TableKind::View]);
                let values = self.list(columns.len(), ", ", |own| own.expression(&from.columns, 1));
                format!("SELECT {values} FROM {} WHERE true LIMIT 20", from.name)
            }
            chosen => {
                let count = if chosen < 3 {
                    1 + self.random.below(8)
                } else {
                    1
                };
                let rows = self.list(count, ", ", |own| {
                    let values = own.list(columns.len(), ", ", |own| match own.random.below(3) {
                        0 | 1 => own.key(),
                        _ => own.literal(),
                    });
                    format!("({values})")
                });
                format!("VALUES {rows}")
            }
        };
        let upsert = if verb == "INSERT" && self.random.percent(20) {
            let target = self.random.of(&columns).clone();
            let set = self.random.of(&columns).clone();
            let known: Vec<String> = columns
                .iter()
                .flat_map(|c| [c.clone(), format!("excluded.{c}")])
                .collect();
            match self.random.below(4) {
                0 => " ON CONFLICT DO NOTHING".to_owned(),
                1 => format!(
                    " ON CONFLICT DO UPDATE SET {set} = {}",
                    self.expression(&known, 1)
                ),
                _ => {
                    let value = self.expression(&known, 1);
                    let only =
                        self.maybe(30, |own| format!(" WHERE {}", own.expression(&known, 1)));
                    format!(" ON CONFLICT ({target}) DO UPDATE SET {set} = {value}{only}")
                }
            }
        } else {
            String::new()
        };
        let returning = self.returning(table);
        format!("{into} ({}) {rows}{upsert}{returning}", columns.join(", "))
    }

    fn returning(&mut self, table: &Table) -> String {
        self.maybe(15, |own| match own.random.below(2) {
            0 => " RETURNING *".to_owned(),
            _ => format!(" RETURNING {} AS given", own.expression(&table.columns, 1)),
        })
    }

    fn text(&mut self) -> String {
        let count = 1 + self.random.below(6);
        self.list(count, " ", |own| {
            own.word(&[
                "quick", "brown", "fox", "lazy", "dog", "running", "ran", "the", "Fox",
            ])
        })
    }

    fn insert_text(&mut self, table: &Table) -> String {
        let name = &table.name;
        let (title, body) = (self.text(), self.text());
        match self.random.below(8) {
            0 => format!("INSERT INTO {name} ({name}) VALUES ('optimize')"),
            1 => format!("INSERT INTO {name} ({name}) VALUES ('integrity-check')"),
            2 => format!(
                "INSERT OR REPLACE INTO {name} (rowid, title, body) VALUES ({}, '{title}', '{body}')",
                self.key()
            ),
            _ => format!("INSERT INTO {name} (title, body) VALUES ('{title}', '{body}')"),
        }
    }

    fn insert_box(&mut self, table: &Table) -> String {
        let (x, y) = (self.random.below(50), self.random.below(50));
        let (wide, high) = (self.random.below(10), self.random.below(10));
        let verb = self.word(&["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"]);
        // Sometimes the corners are the wrong way round.
        let left = if self.random.percent(5) { x + 20 } else { x };
        format!(
            "{verb} INTO {} VALUES ({}, {left}, {}, {y}, {}, '{}')",
            table.name,
            self.key(),
            x + wide,
            y + high,
            self.text()
        )
    }

    fn update(&mut self, schema: &Schema) -> String {
        self.may_bind = true;
        let table = self.table(schema, &[ROWS[0], ROWS[0], ROWS[0], ROWS[1], ROWS[2]]);
        let or = self.maybe(25, |own| format!("OR {} ", own.word(&CONFLICTS)));
        let Some(count) = table.writable.len().checked_sub(1) else {
            return self.delete(schema);
        };
        let first = self.random.below(count + 1);
        let set = table.writable[first].clone();
        let value = match table.kind {
            TableKind::Fts => format!("'{}'", self.text()),
            _ if self.random.percent(40) => format!("{set} + 1"),
            _ => self.expression(&table.columns, 2),
        };
        let from = self.maybe(10, |own| {
            let other = own.table(schema, &[TableKind::Plain]);
            format!(" FROM {} AS other", other.name)
        });
        let only = self.condition(table);
        let returning = match table.kind {
            TableKind::Plain => self.returning(table),
            _ => String::new(),
        };
        format!(
            "UPDATE {or}{} SET {set} = {value}{from}{only}{returning}",
            table.name
        )
    }

    fn delete(&mut self, schema: &Schema) -> String {
        self.may_bind = true;
        let table = self.table(schema, &ROWS);
        let only = match self.random.below(20) {
            0 => String::new(),
            _ => self.condition(table),
        };
        let returning = match table.kind {
            TableKind::Plain => self.returning(table),
            _ => String::new(),
        };
        format!("DELETE FROM {}{only}{returning}", table.name)
    }

    fn condition(&mut self, table: &Table) -> String {
        match table.kind {
            TableKind::Fts if self.random.percent(60) => {
                let word = self.word(&["quick", "fox OR dog", "ran*", "brown NOT lazy", "\"the"]);
                format!(" WHERE {} MATCH '{word}'", table.name)
            }
            TableKind::Rtree if self.random.percent(60) => {
                let (low, high) = (self.random.below(40), self.random.below(60));
                format!(" WHERE x0 >= {low} AND y1 <= {high}")
            }
            _ => match self.random.below(5) {
                0 | 1 => {
                    let column = self.random.of(&table.columns).clone();
                    let operator = self.word(&["=", "=", "<", ">"]);
                    format!(" WHERE {column} {operator} {}", self.key())
                }
                2 => {
                    let column = self.random.of(&table.columns).clone();
                    format!(" WHERE {column} IN ({}, {}, 'a')", self.key(), self.key())
                }
                _ => format!(" WHERE {}", self.expression(&table.columns, 2)),
            },
        }
    }

    fn select(&mut self, schema: &Schema, depth: usize) -> String {
        let table = self.random.of(&schema.tables);
        let columns = &table.columns;
        let name = &table.name;
        let only = self.maybe(60, |own| own.condition(table));
        match self.random.below(12) {
            0 => format!("SELECT * FROM {name}{only}"),
            1 => {
                let count = 1 + self.random.below(3);
                let order = self.list(count, ", ", |own| {
                    let by = own.expression(columns, 1);
                    // A whole number would be the position of a column.
                    format!(
                        "+{by}{}",
                        own.word(&["", " DESC", " NULLS LAST", " COLLATE NOCASE"])
                    )
                });
                let limit = self.random.below(20);
                let offset = self.random.below(5);
                format!("SELECT * FROM {name}{only} ORDER BY {order} LIMIT {limit} OFFSET {offset}")
            }
            2 => {
                let what = self.aggregate(columns);
                let more = self.aggregate(columns);
                format!("SELECT {what}, {more} FROM {name}{only}")
            }
            3 => {
                let by = self.expression(columns, 1);
                let what = self.aggregate(columns);
                let having = self.maybe(30, |own| format!(" HAVING {}", own.aggregate(columns)));
                format!("SELECT +{by}, {what} FROM {name}{only} GROUP BY +{by}{having}")
            }
            4 => {
                let what = self.window(columns);
                format!("SELECT {what} FROM {name}{only} LIMIT 50")
            }
            5 => {
                let other = self.random.of(&schema.tables);
                let (left, right) = (
                    self.random.of(columns).clone(),
                    self.random.of(&other.columns).clone(),
                );
                let join = self.word(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
                format!(
                    "SELECT * FROM {name} AS a {join} {} AS b ON a.{left} = b.{right} LIMIT 40",
                    other.name
                )
            }
            6 if depth > 0 => {
                let inner = self.select(schema, depth - 1);
                match self.random.below(3) {
                    0 => format!("SELECT count(*) FROM ({inner})"),
                    1 => format!("WITH q AS MATERIALIZED ({inner}) SELECT * FROM q LIMIT 10"),
                    _ => format!("SELECT EXISTS ({inner}), ({inner})"),
                }
            }
            7 => {
                let column = self.random.of(columns).clone();
                let compound = self.word(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
                let value = self.literal();
                format!("SELECT {column} FROM {name}{only} {compound} SELECT {value} ORDER BY 1")
            }
            8 => {
                let what = self.expression(columns, 2);
                format!("SELECT DISTINCT {what} FROM {name}{only}")
            }
            9 => {
                let column = self.random.of(columns).clone();
                format!(
                    "SELECT key, value, type, fullkey FROM {name}, \
                     json_tree(json_array({column}, json_object('k', quote({column})))) LIMIT 30"
                )
            }
            10 => format!("EXPLAIN QUERY PLAN SELECT * FROM {name}{only}"),
            _ => {
                let count = 1 + self.random.below(3);
                let what = self.list(count, ", ", |own| own.expression(columns, 3));
                format!("SELECT {what} FROM {name}{only}")
            }
        }
    }
}
