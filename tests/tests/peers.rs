//! Peers that are none, or that have a bug: the handshake lets nobody in who does not belong to the
//! cluster, and what a peer sends after it may cost an election, but no node and no row.

use ringlite_raft::{
    AppendResult, Configuration, Entry, EntryKind, LogIndex, Message, NodeId, Term,
};
use ringlite_tests::raw::{Answer, Hello, Random, RawConnection, SNAPSHOT, WELCOME};
use ringlite_tests::scene;
use ringlite_tests::victim::{DATABASE, Victim};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlite-under-test");

/// A leader, and the directory that its cluster lives in.
fn victim() -> (TempDir, Victim) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let victim = Victim::start(PROGRAM, directory.path());
    (directory, victim)
}

/// What a follower says first to the leader.
fn hello_to(victim: &Victim) -> Hello {
    let follower = victim.leader % 3 + 1;
    Hello::of(&victim.cluster.data_of(follower), victim.leader as u64)
}

#[test]
fn peers_that_are_none_are_not_let_in() {
    let (_directory, mut victim) = victim();
    let follower = victim.leader % 3 + 1;
    let good = Hello::of(&victim.cluster.data_of(follower), victim.leader as u64);
    for (name, hello) in [
        (
            "a wrong checksum",
            Hello {
                crc_flip: 1,
                ..good
            },
        ),
        (
            "another cluster",
            Hello {
                cluster: good.cluster ^ 1,
                ..good
            },
        ),
        ("no cluster", Hello { cluster: 0, ..good }),
        (
            "another incarnation",
            Hello {
                incarnation: good.incarnation ^ 1,
                ..good
            },
        ),
        (
            "another target",
            Hello {
                target: good.target + 1,
                ..good
            },
        ),
        (
            "a shard that there is not",
            Hello {
                shard: [1, 1],
                ..good
            },
        ),
        (
            "another number of shards",
            Hello {
                shard: [0, 2],
                ..good
            },
        ),
        (
            "a future version",
            Hello {
                versions: [9, 9],
                ..good
            },
        ),
        (
            "versions upside down",
            Hello {
                versions: [u16::MAX, 0],
                ..good
            },
        ),
    ] {
        let mut connection = RawConnection::open(&victim.address);
        let verdict = connection.greet(&hello);
        assert_ne!(verdict, Some(WELCOME), "{name}");
        assert_eq!(
            verdict.is_none(),
            hello.crc_flip != 0,
            "{name}: {verdict:?}"
        );
        assert_eq!(connection.hear_end(), Answer::Closed, "{name}");
        victim.serves_on(name);
    }
    victim.check();
}

#[test]
fn half_a_hello_only_ends_the_connection() {
    let (_directory, mut victim) = victim();
    let good = hello_to(&victim);
    for bytes in [1, 8, 9, 50, 95] {
        let mut connection = RawConnection::open(&victim.address);
        connection.send(&good.encode()[..bytes]);
        connection.end();
        assert_eq!(
            connection.hear_end(),
            Answer::Closed,
            "after {bytes} bytes of a hello"
        );
    }
    victim.serves_on("half a hello");
    victim.check();
}

#[test]
fn garbage_after_a_good_hello_only_ends_the_connection() {
    let (_directory, mut victim) = victim();
    let follower = victim.leader % 3 + 1;
    let hello = Hello::of(&victim.cluster.data_of(follower), victim.leader as u64);
    let mut random = Random::new(9);
    let mut heartbeat = Vec::new();
    let message = Message::HeartbeatReply {
        term: Term(1),
        round: 0,
    };
    ringlite_raft::encode(0, &message, &mut heartbeat);
    let mut flipped = heartbeat.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut long = heartbeat.clone();
    long[..4].fill(0xff);
    for bytes in [
        flipped,
        long,
        vec![0; 64],
        vec![0xff; 64],
        random.bytes(500),
    ] {
        let mut connection = RawConnection::open(&victim.address);
        assert_eq!(connection.greet(&hello), Some(WELCOME), "the hello is good");
        connection.send(&bytes);
        assert_eq!(connection.hear_end(), Answer::Closed, "after {bytes:02x?}");
        victim.serves_on("garbage from a peer");
    }
    // A frame that never comes to its end.
    let mut connection = RawConnection::open(&victim.address);
    assert_eq!(connection.greet(&hello), Some(WELCOME));
    connection.send(&heartbeat[..heartbeat.len() - 1]);
    victim.serves_on("half a frame");
    drop(connection);
    victim.check();
}

/// What a peer with a bug may say.
fn senseless_messages() -> Vec<Message> {
    let far = LogIndex(u64::MAX);
    let entry = Entry {
        term: Term(1),
        index: LogIndex(2),
        kind: EntryKind::Data,
        payload: vec![0xff; 32].into(),
    };
    vec![
        Message::HeartbeatReply {
            term: Term(1),
            round: u64::MAX,
        },
        Message::Heartbeat {
            term: Term(0),
            commit: far,
            matched_by_all: LogIndex(0),
            round: 1,
        },
        Message::AppendReply {
            term: Term(1),
            result: AppendResult::Accepted {
                match_index: LogIndex(0),
            },
        },
        Message::Append {
            term: Term(0),
            prev_index: LogIndex(1),
            prev_term: Term(1),
            commit: far,
            matched_by_all: LogIndex(0),
            entries: vec![entry],
        },
        Message::PreVote {
            term: Term(u64::MAX),
            last_index: far,
            last_term: Term(u64::MAX),
        },
        Message::PreVoteReply {
            term: Term(1),
            granted: true,
        },
        Message::VoteReply {
            term: Term(1),
            granted: true,
        },
        Message::Vote {
            term: Term(0),
            last_index: far,
            last_term: Term(u64::MAX),
            by_transfer: true,
        },
    ]
}

