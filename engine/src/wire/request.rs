//! What a client asks.

use super::{
    body::{BodyReader, put_blob, put_text, put_u32, put_u64},
    cluster::{ClusterFormat, Role},
    error::WireError,
    frame::{BODY_BYTES_MAX, put_message},
    tuple::{parameters, put_parameters},
};
use crate::rows::Value;

/// The name of the VFS that clients send with OPEN. It means nothing any more.
pub const VFS_NAME: &str = "volatile";

/// A flag of OPEN that is Ringlite's: BEGIN means what it does in SQLite, and not BEGIN IMMEDIATE.
pub(crate) const OPEN_PLAIN_BEGIN: u64 = 1 << 32;

/// A flag of OPEN that is Ringlite's: a database that is not there is not created, but a failure with code
/// 12 (`SQLITE_NOTFOUND`).
pub(crate) const OPEN_EXISTING: u64 = 1 << 33;

/// A flag of OPEN that is Ringlite's: the node is to answer itself, and not to pass the connection on to the
/// one that leads the database's shard.
pub(crate) const OPEN_HERE: u64 = 1 << 34;

/// In the place of the role in ASSIGN: none.
const ROLE_NOT_ASSIGNED: u64 = 3;

/// The type of each request, as in its frame header.
pub(super) mod kind {
    pub(crate) const LEADER: u8 = 0;
    pub(crate) const CLIENT: u8 = 1;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const PREPARE: u8 = 4;
    pub(crate) const EXEC: u8 = 5;
    pub(crate) const QUERY: u8 = 6;
    pub(crate) const FINALIZE: u8 = 7;
    pub(crate) const EXEC_SQL: u8 = 8;
    pub(crate) const QUERY_SQL: u8 = 9;
    pub(crate) const INTERRUPT: u8 = 10;
    pub(crate) const CONNECT: u8 = 11;
    pub(crate) const ADD: u8 = 12;
    pub(crate) const ASSIGN: u8 = 13;
    pub(crate) const REMOVE: u8 = 14;
    pub(crate) const DUMP: u8 = 15;
    pub(crate) const CLUSTER: u8 = 16;
    pub(crate) const TRANSFER: u8 = 17;
    pub(crate) const DESCRIBE: u8 = 18;
    pub(crate) const WEIGHT: u8 = 19;
    pub(crate) const DIGEST: u8 = 0x80;
    pub(crate) const STATUS: u8 = 0x81;
    pub(crate) const BACKUP: u8 = 0x90;
    pub(crate) const BEGIN_RESTORE: u8 = 0x91;
    pub(crate) const RESTORE_CHUNK: u8 = 0x92;
    pub(crate) const FINISH_RESTORE: u8 = 0x93;
    pub(crate) const CREATE_DATABASE: u8 = 0x94;
    pub(crate) const DROP_DATABASE: u8 = 0x95;
    pub(crate) const DATABASES: u8 = 0x96;
    pub(crate) const JOIN: u8 = 0x97;
    pub(crate) const LEADER_OF: u8 = 0x98;
    pub(crate) const READ: u8 = 0x82;
}

