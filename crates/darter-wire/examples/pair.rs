//! One requester and one holder over loopback TCP, each on a thread of its own: how fast, and at what CPU cost.
//!
//! `cargo run -p darter-wire --release --example pair [GIGABYTES] [PIECE_KIB]`

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use darter_core::{BlobId, Clock as _, NodeId, PieceIndex, SystemClock};
use darter_wire::{
    Answer, Bind, BufferPool, DataClient, Payload, Receiving, Request, Sending, Sent, Slots, TcpTransport,
    Transport as _, Unlimited, Uploads, Wanted, serve_data,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

const FILE: u64 = 256 * 1024 * 1024;
const IN_FLIGHT: u32 = 4;

struct Holder {
    file: Arc<File>,
    piece: u32,
}

impl Uploads for Holder {
    fn bind(&self, _: NodeId, request: &Request, _: &dyn Fn() -> Option<u64>) -> Bind {
        let Wanted::Piece(piece) = request.wanted else { return Bind::Refused };
        let offset = u64::from(piece.0) * u64::from(self.piece) % FILE;
        Bind::Send { piece, payload: Payload::File { file: Arc::clone(&self.file), offset, length: self.piece } }
    }

    fn sent(&self, _: NodeId, _: BlobId, _: PieceIndex, _: Option<Sent>) {}

    fn changes(&self) -> watch::Receiver<()> {
        watch::Sender::new(()).subscribe()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let gigabytes: u64 = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let piece: u32 = arguments.next().map_or(Ok(512), |text| text.parse())? * 1024;
    let count = u32::try_from(gigabytes * 1_000_000_000 / u64::from(piece))?;

    let (tell, listening) = mpsc::channel();
    let holder = std::thread::spawn(move || hold(piece, &tell));
    let addr = listening.recv()?;
    let clock = SystemClock::start();
    let requester = ask(&addr, piece, count)?;
    let seconds = clock.now().as_micros() as f64 / 1e6;
    let holder = holder.join().map_err(|_| "the holder panicked")??;

    let moved = f64::from(count) * f64::from(piece) / 1e9;
    println!("{moved:.2} GB in pieces of {} KiB: {:.0} MB/s", piece / 1024, moved * 1000.0 / seconds);
    println!("CPU s/GB: holder {:.3}, requester {:.3}", holder / moved, requester / moved);
    Ok(())
}

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// CPU seconds of this thread.
fn cpu() -> f64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// Serves one connection; returns the CPU seconds it took.
fn hold(piece: u32, tell: &mpsc::Sender<String>) -> Outcome<f64> {
    let mut file = tempfile::tempfile()?;
    let block = vec![7; 1024 * 1024];
    for _ in 0..FILE / block.len() as u64 {
        file.write_all(&block)?;
    }
    let holder = Arc::new(Holder { file: Arc::new(file), piece });
    let clock = Arc::new(SystemClock::start());
    let sending = Sending { slots: Slots::new(4), budget: Arc::new(Unlimited), stall: Duration::from_secs(10), clock };
    runtime()?.block_on(async {
        let listener = TcpTransport::default().listen("127.0.0.1:0").await?;
        tell.send(listener.local_addr().to_string())?;
        let stream = listener.accept().await?;
        let before = cpu();
        serve_data(stream, NodeId([1; 16]), holder, &sending).await?;
        Ok(cpu() - before)
    })
}

/// Asks for `count` pieces; returns the CPU seconds that it took.
fn ask(addr: &str, piece: u32, count: u32) -> Outcome<f64> {
    runtime()?.block_on(async {
        let stream = TcpTransport::default().connect(addr).await?;
        let before = cpu();
        let receiving = Receiving { budget: Arc::new(Unlimited), buffers: BufferPool::default() };
        let (client, mut answers) = DataClient::start(stream, receiving);
        let request = |index| {
            let wanted = Wanted::Piece(PieceIndex(index));
            client.request(
                Request { id: index, blob: BlobId([1; 32]), wanted, urgent: false, takes_packed: false },
                piece,
            )
        };
        for index in 0..IN_FLIGHT.min(count) {
            request(index)?;
        }
        for index in 0..count {
            let Some(Answer::Data { .. }) = answers.recv().await? else { return Err("no piece".into()) };
            if index + IN_FLIGHT < count {
                request(index + IN_FLIGHT)?;
            }
        }
        Ok(cpu() - before)
    })
}