/// It may cost an election, but no node and no row.
#[test]
fn messages_of_a_peer_that_make_no_sense_stop_no_node() {
    let (_directory, mut victim) = victim();
    for message in senseless_messages() {
        let follower = victim.leader % 3 + 1;
        let hello = Hello::of(&victim.cluster.data_of(follower), victim.leader as u64);
        let mut connection = RawConnection::open(&victim.address);
        assert_eq!(connection.greet(&hello), Some(WELCOME));
        let mut bytes = Vec::new();
        ringlite_raft::encode(0, &message, &mut bytes);
        connection.send(&bytes);
        connection.end();
        connection.hear_end();
        let mut client = scene::open(&mut victim.cluster, DATABASE);
        let insert = "INSERT INTO t (b) VALUES (1)";
        client
            .execute(insert, &[])
            .unwrap_or_else(|error| panic!("{message:?}: {error}"));
        assert_eq!(victim.cluster.dead_node(), None, "after {message:?}");
        victim.address = client.address().to_owned();
        victim.leader = victim.cluster.id_at(&victim.address).unwrap();
    }
    scene::assert_identical(&mut victim.cluster, DATABASE);
}

#[test]
fn a_peer_at_the_end_of_all_terms_stops_no_node() {
    let (_directory, mut victim) = victim();
    let term = Term(u64::MAX);
    for message in [
        Message::Heartbeat {
            term,
            commit: LogIndex(0),
            matched_by_all: LogIndex(0),
            round: 1,
        },
        Message::Vote {
            term,
            last_index: LogIndex(0),
            last_term: Term(0),
            by_transfer: true,
        },
    ] {
        let sender = victim.leader % 3 + 1;
        let hello = Hello::of(&victim.cluster.data_of(sender), victim.leader as u64);
        let address = victim.cluster.addresses()[victim.leader - 1].clone();
        let mut connection = RawConnection::open(&address);
        assert_eq!(connection.greet(&hello), Some(WELCOME));
        let mut bytes = Vec::new();
        ringlite_raft::encode(0, &message, &mut bytes);
        connection.send(&bytes);
        std::thread::sleep(std::time::Duration::from_secs(1));
        let dead = victim.cluster.dead_node();
        let words = dead.map(|id| victim.cluster.last_words_of(id));
        assert_eq!(dead, None, "after {message:?}: {words:?}");
        drop(scene::connect(&mut victim.cluster));
    }
}

/// A frame on the connection of a snapshot; `docs/FORMAT.md` has the table.
fn snapshot_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend((body.len() as u32).to_le_bytes());
    frame.extend([0; 4]);
    frame.extend([1, 0, kind, 0, 0, 0, 0, 0]);
    frame.extend(body);
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// The offer of a snapshot far ahead of everything, of one database of this name.
fn snapshot_offer(name: &str) -> Vec<u8> {
    let voters = Configuration::of_voters([1, 2, 3].map(NodeId)).unwrap();
    let configuration = voters.encode();
    let mut body = Vec::new();
    for number in [1_u64 << 40, 1, 1 << 40, 1] {
        body.extend(number.to_le_bytes());
    }
    body.extend((configuration.len() as u32).to_le_bytes());
    body.extend(1_u32.to_le_bytes());
    body.extend(configuration);
    for number in [1_u64, 1 << 40, 1 << 40] {
        body.extend(number.to_le_bytes());
    }
    body.extend(4096_u32.to_le_bytes());
    body.extend((name.len() as u16).to_le_bytes());
    body.extend([0; 2]);
    body.extend(name.as_bytes());
    snapshot_frame(1, &body)
}

#[test]
fn what_is_no_whole_snapshot_replaces_nothing() {
    let (_directory, mut victim) = victim();
    let hello = Hello {
        purpose: SNAPSHOT,
        ..hello_to(&victim)
    };
    let offer = snapshot_offer("hostile");
    let mut flipped = offer.clone();
    flipped[100] ^= 1;
    let mut chunk = vec![0; 12];
    chunk.extend([7; 1000]);
    let chunk = snapshot_frame(2, &chunk);
    let end_of_first = snapshot_frame(3, &[0, 0, 0, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0]);
    let end = snapshot_frame(5, &(1_u64 << 40).to_le_bytes());
    let mut torn = chunk.clone();
    torn[500] ^= 4;
    for (name, frames) in [
        ("a flipped bit in the offer", vec![flipped]),
        ("a name that leads out", vec![snapshot_offer("../identity")]),
        ("no offer", vec![chunk.clone()]),
        ("an offer alone", vec![offer.clone()]),
        ("an end without files", vec![offer.clone(), end.clone()]),
        (
            "a chunk twice",
            vec![offer.clone(), chunk.clone(), chunk.clone()],
        ),
        ("a flipped bit in a chunk", vec![offer.clone(), torn]),
        ("a file missing", vec![offer, chunk, end_of_first, end]),
        ("random bytes", vec![Random::new(3).bytes(5_000)]),
    ] {
        let mut connection = RawConnection::open(&victim.address);
        assert_eq!(connection.greet(&hello), Some(WELCOME), "{name}");
        for frame in frames {
            connection.send(&frame);
        }
        connection.end();
        assert_eq!(connection.hear_end(), Answer::Closed, "after {name}");
        victim.serves_on(name);
    }
    victim.check();
    let identity = victim.cluster.data_of(victim.leader).join("identity");
    assert!(identity.exists());
}