/// A request. The numbers are the types of the frames.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// 0: who leads?
    Leader,
    /// 1: a client introduces itself.
    Client {
        /// Its id; clients send 0.
        id: u64,
    },
    /// 3: open a database, one per connection. It is created on first use, unless a flag says otherwise.
    Open {
        /// Its name.
        name: String,
        /// `OPEN_PLAIN_BEGIN`, `OPEN_EXISTING` and `OPEN_HERE`; all others are ignored.
        flags: u64,
        /// Ignored.
        vfs: String,
    },
    /// 4: prepare a statement.
    Prepare {
        /// The database's id, 0.
        database: u64,
        /// The text.
        sql: String,
        /// Schema 1: a second statement may follow, and the answer says where it starts.
        with_tail: bool,
    },
    /// 5: run a prepared statement that yields no rows.
    Execute {
        /// The database's id, 0.
        database: u32,
        /// The statement's id.
        statement: u32,
        /// Its parameters, left to right.
        parameters: Vec<Value>,
    },
    /// 6: run a prepared statement and send its rows.
    Query {
        /// The database's id, 0.
        database: u32,
        /// The statement's id.
        statement: u32,
        /// Its parameters, left to right.
        parameters: Vec<Value>,
    },
    /// 7: forget a prepared statement.
    Finalize {
        /// The database's id, 0.
        database: u32,
        /// The statement's id.
        statement: u32,
    },
    /// 8: run one or more statements that yield no rows.
    ExecuteSql {
        /// The database's id, 0.
        database: u64,
        /// The text.
        sql: String,
        /// The parameters of all statements, left to right.
        parameters: Vec<Value>,
    },
    /// 9: run one statement and send its rows.
    QuerySql {
        /// The database's id, 0.
        database: u64,
        /// The text.
        sql: String,
        /// Its parameters.
        parameters: Vec<Value>,
    },
    /// 10: stop sending rows.
    Interrupt {
        /// The database's id, 0.
        database: u64,
    },
    /// 11: make this socket a link between dqlite nodes. Clients do not send it.
    Connect {
        /// The node's id.
        id: u64,
        /// Its address.
        address: String,
    },
    /// 12: add a node as a spare.
    Add {
        /// Its id.
        id: u64,
        /// Its address.
        address: String,
    },
    /// 13: give a node a role.
    Assign {
        /// Its id.
        id: u64,
        /// The role; a request without one means a voter. `None`, which is 3, is Ringlite's: what was
        /// assigned before is taken back.
        role: Option<Role>,
    },
    /// 14: remove a node.
    Remove {
        /// Its id.
        id: u64,
    },
    /// 15: send a database as files.
    Dump {
        /// Its name.
        name: String,
    },
    /// 16: who are the members?
    Cluster {
        /// The layout of the answer.
        format: ClusterFormat,
    },
    /// 17: hand leadership over.
    Transfer {
        /// To this node, or to any voter if 0.
        id: u64,
    },
    /// 18: failure domain and weight of this node.
    Describe,
    /// 19: set the weight of this node.
    Weight {
        /// The weight.
        weight: u64,
    },
    /// 0x80, ours: the digest of this node's copy of a database.
    Digest {
        /// Its name.
        database: String,
        /// Wait until this index is applied.
        index_min: u64,
    },
    /// 0x81, ours: the state of this node, as JSON.
    Status,
    /// 0x90, ours: send a copy of a database as of one moment. The answer is a BACKUP and then as
    /// many BACKUP_CHUNK as make up the file.
    Backup {
        /// Its name.
        database: String,
        /// Whatever this node has applied will do; otherwise it has to be the leader, and the copy
        /// has everything that was acknowledged before the request.
        local: bool,
    },
    /// 0x91, ours: a database file will follow in chunks, one request each.
    BeginRestore {
        /// The name of the database that it will be.
        database: String,
        /// The length of the file, in bytes.
        file_bytes: u64,
        /// Whether it may take the place of a database of that name.
        replace: bool,
    },
    /// 0x92, ours: the next bytes of the file, 1 MiB at most. Answered when they are committed.
    RestoreChunk {
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// 0x93, ours: the file is whole; make it the database.
    FinishRestore,
    /// 0x94, ours: create a database.
    CreateDatabase {
        /// Its name.
        name: String,
        /// The size of its pages, in bytes.
        page_size: u32,
    },
    /// 0x95, ours: drop a database on all nodes.
    DropDatabase {
        /// Its name.
        name: String,
    },
    /// 0x96, ours: the databases of this node.
    Databases,
    /// 0x97, ours: a node asks to become a member, or tells what has changed about it.
    Join {
        /// The id that it wants, or 0 if the leader shall choose one.
        id: u64,
        /// The incarnation of its data directory.
        incarnation: u64,
        /// Its failure domain; `u64::MAX` for the one that the cluster knows, or 0.
        failure_domain: u64,
        /// Its weight; `u64::MAX` for the one that the cluster knows, or 0.
        weight: u64,
        /// How many shards it has; 0 for as many as the cluster.
        shards: u64,
        /// Its address.
        address: String,
    },
    /// 0x98, ours: who leads the shard of a database; answered as [`Request::Leader`] is.
    LeaderOf {
        /// The name of the database.
        database: String,
    },
    /// 0x82, ours: run one statement that reads, at a level below `linearizable`, on any node.
    Read {
        /// 1 for `leader`, 2 for `local`.
        level: u64,
        /// At `local`: wait until this index is applied.
        index_min: u64,
        /// At `local`: refuse if no leader was heard of for longer; `u64::MAX` for no bound.
        staleness_max_ms: u64,
        /// The name of the database.
        database: String,
        /// The text.
        sql: String,
    },
}

