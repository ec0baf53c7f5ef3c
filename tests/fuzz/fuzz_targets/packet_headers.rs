//! Every header parser, on any bytes: no panic, and lengths that lie within the frame.
#![no_main]

use hawser_backend::packet::{EthernetHeader, Headers, IcmpHeader, TcpHeader, UdpHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(headers) = Headers::parse(data, data.len()) else {
        return;
    };
    let Some((_, offset, len)) = headers.network.transport() else {
        return;
    };
    assert!(
        offset >= EthernetHeader::LEN && offset + len <= data.len(),
        "{headers:?}"
    );
    let payload = &data[offset..offset + len];
    if let Ok(tcp) = TcpHeader::parse(payload, len) {
        assert!(tcp.header_len <= len, "{tcp:?}");
    }
    for segmented in [false, true] {
        if let Ok(udp) = UdpHeader::parse(payload, len, segmented) {
            assert!(UdpHeader::LEN + udp.payload_len <= len, "{udp:?}");
        }
    }
    let _ = IcmpHeader::parse(payload);
});
