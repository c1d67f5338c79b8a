//! A blocking client of a Ringlite (or dqlite) cluster, over one TCP connection.
//!
//! It keeps one request in flight, as the protocol wants it, sends each with one system call, and
//! reuses its buffers. It never repeats a request by itself: only the caller knows whether that is
//! right. After [`ClientError::is_not_leader`] or a lost connection call [`Client::reconnect`].

mod connection;
mod databases;
mod error;
mod interruptible;
mod leader;
mod members;
mod options;
mod source_file;

use std::{ops::ControlFlow, time::Instant};

pub use error::{ClientError, TriedAddress};
pub(crate) use interruptible::QueryEnd;
pub use options::ClientOptions;
pub use source_file::SourceFile;

pub use crate::replica::request::Executed;
use crate::{
    readers::ReadLevel,
    rows::{RowBatch, Value},
    wire::{
        self, ClusterFormat, OPEN_EXISTING, OPEN_HERE, OPEN_PLAIN_BEGIN, Request, Response,
        ServerEntry, VFS_NAME, WireError,
    },
};
use connection::Connection;

/// The one database of a connection has this id.
const DATABASE_ID: u32 = 0;

/// The leader of a cluster, as a node names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its node id.
    pub id: u64,
    /// Its address.
    pub address: String,
}

/// The state of one node's copy of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseDigest {
    /// The index of the log that the copy is at.
    pub applied: u64,
    /// Its length in pages.
    pub page_count: u64,
    /// The length of a page, in bytes.
    pub page_size: u64,
    /// The digest, in hexadecimal. Copies at the same index have the same one.
    pub digest: String,
}

/// A statement that the server has prepared for one connection of one [`Client`].
///
/// It ends with that connection. Dropping it does not tell the server: see [`Client::finalize`].
#[derive(Debug, PartialEq, Eq)]
pub struct PreparedStatement {
    id: u32,
    parameters: u64,
    connection: u64,
}

impl PreparedStatement {
    /// How many parameters it takes.
    pub fn parameter_count(&self) -> u64 {
        self.parameters
    }
}

/// A connection to a cluster, or to one node. See the module's documentation.
///
/// ```no_run
/// use ringlite::{Client, ClientOptions, Value};
///
/// # fn main() -> Result<(), ringlite::ClientError> {
/// let addresses = ["127.0.0.1:9001".to_owned(), "127.0.0.1:9002".to_owned()];
/// let mut client = Client::connect(&addresses, ClientOptions::default())?;
/// client.open("main.db")?;
/// client.execute("INSERT INTO pets(name) VALUES (?)", &[Value::Text("Rex".into())])?;
/// let pets = client.query("SELECT name FROM pets", &[])?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    /// None once it is known to be of no use.
    connection: Option<Connection>,
    /// How many connections there were; a prepared statement belongs to one.
    connection_count: u64,
    /// Where [`Client::connect`] and [`Client::reconnect`] look, the last known leader first.
    addresses: Vec<String>,
    /// Whether the node has to be the leader.
    leader_only: bool,
    database: Option<String>,
    options: ClientOptions,
}

impl Client {
    /// Finds the leader through any of `addresses` and stays connected to it.
    ///
    /// # Errors
    /// [`ClientError::NoLeader`] tells what each address said, once
    /// [`ClientOptions::find_leader_timeout`] has passed.
    pub fn connect(addresses: &[String], options: ClientOptions) -> Result<Self, ClientError> {
        let mut client = Self {
            connection: None,
            connection_count: 0,
            addresses: addresses.to_vec(),
            leader_only: true,
            database: None,
            options,
        };
        client.reconnect()?;
        Ok(client)
    }

    /// Connects to the node at `address`, whether it leads or not, with the default options.
    ///
    /// # Errors
    /// [`ClientError::Io`] if nobody answers there.
    pub fn connect_to(address: &str) -> Result<Self, ClientError> {
        Self::connect_to_with(address, ClientOptions::default())
    }

    /// Connects to the node at `address`, whether it leads or not.
    ///
    /// # Errors
    /// [`ClientError::Io`] if nobody answers there.
    pub fn connect_to_with(address: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let mut client = Self {
            connection: None,
            connection_count: 0,
            addresses: vec![address.to_owned()],
            leader_only: false,
            database: None,
            options,
        };
        client.reconnect()?;
        Ok(client)
    }

