//! What the fuzz target `channel` does with its bytes.

use super::greeting::Greeting;
use super::leg::{Leg, WINDOW};
use super::wire::{Decoder, Message};

/// Reads `data` as the bytes of a channel, and does with one connection what they say. Panics if something does not hold
/// that must hold whatever the other side sends.
pub fn use_channel(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else {
        return;
    };
    // What it says is of no consequence, only that it does not panic.
    let _ = Greeting::read(bytes).map(Greeting::accept);
    let whole = read(bytes, bytes.len().max(1));
    // The pieces in which bytes arrive make no difference.
    assert_eq!(read(bytes, usize::from(*piece).max(1)), whole);
    let mut again = Vec::new();
    whole.iter().for_each(|message| message.encode(&mut again));
    // A reason is text, whatever it was before.
    let has_reason = whole.iter().any(|message| matches!(message, Message::Refuse(_)));
    assert!(has_reason || bytes.starts_with(&again));

    let (mut leg, mut taken) = (Leg::default(), 0);
    for message in whole {
        let allowed = match message {
            Message::Data { bytes, .. } => leg.on_data(&bytes),
            Message::Credit { bytes, .. } => leg.on_credit(bytes),
            Message::End(_) => {
                leg.on_end();
                Ok(())
            }
            _ => {
                // The socket takes a part of what waits.
                let n = leg.waiting().len() / 2;
                taken += n;
                leg.delivered(n);
                Ok(())
            }
        };
        if allowed.is_err() {
            return;
        }
        assert!(leg.waiting().len() <= WINDOW as usize && leg.may_send() <= WINDOW as usize);
        if leg.take_end() {
            assert!(leg.waiting().is_empty(), "{taken} bytes before");
        }
    }
}

/// The messages before the first error, if the bytes arrive in pieces of this length.
fn read(bytes: &[u8], piece: usize) -> Vec<Message> {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    for part in bytes.chunks(piece) {
        decoder.push(part);
        loop {
            match decoder.take() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            use_channel(&data);
        }

        #[test]
        fn any_messages_are_survived(
            piece in any::<u8>(),
            messages in proptest::collection::vec((0_u8..5, any::<u16>()), 0..40),
        ) {
            let mut data = vec![piece];
            for (kind, n) in messages {
                let message = match kind {
                    0 => Message::Data { number: 0, bytes: vec![1; usize::from(n).max(1)] },
                    1 => Message::Credit { number: 0, bytes: n.into() },
                    2 => Message::End(0),
                    3 => Message::Refuse("because".to_owned()),
                    _ => Message::Running(n.into()),
                };
                message.encode(&mut data);
            }
            use_channel(&data);
        }
    }
}
