//! The eight lock slots of a wal-index (walformat.html, section 2.3), as atomics.

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicI32, Ordering};
use crate::sync::{spin_loop, yield_now};

/// The number of slots (`SQLITE_SHM_NLOCK`).
pub(crate) const SLOTS: usize = 8;
/// The slot that writers hold.
pub(crate) const WRITE: usize = 0;
/// The slot that a checkpoint holds.
pub(crate) const CHECKPOINT: usize = 1;
/// The slot that recovery holds.
pub(crate) const RECOVER: usize = 2;
/// The first of the five slots that readers hold: that of those who read the file alone.
pub(crate) const READ_FIRST: usize = 3;
/// The slots that readers hold.
pub(crate) const READ_SLOTS: std::ops::Range<usize> = READ_FIRST..SLOTS;

/// Nobody holds the slot. A positive value counts shared holders.
const FREE: i32 = 0;
/// One connection of SQLite holds the slot exclusively.
const HELD_BY_SQL: i32 = -1;
/// The VFS itself holds the slot, for a moment.
const HELD_BY_VFS: i32 = -2;
/// A backfill holds the slot, which may take long.
const HELD_BY_BACKFILL: i32 = -4;
/// A connection that begins to read holds WRITE, for the moment in which it reads the header again.
const HELD_FOR_HEADER: i32 = -3;

/// Busy rounds before a waiter gives its core away.
const SPINS_MAX: u32 = 64;

/// What a connection wants WRITE for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WritePurpose {
    /// A write transaction. It has a read slot already (`sqlite3WalBeginWriteTransaction`).
    Transaction,
    /// A second look at a header that was being changed at the first. No read slot is held yet
    /// (`walIndexReadHdr`).
    Header,
}

/// Who holds which slot of one epoch.
pub(crate) struct LockTable {
    slots: [AtomicI32; SLOTS],
}

impl LockTable {
    /// A table in which every slot is free.
    pub(crate) fn new() -> LockTable {
        LockTable {
            slots: [const { AtomicI32::new(FREE) }; SLOTS],
        }
    }

    /// The table of the epoch after this one: free but for what a backfill holds, which goes on.
    pub(crate) fn succeed(&self) -> LockTable {
        let next = LockTable::new();
        for (old, new) in self.slots.iter().zip(&next.slots) {
            if old.load(Ordering::Acquire) == HELD_BY_BACKFILL {
                new.store(HELD_BY_BACKFILL, Ordering::Release);
            }
        }
        next
    }

    /// Takes a share of a slot; false if somebody holds it exclusively. While the VFS holds it for
    /// a moment, this waits.
    pub(crate) fn take_shared(&self, slot: usize) -> bool {
        let slot = &self.slots[slot];
        let mut spins = 0;
        loop {
            let taken = slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |holders| {
                (holders >= FREE).then_some(holders + 1)
            });
            match taken {
                Ok(_) => return true,
                Err(HELD_BY_VFS) => back_off(&mut spins),
                Err(_) => return false,
            }
        }
    }

    /// Whether anybody has a share of a slot.
    pub(crate) fn is_shared(&self, slot: usize) -> bool {
        self.slots[slot].load(Ordering::Acquire) > FREE
    }

    /// Takes slots for the VFS until the guard is dropped, all or none of them; None if anybody
    /// holds one.
    pub(crate) fn take_for_vfs(
        &self,
        slots: impl IntoIterator<Item = usize>,
    ) -> Option<SlotsGuard<'_>> {
        let mut guard = SlotsGuard {
            table: self,
            taken: 0,
        };
        for slot in slots {
            self.take(slot, HELD_BY_VFS).ok()?;
            guard.taken |= 1 << slot;
        }
        Some(guard)
    }

    /// Takes a slot for a backfill; false if anybody holds it. It is given back as by SQL.
    pub(crate) fn take_for_backfill(&self, slot: usize) -> bool {
        self.take(slot, HELD_BY_BACKFILL).is_ok()
    }

    /// Gives a share back.
    pub(crate) fn release_shared(&self, slot: usize) {
        self.slots[slot].fetch_sub(1, Ordering::Release);
    }

    /// Takes a slot for one connection alone; false if anybody holds it.
    pub(crate) fn take_exclusive(&self, slot: usize) -> bool {
        self.take(slot, HELD_BY_SQL).is_ok()
    }

    /// Gives a slot back that was taken exclusively.
    pub(crate) fn release_exclusive(&self, slot: usize) {
        self.slots[slot].store(FREE, Ordering::Release);
    }

    /// Takes WRITE for one connection; false if a transaction of another one has it, or if
    /// `may_write` says no. While it is held only for a moment, by the VFS itself or by a reader
    /// that looks at the header again, this waits, and it takes the slot in the same step that
    /// finds it free: else a lone writer would be told now and then that the database is locked.
    pub(crate) fn take_write_for_sql(
        &self,
        may_write: impl Fn() -> bool,
        purpose: WritePurpose,
    ) -> bool {
        let holder = match purpose {
            WritePurpose::Transaction => HELD_BY_SQL,
            WritePurpose::Header => HELD_FOR_HEADER,
        };
        let mut spins = 0;
        loop {
            let found = match may_write() {
                true => match self.take(WRITE, holder) {
                    Ok(()) => return true,
                    Err(found) => found,
                },
                // Whoever only wants to look at the header comes here too. It asks again, and by
                // then the change is complete.
                false => self.slots[WRITE].load(Ordering::Acquire),
            };
            if found != HELD_BY_VFS && found != HELD_FOR_HEADER {
                return false;
            }
            back_off(&mut spins);
        }
    }

    /// Takes WRITE for the VFS until the guard is dropped. Waits for a connection that holds it
    /// until `patience` is over, then gives up.
    pub(crate) fn take_write_for_vfs(&self, patience: Duration) -> Option<SlotsGuard<'_>> {
        let mut spins = 0;
        let mut deadline = None;
        loop {
            if let Some(guard) = self.take_for_vfs([WRITE]) {
                return Some(guard);
            }
            // The clock is read only if there is something to wait for.
            let now = Instant::now();
            if now > *deadline.get_or_insert(now + patience) {
                return None;
            }
            back_off(&mut spins);
        }
    }

    fn take(&self, slot: usize, holder: i32) -> Result<(), i32> {
        let slot = &self.slots[slot];
        slot.compare_exchange(FREE, holder, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
    }
}

