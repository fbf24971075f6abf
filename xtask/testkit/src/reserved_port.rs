//! A port of this machine for one test.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port of 127.0.0.1 that the system gives to nobody else. It refuses connections while no server of the test listens
/// on it. Servers can listen on it by its number, one after another. Without this, the port of a server that has ended
/// could be given away before the next one listens.
#[derive(Debug)]
pub struct ReservedPort {
    socket: TcpSocket,
}

impl ReservedPort {
    /// Reserves one.
    ///
    /// # Panics
    /// When the system has none.
    pub fn reserve() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Others that allow it, as listeners of std and tokio do, may bind the port too, as this one does not listen.
        socket.set_reuseaddr(true).expect("a socket option");
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
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn it_refuses_until_a_server_of_the_test_listens() {
        let port = ReservedPort::reserve();
        for _ in 0..2 {
            assert_eq!(TcpStream::connect(port.addr()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let listener = TcpListener::bind(port.addr()).unwrap();
            TcpStream::connect(port.addr()).unwrap();
            listener.accept().unwrap();
        }
    }

    #[test]
    fn the_system_gives_it_to_nobody_else() {
        let port = ReservedPort::reserve();
        // The system gives away only ports that such a socket could have.
        let other = TcpSocket::new_v4().unwrap();
        assert_eq!(other.bind(port.addr()).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
}
