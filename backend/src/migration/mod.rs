//! The channel between the two processes of a guest that migrates, and the connections that it carries.
//!
//! The guest's half of a TCP connection is a value of this process, and the world's half is a socket. The values follow
//! the guest to the target. The sockets stay in the source, as *anchors*, and the two processes carry bytes between them:
//!
//! ```text
//!  guest --- rings --- connection --- leg ~~~ channel ~~~ leg --- socket --- world
//!                      (target)                           (source)
//! ```
//!
//! So a connection outlives the migration whether or not the pod's address follows, and without privileges. In the
//! target the connection has a loopback socket in place of the world's, whose other end is the leg.
//!
//! | moment | source | target |
//! |---|---|---|
//! | the channel opens | [`Hello`](wire::Message::Hello) | finds the port (`arrival`), and checks that it serves the same NIC: [`Welcome`](wire::Message::Welcome) or [`Refuse`](wire::Message::Refuse) |
//! | the guest stops in the source | freezes its connections and sends their values | adds them, frozen |
//! | the guest runs in the target | gives its sockets to the legs: [`Parted`](wire::Message::Parted) | [`Running`](wire::Message::Running); its connections continue |
//! | the guest runs in the source again | its connections continue: [`Resumed`](wire::Message::Resumed) | forgets them |
//!
//! The source decides. Its worker freezes connections only while the guest is stopped, and parts with them only while
//! they are frozen; a guest that runs there again ends that. Each attempt has a number, its epoch, and messages of
//! another epoch are ignored. If the channel ends, what it carries is reset on both sides.
//!
//! UDP flows cross the channel in the same way, with a loopback socket for datagrams (`datagrams`). Echo flows need
//! no anchor: the target sends with the same identifier. Replies that are on their way to the source, and in bridge
//! mode frames of the segment, reach the guest as [`Frame`](wire::Message::Frame): the source looks for them until
//! peers and segment know where the guest is.
//!
//! [`wire`] is the format of the channel and [`leg`] the flow control of one connection; neither owns a socket. [`relay`]
//! moves the bytes, and [`role`] says what happens when.

mod arrival;
mod datagrams;
mod greeting;
pub mod leg;
mod loopback;
pub mod relay;
pub mod role;
mod source;
pub mod status;
mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;

pub use arrival::{Arrival, FindPort};
pub use greeting::Unread;
pub use role::{Handle, Migration, MigrationError, Part};
pub use status::{Phase, Report, Status};
