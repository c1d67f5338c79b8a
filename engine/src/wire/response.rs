//! What a server answers.

use std::sync::Arc;

use super::{
    WORD_BYTES,
    body::{BodyReader, put_blob, put_i64, put_text, put_u32, put_u64},
    cluster::{ClusterFormat, MemberEntry, Role, ServerEntry},
    error::{FailureCode, WireError},
    frame::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, put_message},
    tuple::{put_row, row},
};
use crate::rows::{Column, ColumnKind, RowBatch};

/// The type of each response, as in its frame header.
mod kind {
    pub(super) const FAILURE: u8 = 0;
    pub(super) const SERVER: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const SERVERS: u8 = 3;
    pub(super) const DB: u8 = 4;
    pub(super) const STMT: u8 = 5;
    pub(super) const RESULT: u8 = 6;
    pub(super) const ROWS: u8 = 7;
    pub(super) const EMPTY: u8 = 8;
    pub(super) const FILES: u8 = 9;
    pub(super) const METADATA: u8 = 10;
    pub(super) const DIGEST: u8 = 0x80;
    pub(super) const STATUS: u8 = 0x81;
    pub(super) const BACKUP: u8 = 0x90;
    pub(super) const BACKUP_CHUNK: u8 = 0x91;
    pub(super) const DATABASES: u8 = 0x96;
    pub(super) const JOINED: u8 = 0x97;
}

/// Ends the last ROWS message of a result.
const ROWS_COMPLETE: [u8; WORD_BYTES] = [0xff; WORD_BYTES];
/// Ends a ROWS message that another follows. Neither mark can be a row: 14 and 15 are no types.
const ROWS_FOLLOW: [u8; WORD_BYTES] = [0xee; WORD_BYTES];

/// One file of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpFile {
    /// Its name.
    pub name: String,
    /// Its content, in whole words of 8 bytes.
    pub bytes: Vec<u8>,
}

/// A database of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseEntry {
    /// Its name.
    pub name: String,
    /// Its id: the index of the log at which it came into being.
    pub id: u64,
    /// The size of its pages, in bytes.
    pub page_size: u64,
    /// Its length in pages.
    pub page_count: u64,
}

/// A response. The numbers are the types of the frames.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Response {
    /// 0: the request failed.
    Failure {
        /// An extended SQLite result code, or a [`FailureCode`].
        code: u64,
        /// What happened.
        message: String,
    },
    /// 1: the leader.
    Server {
        /// Its id, 0 if not known.
        id: u64,
        /// Its address, empty if not known.
        address: String,
    },
    /// 1, for a client that greeted with [`super::PROTOCOL_LEGACY`]: the leader's address.
    ///
    /// It cannot be told apart from [`Response::Server`] on the wire: decoding never yields it.
    LegacyServer {
        /// Its address, empty if not known.
        address: String,
    },
    /// 2: the answer to CLIENT.
    Welcome {
        /// How often a client should send a sign of life. Nothing enforces it.
        heartbeat_timeout_ms: u64,
    },
    /// 3: the members of the cluster.
    Servers {
        /// The layout that was asked for.
        format: ClusterFormat,
        /// The members.
        servers: Vec<ServerEntry>,
    },
    /// 4: a database is open.
    Database {
        /// Its id, 0.
        id: u32,
    },
    /// 5: a statement is prepared.
    Statement {
        /// The database's id, 0.
        database: u32,
        /// The statement's id.
        id: u32,
        /// How many parameters it has.
        parameters: u64,
        /// Where the next statement starts, as an offset in the text. Only in schema 1.
        tail: Option<u64>,
    },
    /// 6: statements without rows have run.
    Result {
        /// The rowid that was inserted last on this connection.
        last_insert_rowid: i64,
        /// How many rows the last statement that changes rows has changed.
        changes: u64,
    },
    /// 7: rows. The server sends the following batches on its own accord.
    Rows(RowBatch),
    /// 8: done.
    Empty,
    /// 9: a database, as files.
    Files(Vec<DumpFile>),
    /// 10: what DESCRIBE asks for.
    Metadata {
        /// The failure domain of the node.
        failure_domain: u64,
        /// Its weight.
        weight: u64,
    },
    /// 0x80, ours: the digest of this node's copy of a database.
    Digest {
        /// The index that the copy is at.
        applied: u64,
        /// Its length in pages.
        page_count: u64,
        /// The length of a page, in bytes.
        page_size: u64,
        /// The digest, in hexadecimal. Equal copies have equal digests.
        digest: String,
    },
    /// 0x81, ours: the state of this node.
    Status {
        /// A JSON object.
        json: String,
    },
    /// 0x90, ours: the copy of a database that follows in BACKUP_CHUNK messages.
    Backup {
        /// The index that the copy is at.
        applied: u64,
        /// The length of a page, in bytes.
        page_size: u64,
        /// Its length in pages.
        page_count: u64,
    },
    /// 0x91, ours: the next bytes of the copy.
    BackupChunk {
        /// Whole pages.
        bytes: Vec<u8>,
    },
    /// 0x96, ours: the databases of this node.
    Databases(Vec<DatabaseEntry>),
    /// 0x97, ours: the node that asked is a member.
    Joined {
        /// The id of the cluster.
        cluster: u128,
        /// The id of the node.
        id: u64,
        /// How many shards each node has.
        shards: u64,
        /// All members, itself included.
        members: Vec<MemberEntry>,
    },
}

