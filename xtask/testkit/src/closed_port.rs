//! A port on which nobody listens.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port of 127.0.0.1 that refuses connections. It stays reserved, so that no other test listens on it by chance.
#[derive(Debug)]
pub struct ClosedPort {
    socket: TcpSocket,
}

impl ClosedPort {
    /// Reserves one.
    ///
    /// # Panics
    /// When the system has none.
    pub fn reserve() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // A socket that is bound and does not listen refuses connections.
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        Self { socket }
    }

    /// Its address.
    ///
    /// # Panics
    /// When the system does not know it.
    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("it is bound")
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Gives it up, for a server that is to listen there.
    pub fn give_up(self) -> SocketAddr {
        self.addr()
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn it_refuses_and_is_nobody_elses_until_it_is_given_up() {
        let port = ClosedPort::reserve();
        assert_eq!(TcpStream::connect(port.addr()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(TcpListener::bind(port.addr()).unwrap_err().kind(), ErrorKind::AddrInUse);
        let listener = TcpListener::bind(port.give_up()).unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    }
}
