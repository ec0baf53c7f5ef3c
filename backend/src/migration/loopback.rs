//! Sockets of this host in place of those of the world.

use crate::nat::tcp::listen;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Connected pairs of sockets within the network namespace of the thread.
pub(super) struct Loopback {
    listener: Socket,
    at: SocketAddr,
}

impl Loopback {
    pub(super) fn new() -> io::Result<Self> {
        let listener = listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
        let at = listener.local_addr()?.as_socket();
        let at = at.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { listener, at })
    }

    /// Two connected sockets for datagrams.
    pub(super) fn datagrams() -> io::Result<(Socket, Socket)> {
        /// Requested size of a buffer, for a burst of the guest.
        const BUFFER: usize = 4 << 20;
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), None)?;
            // Smaller buffers lose bursts sooner, but that is no reason to fail.
            let _ = socket.set_recv_buffer_size(BUFFER);
            let _ = socket.set_send_buffer_size(BUFFER);
            socket.bind(&any.into())?;
            Ok(socket)
        };
        let (near, far) = (open()?, open()?);
        near.connect(&far.local_addr()?)?;
        far.connect(&near.local_addr()?)?;
        for socket in [&near, &far] {
            // What other processes of the pod have sent before.
            while socket.recv(&mut [std::mem::MaybeUninit::uninit()]).is_ok() {}
        }
        Ok((near, far))
    }

    /// A socket with the options of host sockets, and its peer.
    pub(super) fn pair(&mut self) -> io::Result<(Socket, Socket)> {
        /// Other processes of the pod may connect at the same time.
        const TRIES: usize = 64;
        let far = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
        far.connect(&self.at.into())?;
        far.set_tcp_nodelay(true)?;
        let ours = far.local_addr()?.as_socket();
        for _ in 0..TRIES {
            let (near, peer) = self.listener.accept()?;
            if peer.as_socket() == ours {
                return Ok((near, far));
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}
