//! Snapshots on their way: files are copied piece by piece while the leader writes them, and an end
//! that dies, or is cut off, leaves them where they are.

use ringlite::replica::{Input, SnapshotHead, SnapshotOutcome};

use super::Cluster;

/// A few pages of the usual size, so that backfills come in between.
const PIECE_BYTES: usize = 12_000;

/// A snapshot from one node to another one.
struct Copying {
    from: usize,
    to: usize,
    head: SnapshotHead,
    /// The files that have arrived as a whole, in the order of the head; `None` for one whose database
    /// was dropped. Of the one after them, its beginning.
    files: Vec<Option<Vec<u8>>>,
    piece: Vec<u8>,
    is_installing: bool,
}

/// All snapshots under way, and what has become of those before.
#[derive(Default)]
pub(crate) struct Copies {
    under_way: Vec<Copying>,
    pub(crate) installed: u64,
    pub(crate) interrupted: u64,
    pub(crate) gone: u64,
}

/// One unit of time.
pub(crate) fn carry_on(cluster: &mut Cluster) {
    for from in 0..cluster.nodes.len() {
        for (to, head) in std::mem::take(&mut cluster.nodes[from].snapshots) {
            cluster.note(("snapshot", from, to.0, head.base.index));
            cluster.copies.under_way.push(Copying {
                from,
                to: to.0 as usize - 1,
                head,
                files: Vec::new(),
                piece: Vec::new(),
                is_installing: false,
            });
        }
    }
    for mut copying in std::mem::take(&mut cluster.copies.under_way) {
        if advance(cluster, &mut copying) {
            cluster.copies.under_way.push(copying);
        }
    }
}

/// Goes one piece on; false once it has ended.
fn advance(cluster: &mut Cluster, copying: &mut Copying) -> bool {
    let Copying { from, to, head, .. } = copying;
    let (from, to, id) = (*from, *to, head.id);
    let Some(leader) = &mut cluster.nodes[from].process else {
        return false;
    };
    let Some(targets) = leader.replica.snapshot_targets(id) else {
        return false;
    };
    let tell = |leader: &mut super::node::Process, is_installed| {
        leader.inbox.push_back(Input::SnapshotSent {
            to: ringlite_raft::NodeId(to as u64 + 1),
            id,
            is_installed,
        });
        false
    };
    if cluster.random.per_mille(2) {
        // It takes too long.
        return tell(leader, false);
    }
    if cluster.nodes[to].process.is_none() {
        if cluster.random.per_mille(100) {
            // What had arrived was not durable.
            cluster.copies.interrupted += 1;
            copying.files.clear();
            copying.piece.clear();
        }
        copying.is_installing = false;
        return true;
    }
    if cluster.network.cut.contains(&(from, to)) || cluster.random.per_mille(400) {
        return true;
    }
    if copying.is_installing {
        let Some(outcome) = cluster.nodes[to].snapshot_outcome.take() else {
            return true;
        };
        cluster.note(("installed", to, outcome == SnapshotOutcome::Installed));
        cluster.copies.installed += u64::from(outcome == SnapshotOutcome::Installed);
        copying.is_installing = false;
        // A refusal is tried again.
        let leader = cluster.nodes[from].running();
        return outcome == SnapshotOutcome::Refused || tell(leader, true);
    }
    if !cluster.nodes[to]
        .running()
        .replica
        .wants_snapshot(&copying.head)
    {
        return tell(cluster.nodes[from].running(), true);
    }
    let place = u32::try_from(copying.files.len()).expect("a place");
    let Some((database, suffix)) = copying.head.file(place) else {
        let mut head = copying.head.clone();
        for (file, target) in head.databases.iter_mut().zip(targets) {
            file.target = file.target.max(target);
            let written = cluster.nodes[from].running().written.get(&file.id);
            assert!(
                written <= Some(&file.target),
                "the copy is ahead of its target"
            );
        }
        // The files of a database come one after the other.
        let files_each = copying.files.len() / head.databases.len().max(1);
        let is_whole = |files: &[Option<Vec<u8>>]| files.iter().all(Option::is_some);
        let mut present = copying.files.chunks(files_each.max(1)).map(is_whole);
        head.databases.retain(|_| present.next() == Some(true));
        let whole = copying.files.chunks(files_each.max(1));
        let files = whole.filter(|files| is_whole(files)).flatten();
        let files = files.flatten().cloned().collect();
        cluster.nodes[to].snapshot_arrived(head, files);
        copying.is_installing = true;
        return true;
    };
    match cluster.nodes[from].file_of(database.id, suffix) {
        None => {
            cluster.copies.gone += 1;
            copying.piece.clear();
            copying.files.push(None);
        }
        Some(file) => {
            let rest = file.get(copying.piece.len()..).unwrap_or_default();
            let piece = &rest[..rest.len().min(PIECE_BYTES)];
            copying.piece.extend(piece);
            if piece.is_empty() {
                copying.files.push(Some(std::mem::take(&mut copying.piece)));
            }
        }
    }
    true
}