impl From<&WireError> for Response {
    fn from(error: &WireError) -> Self {
        Self::Failure {
            code: error.failure_code(),
            message: error.failure_message(),
        }
    }
}

impl Response {
    /// A FAILURE with a code that is not SQLite's.
    pub fn failure(code: FailureCode, message: impl Into<String>) -> Self {
        Self::Failure {
            code: code as u64,
            message: message.into(),
        }
    }

    /// Appends the whole message, frame and body, to `out`.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] above [`FRAME_BYTES_MAX`] and [`WireError::UnalignedFile`]; `out` is
    /// then as it was, and [`Response::from`] the error can be sent instead.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        match self {
            Self::Rows(batch) => encode_rows(batch, out),
            _ => put_message(out, self.kind(), FRAME_BYTES_MAX, |out| self.put_body(out)),
        }
    }

    /// The name of its type, as the protocol's description calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Failure { .. } => "FAILURE",
            Self::Server { .. } | Self::LegacyServer { .. } => "SERVER",
            Self::Welcome { .. } => "WELCOME",
            Self::Servers { .. } => "SERVERS",
            Self::Database { .. } => "DB",
            Self::Statement { .. } => "STMT",
            Self::Result { .. } => "RESULT",
            Self::Rows(_) => "ROWS",
            Self::Empty => "EMPTY",
            Self::Files(_) => "FILES",
            Self::Metadata { .. } => "METADATA",
            Self::Digest { .. } => "DIGEST",
            Self::Status { .. } => "STATUS",
            Self::Backup { .. } => "BACKUP",
            Self::BackupChunk { .. } => "BACKUP_CHUNK",
            Self::Databases(_) => "DATABASES",
            Self::Joined { .. } => "JOINED",
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Failure { .. } => kind::FAILURE,
            Self::Server { .. } | Self::LegacyServer { .. } => kind::SERVER,
            Self::Welcome { .. } => kind::WELCOME,
            Self::Servers { .. } => kind::SERVERS,
            Self::Database { .. } => kind::DB,
            Self::Statement { .. } => kind::STMT,
            Self::Result { .. } => kind::RESULT,
            Self::Rows(_) => kind::ROWS,
            Self::Empty => kind::EMPTY,
            Self::Files(_) => kind::FILES,
            Self::Metadata { .. } => kind::METADATA,
            Self::Digest { .. } => kind::DIGEST,
            Self::Status { .. } => kind::STATUS,
            Self::Backup { .. } => kind::BACKUP,
            Self::BackupChunk { .. } => kind::BACKUP_CHUNK,
            Self::Databases(_) => kind::DATABASES,
            Self::Joined { .. } => kind::JOINED,
        }
    }

    /// Writes the body and returns its schema.
    fn put_body(&self, out: &mut Vec<u8>) -> Result<u8, WireError> {
        match self {
            Self::Failure { code, message } => {
                put_u64(out, *code);
                put_text(out, message);
            }
            Self::Server { id, address } => {
                put_u64(out, *id);
                put_text(out, address);
            }
            Self::LegacyServer { address } => put_text(out, address),
            Self::Welcome {
                heartbeat_timeout_ms,
            } => put_u64(out, *heartbeat_timeout_ms),
            Self::Servers { format, servers } => put_servers(out, *format, servers),
            Self::Database { id } => {
                put_u32(out, *id);
                put_u32(out, 0);
            }
            Self::Statement {
                database,
                id,
                parameters,
                tail,
            } => {
                put_u32(out, *database);
                put_u32(out, *id);
                put_u64(out, *parameters);
                if let Some(offset) = tail {
                    put_u64(out, *offset);
                    return Ok(1);
                }
            }
            Self::Result {
                last_insert_rowid,
                changes,
            } => {
                put_i64(out, *last_insert_rowid);
                put_u64(out, *changes);
            }
            Self::Rows(batch) => put_rows(out, batch),
            Self::Empty => put_u64(out, 0),
            Self::Files(files) => put_files(out, files)?,
            Self::Metadata {
                failure_domain,
                weight,
            } => {
                put_u64(out, *failure_domain);
                put_u64(out, *weight);
            }
            Self::Digest {
                applied,
                page_count,
                page_size,
                digest,
            } => {
                put_u64(out, *applied);
                put_u64(out, *page_count);
                put_u64(out, *page_size);
                put_text(out, digest);
            }
            Self::Status { json } => put_text(out, json),
            Self::Backup {
                applied,
                page_size,
                page_count,
            } => {
                put_u64(out, *applied);
                put_u64(out, *page_size);
                put_u64(out, *page_count);
            }
            Self::BackupChunk { bytes } => put_blob(out, bytes),
            Self::Databases(databases) => put_databases(out, databases),
            Self::Joined {
                cluster,
                id,
                shards,
                members,
            } => {
                put_u64(out, *cluster as u64);
                put_u64(out, (*cluster >> 64) as u64);
                put_u64(out, *id);
                put_u64(out, *shards);
                put_u64(out, members.len() as u64);
                for member in members {
                    put_u64(out, member.id);
                    put_u64(out, member.incarnation);
                    put_text(out, &member.address);
                }
            }
        }
        Ok(0)
    }

    /// Reads the body of a response whose frame has this type and schema.
    ///
    /// SERVERS is read with roles, as [`Request::Cluster`](super::Request::Cluster) asks for them
    /// by default; for the other layout see [`decode_servers`]. Columns of rows have the kind
    /// [`ColumnKind::Plain`], and values the storage class that their type stands for.
    ///
    /// # Errors
    /// The body breaks the protocol: the connection is of no use any more.
    pub fn decode(kind: u8, schema: u8, body: &[u8]) -> Result<Self, WireError> {
        let reader = &mut BodyReader::new(body);
        Ok(match kind {
            kind::FAILURE => {
                let code = reader.u64("the failure code")?;
                // A message that is not UTF-8 must not hide the failure.
                let message = reader.text_bytes("the failure message")?;
                Self::Failure {
                    code,
                    message: String::from_utf8_lossy(message).into_owned(),
                }
            }
            kind::SERVER => Self::Server {
                id: reader.u64("the id of the leader")?,
                address: reader.text("the address of the leader")?.to_owned(),
            },
            kind::WELCOME => Self::Welcome {
                heartbeat_timeout_ms: reader.u64("the heartbeat timeout")?,
            },
            kind::SERVERS => Self::Servers {
                format: ClusterFormat::WithRoles,
                servers: decode_servers(ClusterFormat::WithRoles, body)?,
            },
            kind::DB => {
                let id = reader.u32("the id of the database")?;
                reader.u32("the padding")?;
                Self::Database { id }
            }
            kind::STMT => Self::Statement {
                database: reader.u32("the id of the database")?,
                id: reader.u32("the id of the statement")?,
                parameters: reader.u64("the number of parameters")?,
                tail: if schema == 0 {
                    None
                } else {
                    Some(reader.u64("the tail offset")?)
                },
            },
            kind::RESULT => Self::Result {
                last_insert_rowid: reader.i64("the last rowid")?,
                changes: reader.u64("the number of changes")?,
            },
            kind::ROWS => Self::Rows(rows(reader)?),
            kind::EMPTY => {
                reader.u64("the unused word")?;
                Self::Empty
            }
            kind::FILES => Self::Files(files(reader)?),
            kind::METADATA => Self::Metadata {
                failure_domain: reader.u64("the failure domain")?,
                weight: reader.u64("the weight")?,
            },
            kind::DIGEST => Self::Digest {
                applied: reader.u64("the applied index")?,
                page_count: reader.u64("the number of pages")?,
                page_size: reader.u64("the page size")?,
                digest: reader.text("the digest")?.to_owned(),
            },
            kind::STATUS => Self::Status {
                json: reader.text("the status")?.to_owned(),
            },
            kind::BACKUP => Self::Backup {
                applied: reader.u64("the applied index")?,
                page_size: reader.u64("the page size")?,
                page_count: reader.u64("the number of pages")?,
            },
            kind::BACKUP_CHUNK => Self::BackupChunk {
                bytes: reader.blob("the bytes of the copy")?.to_owned(),
            },
            kind::DATABASES => Self::Databases(databases(reader)?),
            kind::JOINED => Self::Joined {
                cluster: u128::from(reader.u64("the id of the cluster")?)
                    | u128::from(reader.u64("the id of the cluster")?) << 64,
                id: reader.u64("the id of the node")?,
                shards: reader.u64("the number of shards")?,
                members: members(reader)?,
            },
            _ => return Err(WireError::UnknownResponse { kind }),
        })
    }
}

