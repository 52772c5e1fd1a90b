//! An HTTP proxy.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::http::read_request;

/// A proxy that connects every `CONNECT` to one target and records the requested hosts.
pub struct Proxy {
    pub address: SocketAddr,
    hosts: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy to the port `target` of this machine.
    pub fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hosts = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&hosts);
        // The thread ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), hosts) = (stream, Arc::clone(&shared)) else {
                    continue;
                };
                std::thread::spawn(move || {
                    let Ok(Some(request)) = read_request(&mut stream) else {
                        return;
                    };
                    assert_eq!(request.method, "CONNECT");
                    hosts.lock().unwrap().push(request.path);
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    let mut server = TcpStream::connect(("127.0.0.1", target)).unwrap();
                    let (mut from, mut to) =
                        (stream.try_clone().unwrap(), server.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                    let _ = std::io::copy(&mut server, &mut stream);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                });
            }
        });
        Self { address, hosts }
    }

    /// Returns the requested hosts in order.
    pub fn hosts(&self) -> Vec<String> {
        self.hosts.lock().unwrap().clone()
    }
}
