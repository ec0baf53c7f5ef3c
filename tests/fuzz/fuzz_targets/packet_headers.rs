//! Runs every header parser on the head of any frame. There is no panic, headers are within the head, and lengths are
//! within the frame.
#![no_main]

use hawser_backend::frame::HEAD_MAX;
use hawser_backend::packet::{Headers, IcmpHeader, TcpHeader, UdpHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    let head = &frame[..frame.len().min(HEAD_MAX)];
    let Ok(headers) = Headers::parse(head, frame.len()) else {
        return;
    };
    let Some((_, offset, len)) = headers.network.transport() else {
        return;
    };
    assert!(offset + len <= frame.len(), "{headers:?}");
    let transport = &head[offset..];
    if let Ok(tcp) = TcpHeader::parse(transport, len) {
        assert!(tcp.header_len <= len.min(transport.len()), "{tcp:?}");
    }
    for segmented in [false, true] {
        if let Ok(udp) = UdpHeader::parse(transport, len, segmented) {
            assert!(UdpHeader::LEN + udp.payload_len <= len, "{udp:?}");
        }
    }
    let _ = IcmpHeader::parse(transport);
});