/// Appends a ROWS message straight from a batch, without needing an owned [`Response`].
///
/// # Errors
/// As [`Response::encode`].
pub fn encode_rows(batch: &RowBatch, out: &mut Vec<u8>) -> Result<(), WireError> {
    put_message(out, kind::ROWS, FRAME_BYTES_MAX, |out| {
        put_rows(out, batch);
        Ok(0)
    })
}

/// What stands before and behind the content of a database in the FILES response to DUMP, for a
/// content of `file_bytes` bytes, a multiple of 8, that is sent without ever being in memory as a
/// whole. The file of its WAL, which follows, is empty.
///
/// # Errors
/// [`WireError::TooLarge`] if a frame cannot hold it.
pub fn dump_around(name: &str, file_bytes: u64) -> Result<(Vec<u8>, Vec<u8>), WireError> {
    let mut before = vec![0; FRAME_HEADER_BYTES];
    put_u64(&mut before, 2);
    put_text(&mut before, name);
    put_u64(&mut before, file_bytes);
    let mut after = Vec::new();
    put_text(&mut after, &format!("{name}-wal"));
    put_u64(&mut after, 0);
    let around = before.len() - FRAME_HEADER_BYTES + after.len();
    let bytes = (around as u64).saturating_add(file_bytes);
    let words = u32::try_from(bytes / WORD_BYTES as u64).ok();
    let Some(words) = words.filter(|_| bytes <= FRAME_BYTES_MAX) else {
        let bytes_max = FRAME_BYTES_MAX;
        return Err(WireError::TooLarge { bytes, bytes_max });
    };
    let header = FrameHeader {
        words,
        kind: kind::FILES,
        schema: 0,
    };
    before[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
    Ok((before, after))
}

/// Reads the body of a SERVERS response in the layout that was asked for.
///
/// # Errors
/// As [`Response::decode`].
pub fn decode_servers(format: ClusterFormat, body: &[u8]) -> Result<Vec<ServerEntry>, WireError> {
    let reader = &mut BodyReader::new(body);
    // An id and the shortest address.
    let count = reader.count(2 * WORD_BYTES, "the number of servers")?;
    (0..count)
        .map(|_| {
            Ok(ServerEntry {
                id: reader.u64("the id of a server")?,
                address: reader.text("the address of a server")?.to_owned(),
                role: match format {
                    ClusterFormat::WithoutRoles => Role::Voter,
                    ClusterFormat::WithRoles => {
                        Role::from_word(reader.u64("the role of a server")?)?
                    }
                },
            })
        })
        .collect()
}

fn put_servers(out: &mut Vec<u8>, format: ClusterFormat, servers: &[ServerEntry]) {
    put_u64(out, servers.len() as u64);
    for server in servers {
        put_u64(out, server.id);
        put_text(out, &server.address);
        if format == ClusterFormat::WithRoles {
            put_u64(out, server.role as u64);
        }
    }
}

fn put_databases(out: &mut Vec<u8>, databases: &[DatabaseEntry]) {
    put_u64(out, databases.len() as u64);
    for database in databases {
        put_text(out, &database.name);
        put_u64(out, database.id);
        put_u64(out, database.page_size);
        put_u64(out, database.page_count);
    }
}

fn databases(reader: &mut BodyReader<'_>) -> Result<Vec<DatabaseEntry>, WireError> {
    // The shortest name and three numbers.
    let count = reader.count(4 * WORD_BYTES, "the number of databases")?;
    (0..count)
        .map(|_| {
            Ok(DatabaseEntry {
                name: reader.text("the name of a database")?.to_owned(),
                id: reader.u64("the id of a database")?,
                page_size: reader.u64("the page size")?,
                page_count: reader.u64("the number of pages")?,
            })
        })
        .collect()
}

fn members(reader: &mut BodyReader<'_>) -> Result<Vec<MemberEntry>, WireError> {
    // The shortest address and two numbers.
    let count = reader.count(3 * WORD_BYTES, "the number of members")?;
    (0..count)
        .map(|_| {
            Ok(MemberEntry {
                id: reader.u64("the id of a member")?,
                incarnation: reader.u64("the incarnation of a member")?,
                address: reader.text("the address of a member")?.to_owned(),
            })
        })
        .collect()
}

fn put_rows(out: &mut Vec<u8>, batch: &RowBatch) {
    put_u64(out, batch.columns.len() as u64);
    for column in batch.columns.iter() {
        put_text(out, &column.name);
    }
    if !batch.columns.is_empty() {
        for row in &batch.rows {
            put_row(out, &batch.columns, row);
        }
    }
    out.extend_from_slice(if batch.complete {
        &ROWS_COMPLETE
    } else {
        &ROWS_FOLLOW
    });
}

fn rows(reader: &mut BodyReader<'_>) -> Result<RowBatch, WireError> {
    let count = reader.count(WORD_BYTES, "the number of columns")?;
    let columns: Arc<[Column]> = (0..count)
        .map(|_| {
            let name = reader.text_bytes("the name of a column")?;
            let name = String::from_utf8_lossy(name).into_owned();
            Ok(Column {
                name,
                kind: ColumnKind::Plain,
            })
        })
        .collect::<Result<_, WireError>>()?;
    let mut rows = Vec::new();
    let complete = loop {
        match reader.peek_word() {
            Some(ROWS_COMPLETE) => break true,
            Some(ROWS_FOLLOW) => break false,
            // A row without columns takes no bytes: it could be read for ever.
            Some(_) if count > 0 => rows.push(row(reader, count)?),
            _ => {
                return Err(WireError::Truncated {
                    field: "the mark at the end of the rows",
                    needed: WORD_BYTES as u64,
                    left: reader.left() as u64,
                });
            }
        }
    };
    Ok(RowBatch {
        columns,
        rows,
        complete,
    })
}

fn put_files(out: &mut Vec<u8>, files: &[DumpFile]) -> Result<(), WireError> {
    put_u64(out, files.len() as u64);
    for DumpFile { name, bytes } in files {
        if !bytes.len().is_multiple_of(WORD_BYTES) {
            return Err(WireError::UnalignedFile {
                name: name.clone(),
                bytes: bytes.len(),
            });
        }
        put_text(out, name);
        put_u64(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
    Ok(())
}

fn files(reader: &mut BodyReader<'_>) -> Result<Vec<DumpFile>, WireError> {
    // The shortest name and a length.
    let count = reader.count(2 * WORD_BYTES, "the number of files")?;
    (0..count)
        .map(|_| {
            let name = reader.text("the name of a file")?.to_owned();
            let length = reader.u64("the length of a file")?;
            Ok(DumpFile {
                name,
                bytes: reader.bytes(length, "the content of a file")?.to_vec(),
            })
        })
        .collect()
}
