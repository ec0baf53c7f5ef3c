//! hawser's control messages about the path between two of its processes.
//!
//! ```text
//!  0                   1                   2                   3
//! +---------------+---------------+---------------+---------------+
//! |     Kind      |     Count     |     Index     |       0       |
//! +---------------+---------------+---------------+---------------+
//! |                             Nonce                             |
//! +---------------------------------------------------------------+
//! |  request: bytes that follow from nonce and index              |
//! |  answer: a bit for each index that arrived intact (64 bits)   |
//! +---------------------------------------------------------------+
//! ```
//!
//! They follow a Geneve header with the O bit (RFC 8926 section 3.4) and an experimental protocol type, so an endpoint
//! that does not know them drops them. A process sends `Count` requests of equal size in one system call that the kernel
//! splits. The far end compares the bytes of each and answers. So an answer says what the kernels and devices on the path
//! have made of the batch.

use super::{BASE_LEN, GeneveError, GeneveHeader, GenevePacket, Vni};

/// Protocol type: IEEE Std 802 local experimental.
const PROTOCOL: u16 = 0x88b5;
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
/// Bytes before those that depend on the kind.
const FIXED: usize = 8;

/// One of the datagrams of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// A number that the sender has chosen at random.
    pub nonce: u32,
    /// Datagrams in the batch, at most 64.
    pub count: u8,
    /// Number of this one, from 0.
    pub index: u8,
}

/// An answer to some datagrams of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// That of the requests.
    pub nonce: u32,
    /// That of the requests.
    pub count: u8,
    /// A bit for each index that arrived intact, the lowest for 0.
    pub intact: u64,
}

/// A control message of hawser's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMessage {
    /// A request.
    Request {
        /// Its fields.
        request: ProbeRequest,
        /// All its bytes are as they were sent.
        is_intact: bool,
    },
    /// An answer.
    Answer(ProbeAnswer),
}

impl ProbeRequest {
    /// The least bytes of a datagram with a request.
    pub const MIN_LEN: usize = BASE_LEN + FIXED;

    /// Writes the whole datagram; false if `out` is shorter than [`MIN_LEN`](Self::MIN_LEN).
    pub fn write(self, vni: Vni, out: &mut [u8]) -> bool {
        let Some((head, pattern)) = out.split_at_mut_checked(Self::MIN_LEN) else {
            return false;
        };
        write_head(vni, [REQUEST, self.count, self.index, 0], self.nonce, head);
        for (place, byte) in pattern.iter_mut().zip(self.pattern()) {
            *place = byte;
        }
        true
    }

    /// The bytes that fill a request, without an end.
    fn pattern(self) -> impl Iterator<Item = u8> {
        let mut state = self.nonce ^ u32::from(self.index).wrapping_mul(0x9e37_79b1);
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            state.to_be_bytes()[0]
        })
    }
}

impl ProbeAnswer {
    /// Bytes of a datagram with an answer.
    pub const LEN: usize = BASE_LEN + FIXED + 8;

    /// The whole datagram.
    pub fn to_bytes(self, vni: Vni) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        write_head(
            vni,
            [ANSWER, self.count, 0, 0],
            self.nonce,
            &mut bytes[..BASE_LEN + FIXED],
        );
        bytes[BASE_LEN + FIXED..].copy_from_slice(&self.intact.to_be_bytes());
        bytes
    }
}

fn write_head(vni: Vni, first: [u8; 4], nonce: u32, out: &mut [u8]) {
    out[..BASE_LEN].copy_from_slice(GeneveHeader::new(vni).into_control(PROTOCOL).as_bytes());
    out[BASE_LEN..BASE_LEN + 4].copy_from_slice(&first);
    out[BASE_LEN + 4..BASE_LEN + FIXED].copy_from_slice(&nonce.to_be_bytes());
}

impl ProbeMessage {
    /// Reads a whole datagram of network `vni`. `None`: it is something else.
    ///
    /// # Errors
    /// The datagram is not a Geneve packet.
    pub fn parse(vni: Vni, datagram: &[u8]) -> Result<Option<Self>, GeneveError> {
        let packet = GenevePacket::parse(datagram, datagram.len())?;
        let payload = datagram.get(packet.header_len()..).unwrap_or_default();
        let is_ours = packet.is_control && packet.protocol == PROTOCOL && packet.vni == vni;
        let Some((head, rest)) = payload.split_first_chunk::<FIXED>().filter(|_| is_ours) else {
            return Ok(None);
        };
        let [kind, count, index, _, nonce @ ..] = *head;
        let nonce = u32::from_be_bytes(nonce);
        Ok(match kind {
            REQUEST if index < count && u32::from(count) <= u64::BITS => {
                let request = ProbeRequest { nonce, count, index };
                Some(Self::Request {
                    is_intact: rest.iter().copied().eq(request.pattern().take(rest.len())),
                    request,
                })
            }
            ANSWER => <[u8; 8]>::try_from(rest).ok().map(|intact| {
                Self::Answer(ProbeAnswer {
                    nonce,
                    count,
                    intact: u64::from_be_bytes(intact),
                })
            }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const VNI: Vni = match Vni::new(7) {
        Some(vni) => vni,
        None => unreachable!(),
    };
    const OF: ProbeRequest = ProbeRequest {
        nonce: 0xdead_beef,
        count: 44,
        index: 43,
    };

    #[test]
    fn a_request_is_intact_only_with_the_bytes_that_were_written() {
        let mut datagram = [0; 1472];
        assert!(OF.write(VNI, &mut datagram));
        let read = |datagram: &[u8]| ProbeMessage::parse(VNI, datagram);
        let intact = |is_intact| Ok(Some(ProbeMessage::Request { request: OF, is_intact }));
        assert_eq!(read(&datagram), intact(true));
        for at in [ProbeRequest::MIN_LEN, 700, 1471] {
            let mut other = datagram;
            other[at] ^= 1;
            assert_eq!(read(&other), intact(false), "byte {at}");
        }
        assert!(!OF.write(VNI, &mut [0; ProbeRequest::MIN_LEN - 1]));
    }

    #[test]
    fn an_answer_is_read_as_it_was_written_and_only_in_its_network() {
        let answer = ProbeAnswer {
            nonce: 5,
            count: 2,
            intact: 0b10,
        };
        let bytes = answer.to_bytes(VNI);
        assert_eq!(ProbeMessage::parse(VNI, &bytes), Ok(Some(ProbeMessage::Answer(answer))));
        assert_eq!(ProbeMessage::parse(Vni::MAX, &bytes), Ok(None));
        assert_eq!(ProbeMessage::parse(VNI, &bytes[..ProbeAnswer::LEN - 1]), Ok(None));
        let mut frame = bytes;
        frame[1] = 0;
        assert_eq!(ProbeMessage::parse(VNI, &frame), Ok(None), "not a control message");
    }

    proptest! {
        #[test]
        fn no_datagram_panics(head in any::<[u8; 4]>(), rest in vec(any::<u8>(), 0..200)) {
            let mut bytes = ProbeAnswer { nonce: 1, count: 2, intact: 3 }.to_bytes(VNI).to_vec();
            bytes[BASE_LEN..BASE_LEN + 4].copy_from_slice(&head);
            bytes.truncate(BASE_LEN + 4);
            bytes.extend(&rest);
            let _ = ProbeMessage::parse(VNI, &bytes);
            let _ = ProbeMessage::parse(VNI, &rest);
        }
    }
}
