//! What can be wrong with a message, and what the server says about it.

/// The codes of a FAILURE that are not SQLite's own.
///
/// SQLite's (extended) result codes travel as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
#[non_exhaustive]
pub enum FailureCode {
    /// SQLITE_ERROR: generic.
    Error = 1,
    /// SQLITE_BUSY.
    Busy = 5,
    /// SQLITE_IOERR, the catch-all of the protocol.
    IoError = 10,
    /// SQLITE_NOTFOUND: no such statement, or no database opened on this connection.
    NotFound = 12,
    /// SQLITE_PROTOCOL: a format of DESCRIBE that is not known.
    Format = 15,
    /// SQLITE_TOOBIG: a message or a value that does not fit.
    TooBig = 18,
    /// SQLITE_AUTH.
    Auth = 23,
    /// The message breaks the protocol.
    Protocol = 1001,
    /// DUMP of a database that does not exist.
    NoDatabase = 1002,
    /// The message is well framed, but of a type, schema or format that is not known.
    Parse = 1005,
    /// This node does not lead: nothing was done, ask the leader.
    NotLeader = 10_250,
    /// Leadership was lost while a write was under way: whether it was committed is not known.
    LeadershipLost = 10_506,
}

/// What is wrong with a message.
///
/// The text is what the client gets; it begins with the peer's own words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The body ends inside a field.
    #[error(
        "malformed message: {field} needs {needed} bytes where the body has {left} left; \
         the connection is closed, check the client's encoding"
    )]
    Truncated {
        /// The field.
        field: &'static str,
        /// How many bytes it says it has.
        needed: u64,
        /// How many there are.
        left: u64,
    },
    /// A text has no NUL at its end.
    #[error(
        "malformed message: {field} is a text without a terminating NUL; \
         the connection is closed, check the client's encoding"
    )]
    Unterminated {
        /// The field.
        field: &'static str,
    },
    /// A value has a type code that rows cannot have, or the row header is none.
    #[error("malformed message: column {column} has the unknown value type {code}")]
    UnknownColumnType {
        /// The column, from 0.
        column: usize,
        /// The type code.
        code: u8,
    },
    /// A message is longer than what is accepted.
    #[error(
        "message too large: {bytes} bytes where {bytes_max} are accepted; \
         send the data in several statements"
    )]
    TooLarge {
        /// Its body, in bytes.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// A text is not UTF-8.
    #[error("{field} is not valid UTF-8 at byte {valid_up_to}; pass such bytes as a BLOB")]
    NotUtf8 {
        /// The field.
        field: &'static str,
        /// The bytes before it are valid.
        valid_up_to: usize,
    },
    /// A request of a type that does not exist.
    #[error("unrecognized request type {kind}")]
    UnknownRequest {
        /// The type in the frame header.
        kind: u8,
    },
    /// A response of a type that does not exist.
    #[error("unrecognized response type {kind}; the server may be of a newer version")]
    UnknownResponse {
        /// The type in the frame header.
        kind: u8,
    },
    /// A schema that this type of request does not have.
    #[error("unrecognized schema version {schema} of request type {kind}")]
    UnknownSchema {
        /// The request's type.
        kind: u8,
        /// The schema in the frame header.
        schema: u8,
        /// Whether the request has more than one schema (the peer answers these differently).
        several: bool,
    },
    /// A parameter has a type code that does not exist, or one that is only for results.
    #[error(
        "bind parameters: parameter {index} has the value type {code}, \
         which is not accepted for a parameter"
    )]
    RefusedParameterType {
        /// The parameter, from 1 as in SQL.
        index: usize,
        /// The type code.
        code: u8,
    },
    /// More parameters than a message can carry.
    #[error("{count} parameters where a statement may have {count_max}")]
    TooManyParameters {
        /// How many.
        count: usize,
        /// The bound.
        count_max: usize,
    },
    /// CLUSTER asks for a format that does not exist.
    #[error("unrecognized cluster format {format}; 0 and 1 are known")]
    UnknownClusterFormat {
        /// The format.
        format: u64,
    },
    /// DESCRIBE asks for a format that does not exist.
    #[error("unrecognized format {format} of DESCRIBE; 0 is known")]
    UnknownDescribeFormat {
        /// The format.
        format: u64,
    },
    /// A role that does not exist.
    #[error("unrecognized role {role}; 0 is a voter, 1 a standby, 2 a spare")]
    UnknownRole {
        /// The role on the wire.
        role: u64,
    },
    /// A file in a dump whose length is no multiple of a word, which the format cannot express.
    #[error("cannot dump {name}: its {bytes} bytes are no multiple of 8")]
    UnalignedFile {
        /// The file's name.
        name: String,
        /// Its length.
        bytes: usize,
    },
}

impl WireError {
    /// The code of the FAILURE that answers such a request.
    pub fn failure_code(&self) -> u64 {
        let code = match self {
            Self::Truncated { .. }
            | Self::Unterminated { .. }
            | Self::UnknownColumnType { .. }
            | Self::TooLarge { .. } => FailureCode::Protocol,
            Self::UnknownRequest { .. }
            | Self::UnknownResponse { .. }
            | Self::UnknownSchema { several: false, .. }
            | Self::UnknownClusterFormat { .. }
            | Self::UnknownRole { .. } => FailureCode::Parse,
            Self::UnknownDescribeFormat { .. } => FailureCode::Format,
            Self::NotUtf8 { .. }
            | Self::UnknownSchema { several: true, .. }
            | Self::RefusedParameterType { .. } => FailureCode::Error,
            Self::TooManyParameters { .. } | Self::UnalignedFile { .. } => FailureCode::TooBig,
        };
        code as u64
    }

    /// The text of the FAILURE that answers such a request.
    pub fn failure_message(&self) -> String {
        self.to_string()
    }

    /// Whether the connection must be closed after that FAILURE.
    ///
    /// It must be where the sender's idea of the layout differs from ours, because what follows
    /// could be anything. A request that is well formed but not accepted leaves it open.
    pub fn closes_connection(&self) -> bool {
        self.failure_code() == FailureCode::Protocol as u64
    }
}
