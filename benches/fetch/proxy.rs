//! A TCP proxy that adds latency and nothing else: the machine's kernel may have no netem.

use anyhow::Result;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const CHUNK_SIZE: usize = 64 * 1024;

/// Chunks on their way in one direction of one connection: enough for more than 1 GB a second.
const CHUNKS: usize = 256;

/// When it arrives, and what it is.
type Chunk = (Instant, Vec<u8>);

/// Serves until standard input ends; the port is the first line of output. A round trip takes
/// `latency` milliseconds.
pub(crate) fn run(upstream: &str, latency: u64) -> Result<()> {
    let one_way = Duration::from_millis(latency) / 2;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let upstream = upstream.to_string();
    spawn(move || {
        for client in listener.incoming().flatten() {
            let upstream = upstream.clone();
            spawn(move || connect(&client, &upstream, one_way));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn connect(client: &TcpStream, upstream: &str, one_way: Duration) -> Result<()> {
    // A handshake is a round trip too, and loopback has made this one at once.
    sleep(2 * one_way);
    let server = TcpStream::connect(upstream)?;
    forward(client.try_clone()?, server.try_clone()?, one_way)?;
    forward(server, client.try_clone()?, one_way)
}

/// Starts one direction.
fn forward(from: TcpStream, to: TcpStream, one_way: Duration) -> Result<()> {
    to.set_nodelay(true)?;
    let (sender, receiver) = sync_channel(CHUNKS);
    spawn(move || receive(from, &sender, one_way));
    spawn(move || deliver(to, &receiver));
    Ok(())
}

fn receive(mut from: TcpStream, sender: &SyncSender<Chunk>, one_way: Duration) {
    let mut buffer = vec![0; CHUNK_SIZE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if sender
            .send((Instant::now() + one_way, buffer[..count].to_vec()))
            .is_err()
        {
            return;
        }
    }
}

fn deliver(mut to: TcpStream, receiver: &Receiver<Chunk>) {
    for (arrival, bytes) in receiver {
        sleep(arrival.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
