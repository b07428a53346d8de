//! A name server on an address of loopback, whose answers a test gives.
//!
//! Format: RFC 1035. A question has one name, and is answered over UDP, or over TCP where the answer has
//! more than 512 bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const PORT: u16 = 53;

/// Bytes of an answer over UDP.
const MAX_DATAGRAM: usize = 512;

/// How long the server waits for a question before it looks whether it has to end.
const TICK: Duration = Duration::from_millis(20);

/// The type of the records that are asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Records {
    /// Addresses of IPv4.
    A,
    /// Addresses of IPv6.
    Aaaa,
    Other,
}

/// An answer to a question.
#[derive(Clone, Debug)]
pub enum Answer {
    Addresses(Vec<Ipv4Addr>),
    /// The name exists, but has no such records.
    NoData,
    /// NXDOMAIN: the name does not exist.
    NoName,
    /// SERVFAIL.
    Failure,
}

type Answers = dyn Fn(&str, Records) -> Answer + Send + Sync;

/// A name server; it ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    address: Ipv4Addr,
    questions: Arc<Mutex<Vec<(String, Records)>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Starts one on an address that no other has.
    ///
    /// # Errors
    /// Where the user may not listen on port 53.
    pub fn start(
        answers: impl Fn(&str, Records) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut last = io::ErrorKind::AddrInUse.into();
        for number in 1..=250 {
            let address = Ipv4Addr::new(127, 53, 53, number);
            let udp = match UdpSocket::bind((address, PORT)) {
                Ok(udp) => udp,
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    last = error;
                    continue;
                }
                Err(error) => return Err(error),
            };
            udp.set_read_timeout(Some(TICK))?;
            let tcp = TcpListener::bind((address, PORT))?;
            tcp.set_nonblocking(true)?;
            let questions = Arc::default();
            let ends = Arc::default();
            let server = Server {
                udp,
                tcp,
                answers: Box::new(answers),
                questions: Arc::clone(&questions),
                ends: Arc::clone(&ends),
            };
            return Ok(Self {
                address,
                questions,
                ends,
                thread: Some(thread::spawn(move || server.serve())),
            });
        }
        Err(last)
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The questions so far: names in small letters, without the last dot.
    pub fn questions(&self) -> Vec<(String, Records)> {
        let questions = self.questions.lock();
        questions.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    answers: Box<Answers>,
    questions: Arc<Mutex<Vec<(String, Records)>>>,
    ends: Arc<AtomicBool>,
}

impl Server {
    fn serve(&self) {
        let mut question = [0; MAX_DATAGRAM];
        while !self.ends.load(Relaxed) {
            if let Ok((size, from)) = self.udp.recv_from(&mut question)
                && let Some(mut answer) = self.answer(&question[..size])
            {
                if answer.len() > MAX_DATAGRAM {
                    // It is truncated: to be asked for again over TCP.
                    answer[2] |= 2;
                    answer.truncate(size);
                    answer[6..8].copy_from_slice(&[0, 0]);
                }
                // Who asked may be gone.
                let _ = self.udp.send_to(&answer, from);
            }
            if let Ok((stream, _)) = self.tcp.accept() {
                let _ = self.answer_over(stream);
            }
        }
    }

    fn answer_over(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // The resolver asks for several types in a row, and closes the connection when it has all.
        loop {
            let mut size = [0; 2];
            stream.read_exact(&mut size)?;
            let mut question = vec![0; usize::from(u16::from_be_bytes(size))];
            stream.read_exact(&mut question)?;
            let answer = self.answer(&question).unwrap_or_default();
            let size = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&size.to_be_bytes())?;
            stream.write_all(&answer)?;
        }
    }

    /// The whole answer to a question; None if that makes no sense.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = name(question.get(12..)?)?;
        let end = 12 + end;
        let records = match question.get(end..end + 2)? {
            [0, 1] => Records::A,
            [0, 28] => Records::Aaaa,
            _ => Records::Other,
        };
        let end = end + 4;
        let given = (self.answers)(&name, records);
        let questions = self.questions.lock();
        let mut questions = questions.unwrap_or_else(PoisonError::into_inner);
        questions.push((name, records));
        let (code, addresses) = match given {
            Answer::Addresses(addresses) => (0, addresses),
            Answer::NoData => (0, Vec::new()),
            Answer::NoName => (3, Vec::new()),
            Answer::Failure => (2, Vec::new()),
        };
        let mut answer = question.get(..2)?.to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1]);
        answer.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(question.get(12..end)?);
        for address in addresses {
            // The name of the question, type A, class IN, no time to live, four bytes.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            answer.extend(address.octets());
        }
        Some(answer)
    }
}

/// The name that `bytes` begin with, and its size there.
fn name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 0;
    loop {
        let size = usize::from(*bytes.get(at)?);
        at += 1;
        if size == 0 {
            return Some((labels.join("."), at));
        }
        let label = bytes.get(at..at + size)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += size;
    }
}