    /// Drops the connection, finds the leader again (unless this client is of one node), and opens
    /// the same database again.
    ///
    /// A transaction that was open is rolled back by the server, and prepared statements are gone.
    ///
    /// # Errors
    /// As [`Client::connect`]. The client stays usable: call it again.
    pub fn reconnect(&mut self) -> Result<(), ClientError> {
        self.connection = None;
        let connection = if self.leader_only {
            let deadline = Instant::now() + self.options.find_leader_timeout;
            leader::find(&self.addresses, &Request::Leader, &self.options, deadline)?
        } else {
            let timeout = self.options.connect_timeout;
            let address = self.addresses.first().map_or("", String::as_str);
            let mut connection = Connection::dial(address, timeout)?;
            connection.greet()?;
            connection.set_timeout(self.options.request_timeout)?;
            connection
        };
        self.use_connection(connection);
        match self.database.take() {
            Some(name) => {
                let opened = self.open(&name);
                self.database = Some(name);
                opened
            }
            None => Ok(()),
        }
    }

    /// The address this client is, or was last, connected to.
    pub fn address(&self) -> &str {
        self.addresses.first().map_or("", String::as_str)
    }

    /// Whether the connection is up, as far as one can know without asking the server: false once
    /// a request has failed on it, or the server has closed it.
    pub fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_open)
    }

    /// Opens a database, which is created on its first use. A connection has one.
    ///
    /// # Errors
    /// A failure with code 5 if one is open already.
    pub fn open(&mut self, database: &str) -> Result<(), ClientError> {
        self.open_with(database, 0)
    }

    /// [`Client::open`] of a session in which BEGIN is SQLite's, as in the Rust API, and not BEGIN
    /// IMMEDIATE. Unless `create`, there has to be such a database.
    pub(crate) fn open_plainly(&mut self, database: &str, create: bool) -> Result<(), ClientError> {
        let existing = if create { 0 } else { OPEN_EXISTING };
        self.open_with(database, OPEN_PLAIN_BEGIN | OPEN_HERE | existing)
    }

    fn open_with(&mut self, database: &str, flags: u64) -> Result<(), ClientError> {
        // A client that looks for leaders goes to that of the database's shard itself.
        let here = if self.leader_only { OPEN_HERE } else { 0 };
        let request = Request::Open {
            name: database.to_owned(),
            flags: flags | here,
            vfs: VFS_NAME.into(),
        };
        match self.request_about(database, &request)? {
            Response::Database { .. } => {
                self.database = Some(database.to_owned());
                Ok(())
            }
            other => Err(self.unexpected("DB", &other)),
        }
    }

    /// Runs statements without rows, one after the other, each in a transaction of its own unless
    /// one is open. `parameters` are for all of them, left to right.
    ///
    /// # Errors
    /// [`ClientError::Failure`] of the first statement that fails; those before it stay done. On
    /// [`ClientError::is_outcome_unknown`] and on a lost connection nobody knows.
    pub fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<Executed, ClientError> {
        let response = self.exchange(|out| {
            wire::encode_execute_sql(out, u64::from(DATABASE_ID), sql, parameters)
        })?;
        self.executed(response)
    }

    /// Runs one statement and collects its rows in one batch.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<RowBatch, ClientError> {
        let response = self
            .exchange(|out| wire::encode_query_sql(out, u64::from(DATABASE_ID), sql, parameters))?;
        self.collect(response)
    }

    /// Runs one statement and hands its batches to `each` as they arrive, at least one.
    ///
    /// When `each` breaks, the rest of the result is cancelled, and the client can go on.
    ///
    /// # Errors
    /// As [`Client::execute`]. Batches may have been handed over before.
    pub fn query_each(
        &mut self,
        sql: &str,
        parameters: &[Value],
        each: impl FnMut(RowBatch) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let response = self
            .exchange(|out| wire::encode_query_sql(out, u64::from(DATABASE_ID), sql, parameters))?;
        self.each_batch(response, each)
    }

    /// Runs one statement that reads `database` as fresh as `level` asks, and collects its rows. At
    /// the levels `leader` and `local` no database has to be open, and at `local` any node answers.
    /// Ringlite only.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn query_at(
        &mut self,
        level: ReadLevel,
        database: &str,
        sql: &str,
    ) -> Result<RowBatch, ClientError> {
        if level == ReadLevel::Linearizable {
            return self.query(sql, &[]);
        }
        let [level, index_min, staleness_max_ms] = level.to_wire();
        let (database, sql) = (database.to_owned(), sql.to_owned());
        let read = Request::Read {
            level,
            index_min,
            staleness_max_ms,
            database: database.clone(),
            sql,
        };
        let response = self.request_about(&database, &read)?;
        self.collect(response)
    }

    /// Prepares one statement.
    ///
    /// # Errors
    /// [`ClientError::Failure`] with the error of SQLite.
    pub fn prepare(&mut self, sql: &str) -> Result<PreparedStatement, ClientError> {
        let database = u64::from(DATABASE_ID);
        let request = Request::Prepare {
            database,
            sql: sql.to_owned(),
            with_tail: false,
        };
        match self.request(&request)? {
            Response::Statement { id, parameters, .. } => Ok(PreparedStatement {
                id,
                parameters,
                connection: self.connection_count,
            }),
            other => Err(self.unexpected("STMT", &other)),
        }
    }

    /// Runs a prepared statement without rows.
    ///
    /// # Errors
    /// As [`Client::execute`]; [`ClientError::StaleStatement`] if the client has reconnected.
    pub fn execute_prepared(
        &mut self,
        statement: &PreparedStatement,
        parameters: &[Value],
    ) -> Result<Executed, ClientError> {
        self.check(statement)?;
        let response =
            self.exchange(|out| wire::encode_execute(out, DATABASE_ID, statement.id, parameters))?;
        self.executed(response)
    }

    /// Runs a prepared statement and collects its rows in one batch.
    ///
    /// # Errors
    /// As [`Client::execute_prepared`].
    pub fn query_prepared(
        &mut self,
        statement: &PreparedStatement,
        parameters: &[Value],
    ) -> Result<RowBatch, ClientError> {
        self.check(statement)?;
        let response =
            self.exchange(|out| wire::encode_query(out, DATABASE_ID, statement.id, parameters))?;
        self.collect(response)
    }

    /// Makes the server forget a prepared statement. One of an earlier connection is forgotten.
    ///
    /// # Errors
    /// As every request.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "what is finalized cannot be used again"
    )]
    pub fn finalize(&mut self, statement: PreparedStatement) -> Result<(), ClientError> {
        let PreparedStatement { id, connection, .. } = statement;
        if connection != self.connection_count {
            return Ok(());
        }
        self.request_empty(&Request::Finalize {
            database: DATABASE_ID,
            statement: id,
        })
    }

    /// Asks the node who leads; None if it does not know.
    ///
    /// # Errors
    /// As every request.
    pub fn leader(&mut self) -> Result<Option<Leader>, ClientError> {
        match self.request(&Request::Leader)? {
            Response::Server { address, .. } if address.is_empty() => Ok(None),
            Response::Server { id, address } => Ok(Some(Leader { id, address })),
            other => Err(self.unexpected("SERVER", &other)),
        }
    }

    /// The members of the cluster. [`Client::reconnect`] will look for the leader at them, too.
    ///
    /// # Errors
    /// As every request.
    pub fn cluster(&mut self) -> Result<Vec<ServerEntry>, ClientError> {
        match self.request(&Request::Cluster {
            format: ClusterFormat::WithRoles,
        })? {
            Response::Servers { servers, .. } => {
                if self.leader_only {
                    for server in &servers {
                        if !self.addresses.contains(&server.address) {
                            self.addresses.push(server.address.clone());
                        }
                    }
                }
                Ok(servers)
            }
            other => Err(self.unexpected("SERVERS", &other)),
        }
    }

    /// The digest of the node's copy of `database`, once it has applied the log up to `index_min`.
    /// Ringlite only.
    ///
    /// # Errors
    /// As every request.
    pub fn digest(
        &mut self,
        database: &str,
        index_min: u64,
    ) -> Result<DatabaseDigest, ClientError> {
        let request = Request::Digest {
            database: database.to_owned(),
            index_min,
        };
        match self.request(&request)? {
            Response::Digest {
                applied,
                page_count,
                page_size,
                digest,
            } => Ok(DatabaseDigest {
                applied,
                page_count,
                page_size,
                digest,
            }),
            other => Err(self.unexpected("DIGEST", &other)),
        }
    }

    /// The state of the node, an object. Ringlite only.
    ///
    /// # Errors
    /// As every request.
    pub fn status(&mut self) -> Result<serde_json::Value, ClientError> {
        match self.request(&Request::Status)? {
            Response::Status { json } => {
                serde_json::from_str(&json).map_err(|source| ClientError::StatusJson {
                    address: self.address().to_owned(),
                    source,
                })
            }
            other => Err(self.unexpected("STATUS", &other)),
        }
    }

    /// Cancels what runs on this connection. Between two requests that is nothing, and it only
    /// proves that the server answers.
    ///
    /// # Errors
    /// As every request.
    pub fn interrupt(&mut self) -> Result<(), ClientError> {
        let database = u64::from(DATABASE_ID);
        let mut response = self.exchange_any(|out| Request::Interrupt { database }.encode(out))?;
        loop {
            // The server sends exactly one EMPTY. What it had sent before, rows or the failure of
            // the statement, is of no interest any more.
            match response {
                Response::Empty => return Ok(()),
                Response::Rows(_) | Response::Failure { .. } => response = self.receive()?,
                other => return Err(self.unexpected("EMPTY", &other)),
            }
        }
    }

    fn check(&self, statement: &PreparedStatement) -> Result<(), ClientError> {
        if statement.connection == self.connection_count {
            Ok(())
        } else {
            Err(ClientError::StaleStatement)
        }
    }

    fn executed(&mut self, response: Response) -> Result<Executed, ClientError> {
        match response {
            Response::Result {
                last_insert_rowid,
                changes,
            } => Ok(Executed {
                last_insert_rowid,
                changes,
            }),
            other => Err(self.unexpected("RESULT", &other)),
        }
    }

    fn collect(&mut self, first: Response) -> Result<RowBatch, ClientError> {
        let Response::Rows(mut all) = first else {
            return Err(self.unexpected("ROWS", &first));
        };
        while !all.complete {
            match self.receive_success()? {
                Response::Rows(batch) if batch.columns.len() == all.columns.len() => {
                    all.rows.extend(batch.rows);
                    all.complete = batch.complete;
                }
                other => return Err(self.unexpected("ROWS", &other)),
            }
        }
        Ok(all)
    }

    fn each_batch(
        &mut self,
        first: Response,
        mut each: impl FnMut(RowBatch) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let mut response = first;
        loop {
            let Response::Rows(batch) = response else {
                return Err(self.unexpected("ROWS", &response));
            };
            let complete = batch.complete;
            let flow = each(batch);
            match (complete, flow) {
                (true, _) => return Ok(()),
                (false, ControlFlow::Break(())) => return self.interrupt(),
                (false, ControlFlow::Continue(())) => response = self.receive_success()?,
            }
        }
    }

    fn request(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.exchange(|out| request.encode(out))
    }

    /// Asks something about a database, of the node that leads its shard: of nodes with several shards that
    /// may be another one than leads the first.
    ///
    /// A refused request has done nothing, so that it may be repeated. A client that has a database open stays
    /// where that is.
    fn request_about(
        &mut self,
        database: &str,
        request: &Request,
    ) -> Result<Response, ClientError> {
        let deadline = Instant::now() + self.options.find_leader_timeout;
        loop {
            match self.request(request) {
                Err(error)
                    if error.is_not_leader() && self.leader_only && self.database.is_none() =>
                {
                    if Instant::now() >= deadline || !self.go_to_leader_of(database, deadline) {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Connects to the node that leads the shard of a database; false if it cannot be found.
    fn go_to_leader_of(&mut self, database: &str, deadline: Instant) -> bool {
        let asks = Request::LeaderOf {
            database: database.to_owned(),
        };
        // A server of another make does not know the question.
        if !matches!(self.request(&asks), Ok(Response::Server { .. })) {
            return false;
        }
        match leader::find(&self.addresses, &asks, &self.options, deadline) {
            Ok(connection) => {
                self.use_connection(connection);
                true
            }
            Err(_) => false,
        }
    }

    fn use_connection(&mut self, connection: Connection) {
        self.remember(connection.address().to_owned());
        self.connection = Some(connection);
        self.connection_count += 1;
    }

    fn request_empty(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.request(request)? {
            Response::Empty => Ok(()),
            other => Err(self.unexpected("EMPTY", &other)),
        }
    }

    /// Sends a request and reads the response; a FAILURE is an error.
    fn exchange(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
    ) -> Result<Response, ClientError> {
        success(self.exchange_any(encode)?)
    }

    fn exchange_any(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
    ) -> Result<Response, ClientError> {
        let Some(connection) = &mut self.connection else {
            return Err(ClientError::NotConnected {
                address: self.address().to_owned(),
            });
        };
        let result = connection.send(encode).and_then(|()| connection.receive());
        self.keep_if_usable(result)
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let Some(connection) = &mut self.connection else {
            return Err(ClientError::NotConnected {
                address: self.address().to_owned(),
            });
        };
        let result = connection.receive();
        self.keep_if_usable(result)
    }

    fn receive_success(&mut self) -> Result<Response, ClientError> {
        success(self.receive()?)
    }

    /// Drops the connection after an error that leaves its two ends in disagreement.
    fn keep_if_usable<T>(&mut self, result: Result<T, ClientError>) -> Result<T, ClientError> {
        if let Err(error) = &result
            && error.is_connection_lost()
        {
            self.connection = None;
        }
        result
    }

    /// A response that does not answer the request: what comes next cannot be trusted either.
    fn unexpected(&mut self, expected: &'static str, found: &Response) -> ClientError {
        self.connection = None;
        ClientError::UnexpectedResponse {
            address: self.address().to_owned(),
            expected,
            found: found.name(),
        }
    }

    /// Puts `address` first among those to look at.
    fn remember(&mut self, address: String) {
        self.addresses.retain(|known| *known != address);
        self.addresses.insert(0, address);
    }
}

fn success(response: Response) -> Result<Response, ClientError> {
    match response {
        Response::Failure { code, message } => Err(ClientError::Failure { code, message }),
        other => Ok(other),
    }
}
