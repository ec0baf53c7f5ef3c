//! ECN across a tunnel (RFC 6040, which RFC 8926 section 4.4.2 prescribes for Geneve).

/// The ECN field of an IP header (RFC 3168 section 5): the low two bits of TOS or traffic class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not support ECN.
    NotEct = 0b00,
    /// ECN-capable, second code point (L4S, RFC 9331).
    Ect1 = 0b01,
    /// ECN-capable.
    Ect0 = 0b10,
    /// Congestion was experienced.
    Ce = 0b11,
}

impl Ecn {
    /// Bits of the ECN field in TOS or traffic class.
    pub const MASK: u8 = 0b11;
    /// Every code point, in the order of its bits.
    pub const ALL: [Self; 4] = [Self::NotEct, Self::Ect1, Self::Ect0, Self::Ce];

    /// The ECN field of a TOS or traffic class.
    #[inline]
    pub const fn of(traffic_class: u8) -> Self {
        Self::ALL[(traffic_class & Self::MASK) as usize]
    }

    /// Returns `traffic_class` with its ECN field replaced and its DSCP unchanged.
    #[inline]
    pub const fn in_class(self, traffic_class: u8) -> u8 {
        traffic_class & !Self::MASK | self as u8
    }

    /// The outer header's field for an inner packet with this field. It is a copy, as in the normal mode of RFC 6040
    /// section 4.1.
    #[inline]
    #[must_use]
    pub const fn encapsulated(self) -> Self {
        self
    }

    /// The field of the packet that leaves the tunnel, given its inner field and the outer field on arrival (RFC 6040
    /// figure 4). `None`: drop the packet, because its transport would ignore the congestion that the outer header
    /// reports.
    #[inline]
    #[must_use]
    pub const fn decapsulated(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (_, Self::Ce) => Some(Self::Ce),
            (Self::Ect0, Self::Ect1) => Some(Self::Ect1),
            (inner, _) => Some(inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ecn::{Ce, Ect0, Ect1, NotEct};
    use super::*;

    #[test]
    fn the_field_that_leaves_a_tunnel_is_that_of_figure_4_of_rfc_6040() {
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, leaves) in table {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(leaves) {
                assert_eq!(inner.decapsulated(outer), expected, "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn a_tunnel_without_congestion_leaves_every_field_as_it_was() {
        for inner in Ecn::ALL {
            assert_eq!(inner.decapsulated(inner.encapsulated()), Some(inner));
        }
    }

    #[test]
    fn the_field_is_the_low_two_bits_and_the_dscp_stays() {
        assert_eq!([0b00, 0b01, 0b10, 0b11].map(Ecn::of), [NotEct, Ect1, Ect0, Ce]);
        assert_eq!(Ecn::of(0xb9), Ect1);
        assert_eq!(Ce.in_class(0xb9), 0xbb);
        assert_eq!(NotEct.in_class(0xff), 0xfc);
    }
}
