//! The same through glommio, which the engine runs on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::io::OpenOptions;
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use rustix::fs::OFlags;

use super::block_file::BlockFile;
use super::two_cores;
use crate::error::MeasureError;
use crate::outcome::Outcome;
use crate::pace::{Pace, Window};

/// Below glommio's default, which is above the usual limit of locked memory.
const IO_MEMORY_BYTES: usize = 2 << 20;

/// Measures durable writes of `bytes` bytes on a pinned executor.
pub(super) fn writes(
    directory: &Path,
    bytes: usize,
    length: Duration,
) -> Result<Outcome, MeasureError> {
    let (core, _) = two_cores();
    let mut file = BlockFile::new(directory, bytes).map_err(MeasureError::RawWrite)?;
    let written = pinned(core, move || async move {
        let durable = OFlags::DSYNC.bits().cast_signed();
        let open = OpenOptions::new()
            .write(true)
            .custom_flags(durable)
            .dma_open(file.path())
            .await;
        let direct = open.map_err(io::Error::from)?;
        let window = Window::after_warm_up(Pace::BackToBack, length);
        let mut outcome = Outcome::new();
        let mut start = Instant::now();
        while start < window.gives_up() {
            let mut block = direct.alloc_dma_buffer(bytes);
            block.as_bytes_mut().fill(0xa5);
            let written = direct.write_at(block, file.next_offset()).await;
            if written.map_err(io::Error::from)? != bytes {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let end = Instant::now();
            outcome.count(&window, (start, end), Ok(()));
            start = end;
        }
        direct.close().await.map_err(io::Error::from)?;
        Ok(outcome)
    })?;
    written.map_err(MeasureError::RawWrite)
}

/// Measures round trips of `bytes` bytes between two executors, each pinned to a core of its own if
/// there are two.
pub(super) fn round_trips(bytes: usize, length: Duration) -> Result<Outcome, MeasureError> {
    let (near, far) = two_cores();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            pinned(far, move || async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
                let listener = listener.map_err(io::Error::from)?;
                let address = listener.local_addr().map_err(io::Error::from)?;
                // The other thread waits for it.
                let _ = tell.send(address);
                let stream = listener.accept().await.map_err(io::Error::from)?;
                echo(stream, bytes).await
            })
        });
        let Ok(address) = told.recv() else {
            let failed = joined(echo.join())?;
            return Err(MeasureError::RoundTrip(
                failed.err().unwrap_or_else(|| io::ErrorKind::Other.into()),
            ));
        };
        let outcome = pinned(near, move || ping(address, bytes, length))?;
        joined(echo.join())?.map_err(MeasureError::RoundTrip)?;
        outcome.map_err(MeasureError::RoundTrip)
    })
}

async fn ping(address: SocketAddr, bytes: usize, length: Duration) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect(address).await.map_err(io::Error::from)?;
    stream.set_nodelay(true).map_err(io::Error::from)?;
    let mut message = vec![0; bytes];
    let window = Window::after_warm_up(Pace::BackToBack, length);
    let mut outcome = Outcome::new();
    let mut start = Instant::now();
    while start < window.gives_up() {
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
        let end = Instant::now();
        outcome.count(&window, (start, end), Ok(()));
        start = end;
    }
    Ok(outcome)
}

async fn echo(mut stream: TcpStream, bytes: usize) -> io::Result<()> {
    stream.set_nodelay(true).map_err(io::Error::from)?;
    let mut message = vec![0; bytes];
    loop {
        match stream.read_exact(&mut message).await {
            Ok(()) => stream.write_all(&message).await?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a future on an executor on a core.
fn pinned<T, Running>(
    core: usize,
    work: impl FnOnce() -> Running + Send + 'static,
) -> Result<T, MeasureError>
where
    T: Send + 'static,
    Running: Future<Output = T> + 'static,
{
    let executor = LocalExecutorBuilder::new(Placement::Fixed(core))
        .io_memory(IO_MEMORY_BYTES)
        .spawn(work)
        .map_err(|error| MeasureError::Executor(error.to_string()))?;
    executor
        .join()
        .map_err(|error| MeasureError::Executor(error.to_string()))
}