impl Request {
    /// Reads the body of a request whose frame has this type and schema.
    ///
    /// What a body has behind its last field is ignored, so that a field can be added later.
    ///
    /// # Errors
    /// A [`WireError`] says which FAILURE to send and whether to close the connection then.
    /// HEARTBEAT (2) is an unknown request: the peer does not implement it either.
    pub fn decode(kind: u8, schema: u8, body: &[u8]) -> Result<Self, WireError> {
        check_schema(kind, schema)?;
        let reader = &mut BodyReader::new(body);
        match kind {
            kind::OPEN
            | kind::PREPARE
            | kind::EXEC
            | kind::QUERY
            | kind::FINALIZE
            | kind::EXEC_SQL
            | kind::QUERY_SQL
            | kind::INTERRUPT => decode_sql(kind, schema, reader),
            _ => decode_admin(kind, reader),
        }
    }

    /// Appends the whole message, frame and body, to `out`.
    ///
    /// Parameters use schema 0 up to 255 of them, and schema 1 above.
    ///
    /// # Errors
    /// If the request is longer than a server accepts, or has more parameters than SQLite allows;
    /// `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        match self {
            Self::Execute {
                database,
                statement,
                parameters,
            } => encode_execute(out, *database, *statement, parameters),
            Self::Query {
                database,
                statement,
                parameters,
            } => encode_query(out, *database, *statement, parameters),
            Self::ExecuteSql {
                database,
                sql,
                parameters,
            } => encode_execute_sql(out, *database, sql, parameters),
            Self::QuerySql {
                database,
                sql,
                parameters,
            } => encode_query_sql(out, *database, sql, parameters),
            _ => put_message(out, self.kind(), BODY_BYTES_MAX, |out| {
                Ok(self.put_body(out))
            }),
        }
    }

    /// The type in the frame header.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Leader => kind::LEADER,
            Self::Client { .. } => kind::CLIENT,
            Self::Open { .. } => kind::OPEN,
            Self::Prepare { .. } => kind::PREPARE,
            Self::Execute { .. } => kind::EXEC,
            Self::Query { .. } => kind::QUERY,
            Self::Finalize { .. } => kind::FINALIZE,
            Self::ExecuteSql { .. } => kind::EXEC_SQL,
            Self::QuerySql { .. } => kind::QUERY_SQL,
            Self::Interrupt { .. } => kind::INTERRUPT,
            Self::Connect { .. } => kind::CONNECT,
            Self::Add { .. } => kind::ADD,
            Self::Assign { .. } => kind::ASSIGN,
            Self::Remove { .. } => kind::REMOVE,
            Self::Dump { .. } => kind::DUMP,
            Self::Cluster { .. } => kind::CLUSTER,
            Self::Transfer { .. } => kind::TRANSFER,
            Self::Describe => kind::DESCRIBE,
            Self::Weight { .. } => kind::WEIGHT,
            Self::Digest { .. } => kind::DIGEST,
            Self::Status => kind::STATUS,
            Self::Backup { .. } => kind::BACKUP,
            Self::BeginRestore { .. } => kind::BEGIN_RESTORE,
            Self::RestoreChunk { .. } => kind::RESTORE_CHUNK,
            Self::FinishRestore => kind::FINISH_RESTORE,
            Self::CreateDatabase { .. } => kind::CREATE_DATABASE,
            Self::DropDatabase { .. } => kind::DROP_DATABASE,
            Self::Databases => kind::DATABASES,
            Self::Join { .. } => kind::JOIN,
            Self::LeaderOf { .. } => kind::LEADER_OF,
            Self::Read { .. } => kind::READ,
        }
    }

    /// Writes the body of a request without parameters and returns its schema.
    fn put_body(&self, out: &mut Vec<u8>) -> u8 {
        match self {
            Self::Leader
            | Self::Describe
            | Self::Status
            | Self::FinishRestore
            | Self::Databases => put_u64(out, 0),
            Self::Client { id } | Self::Remove { id } | Self::Transfer { id } => put_u64(out, *id),
            Self::Open { name, flags, vfs } => {
                put_text(out, name);
                put_u64(out, *flags);
                put_text(out, vfs);
            }
            Self::Prepare {
                database,
                sql,
                with_tail,
            } => {
                put_u64(out, *database);
                put_text(out, sql);
                return u8::from(*with_tail);
            }
            Self::Execute {
                database,
                statement,
                ..
            }
            | Self::Query {
                database,
                statement,
                ..
            }
            | Self::Finalize {
                database,
                statement,
            } => {
                put_u32(out, *database);
                put_u32(out, *statement);
            }
            Self::ExecuteSql { database, sql, .. } | Self::QuerySql { database, sql, .. } => {
                put_u64(out, *database);
                put_text(out, sql);
            }
            Self::Interrupt { database } => put_u64(out, *database),
            Self::Connect { id, address } | Self::Add { id, address } => {
                put_u64(out, *id);
                put_text(out, address);
            }
            Self::Assign { id, role } => {
                put_u64(out, *id);
                put_u64(out, role.map_or(ROLE_NOT_ASSIGNED, |role| role as u64));
            }
            Self::Dump { name } | Self::DropDatabase { name } => put_text(out, name),
            Self::Cluster { format } => put_u64(out, *format as u64),
            Self::Weight { weight } => put_u64(out, *weight),
            Self::Digest {
                database,
                index_min,
            } => {
                put_u64(out, *index_min);
                put_text(out, database);
            }
            Self::Backup { database, local } => {
                put_u64(out, u64::from(*local));
                put_text(out, database);
            }
            Self::BeginRestore {
                database,
                file_bytes,
                replace,
            } => {
                put_u64(out, *file_bytes);
                put_u64(out, u64::from(*replace));
                put_text(out, database);
            }
            Self::RestoreChunk { bytes } => put_blob(out, bytes),
            Self::CreateDatabase { name, page_size } => {
                put_u64(out, u64::from(*page_size));
                put_text(out, name);
            }
            Self::Join {
                id,
                incarnation,
                failure_domain,
                weight,
                shards,
                address,
            } => {
                put_u64(out, *id);
                put_u64(out, *incarnation);
                put_u64(out, *failure_domain);
                put_u64(out, *weight);
                put_u64(out, *shards);
                put_text(out, address);
            }
            Self::LeaderOf { database } => put_text(out, database),
            Self::Read {
                level,
                index_min,
                staleness_max_ms,
                database,
                sql,
            } => {
                put_u64(out, *level);
                put_u64(out, *index_min);
                put_u64(out, *staleness_max_ms);
                put_text(out, database);
                put_text(out, sql);
            }
        }
        0
    }
}

