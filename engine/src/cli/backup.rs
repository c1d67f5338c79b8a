//! `ringlite backup` and `ringlite restore`: a database as a file, out of a cluster and into one.

use std::path::PathBuf;

use super::progress::Progress;
use super::split_addresses;
use crate::client::{Client, ClientError, ClientOptions, SourceFile};

/// How often a copy or an upload is begun anew because the leader has changed.
const ATTEMPTS_MAX: usize = 5;

/// Copy a database into a file while writing goes on
///
/// The file is a SQLite database: the state of one moment, which has everything that was committed
/// before the command began. It is written to FILE.partial and appears when it is whole.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// Addresses of one or more nodes, separated by commas; the leader is found through them
    #[arg(value_name = "ADDR[,ADDR...]")]
    addresses: String,
    /// The name of the database
    #[arg(value_name = "DB")]
    database: String,
    /// The file; one that is there is replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Copy what the first node named has applied, whether it leads or not, which spares the leader
    /// the work; the newest commits may be missing
    #[arg(long)]
    local: bool,
}

/// Make a SQLite file a database of the cluster
///
/// The file may have any page size, and be in rollback-journal or WAL mode. Nothing of it is to be
/// seen before all of it is on the disks of a majority; if the command is interrupted, nothing has
/// happened.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// Addresses of one or more nodes, separated by commas; the leader is found through them
    #[arg(value_name = "ADDR[,ADDR...]")]
    addresses: String,
    /// The name of the database
    #[arg(value_name = "DB")]
    database: String,
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the database if there is one of this name; what is open on it is ended
    #[arg(long)]
    replace: bool,
    /// Do not examine the file with PRAGMA quick_check first
    #[arg(long)]
    no_check: bool,
}

/// Why a restore has not ended well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// It has not happened.
    #[error("{0}")]
    NotDone(#[from] ClientError),
    /// Nobody knows whether it has happened.
    #[error(
        "the file was sent, but the answer to the last request was lost: the restore may have \
         happened or not, look before you repeat it ({0})"
    )]
    OutcomeUnknown(#[source] ClientError),
}

/// Copies a database into a file.
///
/// # Errors
/// Those of the connection, the cluster and the file. The caller prints it.
pub(crate) fn run_backup(args: &BackupArgs) -> Result<(), ClientError> {
    let addresses = split_addresses(&args.addresses);
    let mut client = if args.local {
        Client::connect_to(addresses.first().map_or("", String::as_str))?
    } else {
        Client::connect(&addresses, ClientOptions::default())?
    };
    let mut attempts_left = ATTEMPTS_MAX;
    let head = loop {
        attempts_left -= 1;
        let progress = Progress::begin(&format!("backing up {}", args.database));
        let report = |done, total| progress.advance(done, total);
        match client.backup(&args.database, args.local, &args.file, report) {
            Ok(head) => break head,
            Err(error) if attempts_left > 0 && is_worth_repeating(&error) => {
                drop(progress);
                eprintln!("beginning anew: {error}");
                client.reconnect()?;
            }
            Err(error) => return Err(error),
        }
    };
    println!(
        "{}: {} pages of {} bytes, the state at index {}",
        args.file.display(),
        head.page_count,
        head.page_size,
        head.applied
    );
    Ok(())
}

/// Whether the node has changed its role meanwhile, so that another attempt may well succeed.
fn is_worth_repeating(error: &ClientError) -> bool {
    let was_given_up = matches!(error, ClientError::Failure { code, .. }
        if *code == rusqlite::ffi::SQLITE_IOERR as u64);
    error.is_not_leader()
        || error.is_outcome_unknown()
        || error.is_connection_lost()
        || was_given_up
}

/// Makes a file a database.
///
/// # Errors
/// Those of the file, the connection and the cluster. The caller prints it.
pub(crate) fn run_restore(args: &RestoreArgs) -> Result<(), RestoreError> {
    let checking = Progress::begin(&format!("checking {}", args.file.display()));
    let mut file = SourceFile::open(&args.file, !args.no_check)?;
    drop(checking);
    let addresses = split_addresses(&args.addresses);
    let mut client = Client::connect(&addresses, ClientOptions::default())?;
    // The members are places to look for the next leader. It works without, if less well.
    let _ = client.cluster();
    let mut attempts_left = ATTEMPTS_MAX;
    loop {
        attempts_left -= 1;
        let progress = Progress::begin(&format!("restoring {}", args.database));
        let report = |done, total| progress.advance(done, total);
        let sent = client.send_restore(&args.database, &mut file, args.replace, report);
        drop(progress);
        let is_sent = sent.is_ok();
        let error = match sent.and_then(|()| client.finish_restore()) {
            Ok(()) => break,
            Err(error) => error,
        };
        if is_sent && (error.is_outcome_unknown() || error.is_connection_lost()) {
            return Err(RestoreError::OutcomeUnknown(error));
        }
        if attempts_left == 0 || !is_worth_repeating(&error) {
            return Err(error.into());
        }
        eprintln!("beginning anew: {error}");
        client.reconnect()?;
    }
    println!("{}: {} bytes restored", args.database, file.bytes());
    Ok(())
}
