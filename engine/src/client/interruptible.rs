//! Requests that another thread may interrupt while this one waits for their answers.

use std::net::TcpStream;
use std::time::Duration;

use super::{Client, ClientError, DATABASE_ID, success};
use crate::rows::{RowBatch, Value};
use crate::wire::{self, Response};

/// How a query has ended.
pub(crate) enum QueryEnd<T> {
    /// With this.
    Whole(T),
    /// With more rows than were to be taken; the rest was called off.
    TooLarge,
    /// By an INTERRUPT of another thread, which has its answer by that.
    Interrupted,
}

impl Client {
    /// While the server is silent, `is_lost` is asked every `slice` whether to give it up before
    /// [`ClientOptions::request_timeout`](super::ClientOptions::request_timeout) has passed.
    pub(crate) fn set_patience(
        &mut self,
        slice: Duration,
        is_lost: impl FnMut() -> bool + Send + 'static,
    ) -> Result<(), ClientError> {
        let server_timeout = self.options.request_timeout;
        match &mut self.connection {
            Some(connection) => connection.set_patience(server_timeout, slice, Box::new(is_lost)),
            None => Ok(()),
        }
    }

    /// From now on `sent` is called whenever a request was sent as a whole. Before that an INTERRUPT of
    /// another handle could overtake it, or come into the middle of it.
    pub(crate) fn on_sent(&mut self, sent: impl FnMut() + Send + 'static) {
        if let Some(connection) = &mut self.connection {
            connection.on_sent(Box::new(sent));
        }
    }

    /// Another handle on the connection, to send an INTERRUPT while this one waits.
    pub(crate) fn second_handle(&self) -> Option<TcpStream> {
        self.connection.as_ref()?.second_handle().ok()
    }

    /// Takes the answer to an INTERRUPT that another thread has sent while a request was under way
    /// which has its own answer.
    pub(crate) fn finish_interrupt(&mut self) -> Result<(), ClientError> {
        match self.receive()? {
            Response::Empty => Ok(()),
            other => Err(self.unexpected("EMPTY", &other)),
        }
    }

    /// [`Client::query`], of at most about `bytes_max` bytes of values.
    pub(crate) fn query_within(
        &mut self,
        sql: &str,
        parameters: &[Value],
        bytes_max: usize,
    ) -> Result<QueryEnd<RowBatch>, ClientError> {
        let mut response = success(self.exchange_any(|out| {
            wire::encode_query_sql(out, u64::from(DATABASE_ID), sql, parameters)
        })?)?;
        let mut whole: Option<RowBatch> = None;
        let mut bytes = 0;
        loop {
            let batch = match response {
                Response::Rows(batch) => batch,
                Response::Empty => return Ok(QueryEnd::Interrupted),
                other => return Err(self.unexpected("ROWS", &other)),
            };
            let is_complete = batch.complete;
            bytes += batch.rows.iter().flatten().map(value_bytes).sum::<usize>();
            match &mut whole {
                Some(whole) => whole.rows.extend(batch.rows),
                None => whole = Some(batch),
            }
            if is_complete {
                break;
            }
            if bytes > bytes_max {
                self.interrupt()?;
                return Ok(QueryEnd::TooLarge);
            }
            response = self.receive_success()?;
        }
        Ok(match whole {
            Some(batch) if bytes <= bytes_max => QueryEnd::Whole(RowBatch {
                complete: true,
                ..batch
            }),
            _ => QueryEnd::TooLarge,
        })
    }
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
    }
}