/// Refuses a type that does not exist, and a schema that the type does not have.
fn check_schema(kind: u8, schema: u8) -> Result<(), WireError> {
    let (schema_max, several) = match kind {
        kind::PREPARE | kind::EXEC | kind::QUERY | kind::EXEC_SQL | kind::QUERY_SQL => (1, true),
        kind::LEADER
        | kind::CLIENT
        | kind::OPEN
        | kind::FINALIZE..=kind::WEIGHT
        | kind::DIGEST
        | kind::STATUS
        | kind::READ
        | kind::BACKUP..=kind::LEADER_OF => (0, false),
        _ => return Err(WireError::UnknownRequest { kind }),
    };
    if schema > schema_max {
        return Err(WireError::UnknownSchema {
            kind,
            schema,
            several,
        });
    }
    Ok(())
}

/// Reads a request of an SQL session.
fn decode_sql(kind: u8, schema: u8, body: &mut BodyReader<'_>) -> Result<Request, WireError> {
    const DATABASE: &str = "the id of the database";
    const STATEMENT: &str = "the id of the statement";
    const SQL: &str = "the text of the statement";
    Ok(match kind {
        kind::OPEN => Request::Open {
            name: body.text("the name of the database")?.to_owned(),
            flags: body.u64("the flags")?,
            vfs: body.text("the name of the VFS")?.to_owned(),
        },
        kind::PREPARE => Request::Prepare {
            database: body.u64(DATABASE)?,
            sql: body.text(SQL)?.to_owned(),
            with_tail: schema == 1,
        },
        kind::EXEC => Request::Execute {
            database: body.u32(DATABASE)?,
            statement: body.u32(STATEMENT)?,
            parameters: parameters(body, schema)?,
        },
        kind::QUERY => Request::Query {
            database: body.u32(DATABASE)?,
            statement: body.u32(STATEMENT)?,
            parameters: parameters(body, schema)?,
        },
        kind::FINALIZE => Request::Finalize {
            database: body.u32(DATABASE)?,
            statement: body.u32(STATEMENT)?,
        },
        kind::EXEC_SQL => Request::ExecuteSql {
            database: body.u64(DATABASE)?,
            sql: body.text(SQL)?.to_owned(),
            parameters: parameters(body, schema)?,
        },
        kind::QUERY_SQL => Request::QuerySql {
            database: body.u64(DATABASE)?,
            sql: body.text(SQL)?.to_owned(),
            parameters: parameters(body, schema)?,
        },
        kind::INTERRUPT => Request::Interrupt {
            database: body.u64(DATABASE)?,
        },
        _ => return Err(WireError::UnknownRequest { kind }),
    })
}