/// Slots in the hands of the VFS.
pub(crate) struct SlotsGuard<'table> {
    table: &'table LockTable,
    /// One bit each.
    taken: u8,
}

impl Drop for SlotsGuard<'_> {
    fn drop(&mut self) {
        for slot in (0..SLOTS).filter(|slot| self.taken & 1 << slot != 0) {
            self.table.release_exclusive(slot);
        }
    }
}

fn back_off(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_MAX {
        spin_loop();
    } else {
        // The holder may need this very core.
        yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_exclusive_holds_exclude_each_other() {
        let table = LockTable::new();
        assert!(table.take_shared(READ_FIRST) && table.take_shared(READ_FIRST));
        assert!(!table.take_exclusive(READ_FIRST));
        table.release_shared(READ_FIRST);
        assert!(!table.take_exclusive(READ_FIRST));
        table.release_shared(READ_FIRST);
        assert!(table.take_exclusive(READ_FIRST));
        assert!(!table.take_shared(READ_FIRST) && !table.take_exclusive(READ_FIRST));
        table.release_exclusive(READ_FIRST);
        assert!(table.take_shared(READ_FIRST));
    }

    /// Whether a transaction waits for WRITE while it is held, and gets it when it is given back.
    fn waits_until(table: &LockTable, release: impl FnOnce()) {
        std::thread::scope(|scope| {
            let waiter =
                scope.spawn(|| table.take_write_for_sql(|| true, WritePurpose::Transaction));
            std::thread::sleep(Duration::from_millis(5));
            assert!(!waiter.is_finished());
            release();
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn a_transaction_waits_for_whoever_holds_write_for_a_moment() {
        let table = LockTable::new();
        let guard = table.take_write_for_vfs(Duration::ZERO).unwrap();
        waits_until(&table, || drop(guard));
        let table = LockTable::new();
        assert!(table.take_write_for_sql(|| true, WritePurpose::Header));
        waits_until(&table, || table.release_exclusive(WRITE));
    }

    #[test]
    fn nobody_waits_for_a_transaction() {
        let table = LockTable::new();
        assert!(table.take_write_for_sql(|| true, WritePurpose::Transaction));
        assert!(!table.take_write_for_sql(|| true, WritePurpose::Transaction));
        assert!(!table.take_write_for_sql(|| true, WritePurpose::Header));
        assert!(table.take_write_for_vfs(Duration::from_millis(1)).is_none());
    }

    #[test]
    fn sql_never_gets_the_write_lock_of_a_follower() {
        let table = LockTable::new();
        for purpose in [WritePurpose::Transaction, WritePurpose::Header] {
            assert!(!table.take_write_for_sql(|| false, purpose));
        }
        assert!(table.take_write_for_vfs(Duration::ZERO).is_some());
    }
}
