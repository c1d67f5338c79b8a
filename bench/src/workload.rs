//! The workloads: what a connection asks for, one operation after the other.
//!
//! This file and the others that it uses know no system, so that the program that drives hiqlite
//! is built from them too.

use crate::operation::{Operation, Order, OrderLine};

/// Bytes of a row that is inserted.
pub(crate) const ROW_BYTES: usize = 100;
/// Bytes of a value of a key.
pub(crate) const VALUE_BYTES: usize = 1024;
/// Keys that are there from the beginning, and that all connections read and write.
pub(crate) const KEYS: i64 = 10_000;
/// Districts, whose orders are numbered one after the other.
pub(crate) const DISTRICTS: i64 = 10;
/// Products that are ordered.
pub(crate) const PRODUCTS: i64 = 1_000;

/// Rows of the transaction of several rows.
const FEW_ROWS: usize = 10;
/// Rows of a transaction of the bulk load: as many parameters as a dqlite client sends in the
/// protocol's first layout.
pub(crate) const BULK_ROWS: usize = 250;
/// Lines of an order, the mean of TPC-C.
const ORDER_LINES: usize = 10;
const CUSTOMERS: i64 = 3_000;
const QUANTITY_MAX: i64 = 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// One row of 100 bytes.
    Insert,
    /// The value of 1 KiB of a random key.
    Upsert,
    /// The value of a random key, linearizable.
    Read,
    /// 95 % [`Workload::Read`], the rest [`Workload::Upsert`].
    MostlyRead,
    /// Half [`Workload::Read`], half [`Workload::Upsert`].
    HalfRead,
    /// Ten rows of 100 bytes in one transaction.
    FewRows,
    /// An order of ten lines in one transaction of 22 statements, like TPC-C's.
    NewOrder,
    /// 250 rows of 100 bytes by one statement.
    Bulk,
}

impl Workload {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Insert,
        Self::Upsert,
        Self::Read,
        Self::MostlyRead,
        Self::HalfRead,
        Self::FewRows,
        Self::NewOrder,
        Self::Bulk,
    ];

    /// What it is called in options and results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert-100",
            Self::Upsert => "upsert-1k",
            Self::Read => "read",
            Self::MostlyRead => "mix-95-5",
            Self::HalfRead => "mix-50-50",
            Self::FewRows => "ten-rows",
            Self::NewOrder => "new-order",
            Self::Bulk => "bulk-250",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|workload| workload.name() == name)
    }
}

/// The operations of one connection. No two connections write the same bytes, and the bytes do
/// not compress.
#[derive(Clone, Debug)]
pub(crate) struct Operations {
    workload: Workload,
    random: u64,
}

impl Operations {
    /// Those of connection `connection`.
    pub(crate) fn of_connection(workload: Workload, connection: usize) -> Self {
        Self {
            workload,
            random: (connection as u64) << 32,
        }
    }

    /// The next one.
    pub(crate) fn next_operation(&mut self) -> Operation {
        let read_percent = match self.workload {
            Workload::Insert => return Operation::Insert(self.bytes(ROW_BYTES)),
            Workload::FewRows => return Operation::InsertAll(self.rows(FEW_ROWS)),
            Workload::Bulk => return Operation::InsertMany(self.rows(BULK_ROWS)),
            Workload::NewOrder => return Operation::Order(self.order()),
            Workload::Upsert => 0,
            Workload::Read => 100,
            Workload::MostlyRead => 95,
            Workload::HalfRead => 50,
        };
        if self.below(100) < read_percent {
            Operation::Read(self.below(KEYS))
        } else {
            let key = self.below(KEYS);
            Operation::Upsert(key, self.bytes(VALUE_BYTES))
        }
    }

    fn order(&mut self) -> Order {
        let mut products: Vec<i64> = Vec::with_capacity(ORDER_LINES);
        while products.len() < ORDER_LINES {
            let product = 1 + self.below(PRODUCTS);
            if !products.contains(&product) {
                products.push(product);
            }
        }
        Order {
            district: 1 + self.below(DISTRICTS),
            customer: 1 + self.below(CUSTOMERS),
            lines: products
                .into_iter()
                .map(|product| OrderLine {
                    product,
                    quantity: 1 + self.below(QUANTITY_MAX),
                })
                .collect(),
        }
    }

    fn rows(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.bytes(ROW_BYTES)).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next_random().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    fn below(&mut self, bound: i64) -> i64 {
        (self.next_random() % bound.unsigned_abs()).cast_signed()
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_found_by_its_name() {
        for workload in Workload::ALL {
            assert_eq!(Workload::named(workload.name()), Some(workload));
        }
        assert_eq!(Workload::named("insert"), None);
    }

    #[test]
    fn rows_differ_and_have_100_bytes() {
        let mut own = Operations::of_connection(Workload::Insert, 0);
        let mut other = Operations::of_connection(Workload::Insert, 1);
        let rows = [
            own.next_operation(),
            own.next_operation(),
            other.next_operation(),
        ];
        for (at, row) in rows.iter().enumerate() {
            assert!(matches!(row, Operation::Insert(bytes) if bytes.len() == ROW_BYTES));
            assert!(!rows[..at].contains(row));
        }
    }

    #[test]
    fn a_mix_reads_as_often_as_its_name_says() {
        for (workload, expected) in [
            (Workload::Read, 1000..=1000),
            (Workload::MostlyRead, 930..=970),
            (Workload::HalfRead, 450..=550),
            (Workload::Upsert, 0..=0),
        ] {
            let mut operations = Operations::of_connection(workload, 7);
            let reads = (0..1000)
                .filter(|_| matches!(operations.next_operation(), Operation::Read(_)))
                .count();
            assert!(expected.contains(&reads), "{}: {reads}", workload.name());
        }
    }
}