/// Reads a request about the node or the cluster.
fn decode_admin(kind: u8, body: &mut BodyReader<'_>) -> Result<Request, WireError> {
    const ID: &str = "the id of the node";
    const ADDRESS: &str = "the address of the node";
    const FORMAT: &str = "the format";
    const UNUSED: &str = "the unused word";
    Ok(match kind {
        kind::LEADER => {
            body.u64(UNUSED)?;
            Request::Leader
        }
        kind::CLIENT => Request::Client {
            id: body.u64("the id of the client")?,
        },
        kind::CONNECT => Request::Connect {
            id: body.u64(ID)?,
            address: body.text(ADDRESS)?.to_owned(),
        },
        kind::ADD => Request::Add {
            id: body.u64(ID)?,
            address: body.text(ADDRESS)?.to_owned(),
        },
        kind::ASSIGN => Request::Assign {
            id: body.u64(ID)?,
            // The request's old form, PROMOTE, has no role.
            role: if body.left() == 0 {
                Some(Role::Voter)
            } else {
                match body.u64("the role")? {
                    ROLE_NOT_ASSIGNED => None,
                    role => Some(Role::from_word(role)?),
                }
            },
        },
        kind::REMOVE => Request::Remove { id: body.u64(ID)? },
        kind::DUMP => Request::Dump {
            name: body.text("the name of the database")?.to_owned(),
        },
        kind::CLUSTER => Request::Cluster {
            format: match body.u64(FORMAT)? {
                0 => ClusterFormat::WithoutRoles,
                1 => ClusterFormat::WithRoles,
                format => return Err(WireError::UnknownClusterFormat { format }),
            },
        },
        kind::TRANSFER => Request::Transfer { id: body.u64(ID)? },
        kind::DESCRIBE => match body.u64(FORMAT)? {
            0 => Request::Describe,
            format => return Err(WireError::UnknownDescribeFormat { format }),
        },
        kind::WEIGHT => Request::Weight {
            weight: body.u64("the weight")?,
        },
        kind::DIGEST => Request::Digest {
            index_min: body.u64("the index to wait for")?,
            database: body.text("the name of the database")?.to_owned(),
        },
        kind::STATUS => {
            body.u64(UNUSED)?;
            Request::Status
        }
        kind::READ => Request::Read {
            level: body.u64("the level")?,
            index_min: body.u64("the index to wait for")?,
            staleness_max_ms: body.u64("the bound on staleness")?,
            database: body.text("the name of the database")?.to_owned(),
            sql: body.text("the SQL text")?.to_owned(),
        },
        kind::JOIN => Request::Join {
            id: body.u64(ID)?,
            incarnation: body.u64("the incarnation of the node")?,
            failure_domain: body.u64("the failure domain of the node")?,
            weight: body.u64("the weight of the node")?,
            shards: body.u64("the number of its shards")?,
            address: body.text(ADDRESS)?.to_owned(),
        },
        kind::LEADER_OF => Request::LeaderOf {
            database: body.text("the name of the database")?.to_owned(),
        },
        _ => return decode_database(kind, body),
    })
}

