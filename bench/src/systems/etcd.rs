//! etcd: three nodes, puts and ranges through its gRPC gateway.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::error::{LoadError, MeasureError};
use crate::load::Client;
use crate::operation::Operation;
use crate::systems::http::Http;
use crate::systems::remote::{Remote, free_addresses};
use crate::workload::VALUE_BYTES;

pub(super) const PROGRAM: &str = "etcd";
pub(super) const SETTINGS: &str = "the defaults, with --max-txn-ops 1024: the log is synced before \
     a commit is acknowledged; puts and linearizable ranges as JSON over HTTP/1.1 to the leader's \
     gRPC gateway, connections kept open";

const NODES: usize = 3;
/// Keys that one transaction of the preparation writes.
const SEED_STEP: i64 = 250;

/// Starts the nodes.
pub(super) fn start(program: &Path, directory: &Path) -> Result<Remote<Etcd>, MeasureError> {
    let addresses = free_addresses(NODES, 2)?;
    let clients: Vec<String> = addresses.iter().map(|pair| pair[0].clone()).collect();
    let members: Vec<String> = (1..)
        .zip(&addresses)
        .map(|(id, pair)| format!("n{id}=http://{}", pair[1]))
        .collect();
    let arguments = (1..)
        .zip(&addresses)
        .map(|(id, pair)| {
            let data = directory.join(format!("node-{id}"));
            let (client, peer) = (format!("http://{}", pair[0]), format!("http://{}", pair[1]));
            let words = [
                "--name",
                &format!("n{id}"),
                "--data-dir",
                &data.to_string_lossy(),
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &members.join(","),
                "--initial-cluster-token",
                "ringlite-bench",
                "--initial-cluster-state",
                "new",
                "--max-txn-ops",
                "1024",
                "--logger",
                "zap",
                "--log-level",
                "error",
            ];
            words.map(str::to_owned).into()
        })
        .collect();
    Remote::start(program, directory, arguments, &clients)
}

/// A connection to the leader.
pub(super) struct Etcd {
    http: Http,
    /// The keys of its rows begin with this, and no other connection's do.
    connection: u64,
    rows: u64,
}

/// The ids are numbers that are said as strings.
#[derive(Deserialize)]
struct Status {
    header: Header,
    #[serde(default)]
    leader: String,
}

#[derive(Deserialize)]
struct Header {
    member_id: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<IgnoredAny>,
}

impl Client for Etcd {
    /// Only the leader itself says so: others name an id.
    async fn to_leader_by(address: SocketAddr) -> Result<Option<Self>, LoadError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut http = Http::dial(address).await?;
        let status: Status = http.post("/v3/maintenance/status", "{}").await?;
        let leads = status.leader == status.header.member_id;
        Ok(leads.then(|| Self {
            http,
            connection: NEXT.fetch_add(1, Ordering::Relaxed),
            rows: 0,
        }))
    }

    async fn perform(&mut self, operation: Operation) -> Result<(), LoadError> {
        match operation {
            Operation::Insert(row) => {
                let put = put(&self.next_row(), &row);
                self.post("/v3/kv/put", &put).await
            }
            Operation::Upsert(key, value) => {
                let put = put(&key_name(key), &value);
                self.post("/v3/kv/put", &put).await
            }
            Operation::InsertAll(rows) | Operation::InsertMany(rows) => {
                let puts = rows.iter().map(|row| put(&self.next_row(), row)).collect();
                self.put_all(puts).await
            }
            Operation::SeedKeys(first, end) => {
                let step = usize::try_from(SEED_STEP).unwrap_or(1);
                for first in (first..end).step_by(step) {
                    let keys = first..end.min(first + SEED_STEP);
                    let value = vec![0; VALUE_BYTES];
                    let puts = keys.map(|key| put(&key_name(key), &value)).collect();
                    self.put_all(puts).await?;
                }
                Ok(())
            }
            Operation::Read(key) => {
                let range = json!({ "key": STANDARD.encode(key_name(key)) }).to_string();
                let range: Range = self.http.post("/v3/kv/range", &range).await?;
                if range.kvs.is_empty() {
                    return Err(LoadError::Answer("nothing has the key".to_owned()));
                }
                Ok(())
            }
            Operation::Define(_) | Operation::SeedOrders | Operation::Order(_) => {
                Err(LoadError::Unsupported)
            }
        }
    }
}

impl Etcd {
    fn next_row(&mut self) -> String {
        self.rows += 1;
        format!("row/{}/{}", self.connection, self.rows)
    }

    async fn put_all(&mut self, puts: Vec<Value>) -> Result<(), LoadError> {
        let puts: Vec<Value> = puts
            .into_iter()
            .map(|put| json!({ "requestPut": put }))
            .collect();
        self.post("/v3/kv/txn", &json!({ "success": puts })).await
    }

    async fn post(&mut self, path: &str, json: &Value) -> Result<(), LoadError> {
        let json = json.to_string();
        let _: IgnoredAny = self.http.post(path, &json).await?;
        Ok(())
    }
}

fn key_name(key: i64) -> String {
    format!("pair/{key}")
}

fn put(key: &str, value: &[u8]) -> Value {
    json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) })
}
