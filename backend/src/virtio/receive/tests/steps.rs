//! Property tests: a mode may take any sequence of steps, into buffers of any shape.

use super::*;

/// A step of a mode.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    /// Length of the header, payload room, number of frames, and the used part of the room in percent.
    Bulk(usize, usize, usize, usize),
    Abandon(usize, usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (14..3000usize).prop_map(Step::Send),
        (14..=128usize, 1..9000usize, 1..6usize, 0..=100usize).prop_map(|(h, p, n, f)| Step::Bulk(h, p, n, f)),
        (1..9000usize, 1..6usize).prop_map(|(p, n)| Step::Abandon(p, n)),
    ]
}

impl Guest {
    /// Executes a step, and returns the frames that it sent.
    fn step(&mut self, step: &Step, salt: usize) -> Vec<Vec<u8>> {
        match *step {
            Step::Send(len) => {
                let frame = pattern(len, salt);
                let (a, b) = frame.split_at(len / 3);
                let sent = self.receive.send(Offload::NONE, &[a, b]).is_ok();
                sent.then_some(frame).into_iter().collect()
            }
            Step::Bulk(header, payload, count, percent) => {
                let layout = Layout { header, payload, count };
                let granted = self.receive.reserve(layout).unwrap_or(0);
                let mut frames = Vec::new();
                for i in 0..granted {
                    let len = room(self.receive.payload(i)) * percent / 100;
                    let payload = pattern(len, salt + i);
                    Self::fill(self.receive.payload(i), &payload);
                    frames.push([vec![9; header], payload].concat());
                }
                let lengths: Vec<_> = frames.iter().map(|f| f.len() - header).collect();
                self.receive.commit(&lengths, &mut |_, _, head| {
                    head.fill(9);
                    Offload::NONE
                });
                frames
            }
            Step::Abandon(payload, count) => {
                let layout = Layout {
                    header: 14,
                    payload,
                    count,
                };
                // This reservation is not used.
                let _ = self.receive.reserve(layout);
                Vec::new()
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_sent_into_whatever_buffers_arrives_whole_and_in_order(
        chains in prop::collection::vec(prop::collection::vec(12..2500u32, 1..4), 1..60),
        steps in prop::collection::vec(any_step(), 1..40),
    ) {
        let mut guest = Guest::new(MERGE | CSUM);
        let mut chains = chains.iter().cycle();
        let mut outstanding = 0;
        for (salt, step) in steps.iter().enumerate() {
            // Chains are returned out of order, so fewer are outstanding than would fit.
            while salt % 4 == 0 && outstanding < 40 {
                guest.post(chains.next().unwrap());
                outstanding += 1;
            }
            let sent = guest.step(step, salt);
            let before = guest.driver.used_idx(&guest.memory);
            let arrived: Vec<_> = guest.frames().into_iter().map(|(_, frame)| frame).collect();
            outstanding -= guest.driver.used_idx(&guest.memory).wrapping_sub(before);
            prop_assert!(arrived == sent, "step {salt}: {step:?}");
            prop_assert_eq!(guest.receive.take_broken(), None);
        }
        let stopped = guest.receive.stop();
        prop_assert_eq!(stopped.map(|l| l.next_avail), Some(guest.driver.used_idx(&guest.memory)));
    }
}