/// Reads a request about a database as a whole.
fn decode_database(kind: u8, body: &mut BodyReader<'_>) -> Result<Request, WireError> {
    const NAME: &str = "the name of the database";
    const UNUSED: &str = "the unused word";
    Ok(match kind {
        kind::BACKUP => Request::Backup {
            local: body.u64("the level")? != 0,
            database: body.text(NAME)?.to_owned(),
        },
        kind::BEGIN_RESTORE => Request::BeginRestore {
            file_bytes: body.u64("the length of the file")?,
            replace: body.u64("whether to replace")? != 0,
            database: body.text(NAME)?.to_owned(),
        },
        kind::RESTORE_CHUNK => Request::RestoreChunk {
            bytes: body.blob("the bytes of the file")?.to_owned(),
        },
        kind::FINISH_RESTORE => {
            body.u64(UNUSED)?;
            Request::FinishRestore
        }
        kind::CREATE_DATABASE => {
            let page_size = body.u64("the page size")?;
            Request::CreateDatabase {
                // What does not fit is no page size either.
                page_size: u32::try_from(page_size).unwrap_or(u32::MAX),
                name: body.text(NAME)?.to_owned(),
            }
        }
        kind::DROP_DATABASE => Request::DropDatabase {
            name: body.text(NAME)?.to_owned(),
        },
        kind::DATABASES => {
            body.u64(UNUSED)?;
            Request::Databases
        }
        _ => return Err(WireError::UnknownRequest { kind }),
    })
}

/// Appends an [`Request::Execute`] without needing an owned one. Errors as [`Request::encode`].
pub fn encode_execute(
    out: &mut Vec<u8>,
    database: u32,
    statement: u32,
    parameters: &[Value],
) -> Result<(), WireError> {
    put_prepared(out, kind::EXEC, database, statement, parameters)
}

/// Appends a [`Request::Query`] without needing an owned one. Errors as [`Request::encode`].
pub fn encode_query(
    out: &mut Vec<u8>,
    database: u32,
    statement: u32,
    parameters: &[Value],
) -> Result<(), WireError> {
    put_prepared(out, kind::QUERY, database, statement, parameters)
}

/// Appends a [`Request::ExecuteSql`] without needing an owned one. Errors as [`Request::encode`].
pub fn encode_execute_sql(
    out: &mut Vec<u8>,
    database: u64,
    sql: &str,
    parameters: &[Value],
) -> Result<(), WireError> {
    put_sql(out, kind::EXEC_SQL, database, sql, parameters)
}

/// Appends a [`Request::QuerySql`] without needing an owned one. Errors as [`Request::encode`].
pub fn encode_query_sql(
    out: &mut Vec<u8>,
    database: u64,
    sql: &str,
    parameters: &[Value],
) -> Result<(), WireError> {
    put_sql(out, kind::QUERY_SQL, database, sql, parameters)
}

fn put_prepared(
    out: &mut Vec<u8>,
    kind: u8,
    database: u32,
    statement: u32,
    parameters: &[Value],
) -> Result<(), WireError> {
    put_message(out, kind, BODY_BYTES_MAX, |out| {
        put_u32(out, database);
        put_u32(out, statement);
        put_parameters(out, parameters)
    })
}

fn put_sql(
    out: &mut Vec<u8>,
    kind: u8,
    database: u64,
    sql: &str,
    parameters: &[Value],
) -> Result<(), WireError> {
    put_message(out, kind, BODY_BYTES_MAX, |out| {
        put_u64(out, database);
        put_text(out, sql);
        put_parameters(out, parameters)
    })
}
