//! A port that is served in this process to a synthetic guest.

use hawser_backend::port::Port;
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server, StopHandle};
use hawser_testkit::Result;
use hawser_testkit::frontend::{Vmm, VmmConfig};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// A port and its guest, whose receive ring is full. Dropping it stops the server.
#[derive(Debug)]
pub struct Served {
    /// The guest.
    pub vmm: Vmm,
    stop: StopHandle,
    server: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves `port` on a thread, and connects a guest.
    ///
    /// # Errors
    /// The system refuses a socket, or the front end cannot negotiate.
    pub fn start(port: Arc<Port>) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let server = Server::bind(Endpoint::Fd(theirs.into()), port, Lifetime::OneOff)?;
        let stop = server.stop_handle();
        let server = thread::spawn(move || {
            if let Err(error) = server.run() {
                eprintln!("{error}");
            }
        });
        let mut vmm = Vmm::connect(ours, VmmConfig::default())?;
        vmm.post_all()?;
        Ok(Self {
            vmm,
            stop,
            server: Some(server),
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(server) = self.server.take() {
            // If it panicked, the panic hook has reported it.
            let _ = server.join();
        }
    }
}
