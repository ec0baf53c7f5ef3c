//! Tests of a peer on the channel of a migration that is not the one agreed, or lies: nothing changes.

use hawser_backend::migration::wire::{Decoder, Message};
use hawser_testkit::guest::Guest;
use hawser_testkit::migrating::{Client, Setting, plan};
use hawser_testkit::{Result, failure, until};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Longest wait for a message.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of clients that stay connected.
const CLIENTS: usize = 10;

/// A peer that the test plays.
struct Peer {
    channel: UnixStream,
    decoder: Decoder,
}

impl Peer {
    fn new(channel: UnixStream) -> Result<Self> {
        channel.set_read_timeout(Some(PATIENCE))?;
        let decoder = Decoder::default();
        Ok(Self { channel, decoder })
    }

    fn connect(path: &Path) -> Result<Self> {
        Self::new(UnixStream::connect(path)?)
    }

    fn say(&mut self, message: &Message) -> Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        Ok(self.channel.write_all(&bytes)?)
    }

    /// The next message. `None` at the end of the channel.
    fn hear(&mut self) -> Result<Option<Message>> {
        let mut bytes = [0; 65536];
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(Some(message));
            }
            match self.channel.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(n) => self.decoder.push(&bytes[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The reason for which hawser ends the channel.
    fn refusal(&mut self) -> Result<String> {
        let mut why = String::new();
        while let Some(message) = self.hear()? {
            if let Message::Refuse(said) = message {
                why = said;
            }
        }
        Ok(why)
    }

    /// Messages up to the one that says that all flows were sent, and its epoch.
    fn flows(&mut self) -> Result<(Vec<Message>, u64)> {
        let mut flows = Vec::new();
        loop {
            match self.hear()? {
                Some(Message::Stopped { epoch, count }) => {
                    assert_eq!(flows.len(), count as usize);
                    return Ok((flows, epoch));
                }
                Some(flow) => flows.push(flow),
                None => return Err(failure("the channel has ended")),
            }
        }
    }
}

/// Lets the source prepare a migration to a peer that the test plays, which is greeted.
fn play_target(setting: &Setting, answer: &Message) -> Result<(Peer, Vec<u8>, Result<serde_json::Value>)> {
    let path = setting.nodes.path("played.sock");
    // The one before may have left it.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    std::thread::scope(|scope| {
        let to = format!("--to={}", path.display());
        let asked = scope.spawn(move || {
            setting
                .migrate("source", &["prepare", &to])
                .map_err(|error| error.to_string())
        });
        let mut peer = Peer::new(listener.accept()?.0)?;
        let Some(Message::Hello(greeting)) = peer.hear()? else {
            return Err(failure("no greeting"));
        };
        peer.say(answer)?;
        let asked = asked.join().map_err(|_| failure("the request panicked"))?;
        Ok((peer, greeting, asked.map_err(failure)))
    })
}

fn phase_is(setting: &Setting, of: &str, phase: &str) -> Result<()> {
    until(&format!("the {of} is {phase}"), || {
        Ok(setting.migrate(of, &["status"])?["phase"] == phase)
    })
}

#[test]
fn a_source_that_is_not_as_agreed_is_refused_once_and_the_next_one_is_served() -> Result<()> {
    let mut setting = Setting::new(&[])?;
    let arrivals = setting.nodes.path("target-arrivals.sock");
    let (_, greeting, prepared) = play_target(&setting, &Message::Welcome)?;
    assert_eq!(prepared?["phase"], "ready");
    phase_is(&setting, "source", "ended")?;
    // One says nothing for the whole time.
    let _silent = Peer::connect(&arrivals)?;
    let other = br#"["nic-identity",1,{"mac":"52:54:00:00:00:99","mtu":1500,"queue_pairs":1,"leases":[]}]"#;
    let flow = Message::Flow {
        number: 0,
        worker: 0,
        payload: b"[]".to_vec(),
    };
    let cases = [
        (
            Message::Hello(greeting[..greeting.len() / 2].to_vec()),
            "it is cut short",
        ),
        (
            Message::Hello(br#"["migration-greeting",1000,{}]"#.to_vec()),
            "payload \"migration-greeting\" has version 1000",
        ),
        (
            Message::Hello(other.to_vec()),
            "the MAC of the NIC is 52:54:00:00:00:99",
        ),
        (
            Message::Hello(b"[\"port\",1,{}]".to_vec()),
            "of kind \"port\" was found",
        ),
        (flow, "sent a message out of turn"),
    ];
    for (says, why) in cases {
        let mut peer = Peer::connect(&arrivals)?;
        peer.say(&says)?;
        let told = peer.refusal()?;
        assert!(told.contains(why), "{told}");
        until("it is logged", || Ok(setting.target.process().log().contains(why)))?;
        assert_eq!(setting.target.process().log().matches(why).count(), 1, "{why}");
    }
    let mut stranger = Peer::connect(&arrivals)?;
    stranger.channel.write_all(b"GET / HTTP/1.1\r\nHost: hawser\r\n\r\n")?;
    let told = stranger.refusal()?;
    assert!(told.contains("the other side sent a message of"), "{told}");
    // One that has agreed, and then breaks off, leaves nothing behind.
    let mut peer = Peer::connect(&arrivals)?;
    peer.say(&Message::Hello(greeting))?;
    assert_eq!(peer.hear()?, Some(Message::Welcome));
    drop(peer);
    phase_is(&setting, "target", "ended")?;
    assert_eq!(setting.prepare()?["phase"], "ready");
    setting.source.stop()?;
    setting.target.stop()
}

#[test]
fn flows_that_lie_are_left_out_by_name_and_the_attempt_can_be_repeated() -> Result<()> {
    let mut setting = Setting::new(&[])?;
    let (mut played, greeting, _) = play_target(&setting, &Message::Welcome)?;
    // Real flows of a real guest, which stops at the source.
    let mut guest = setting.boot()?;
    let mut client = setting.client()?;
    client.exchange("before")?;
    let incoming = setting.stop(&mut guest)?;
    let (flows, epoch) = played.flows()?;
    guest.cancel_migration()?;
    drop(incoming);
    assert_eq!(played.hear()?, Some(Message::Resumed(epoch)));
    client.exchange("in the source")?;

    let mut source = Peer::connect(&setting.nodes.path("target-arrivals.sock"))?;
    source.say(&Message::Hello(greeting))?;
    assert_eq!(source.hear()?, Some(Message::Welcome));
    let payload = |flow: &Message| match flow {
        Message::Flow { payload, .. } => Some(payload.clone()),
        _ => None,
    };
    let good: Vec<Vec<u8>> = flows.iter().filter_map(payload).collect();
    assert!(good.len() >= 2, "{}", good.len());
    let mut lies = vec![br#"["tcp-flow",1000,{}]"#.to_vec(), b"[]".to_vec(), vec![0xff; 40]];
    // Every byte of a flow has another value, and every length is too short.
    for at in 0..good[0].len() {
        let mut lie = good[0].clone();
        lie[at] ^= 0x55;
        lies.push(lie);
        lies.push(good[0][..at].to_vec());
    }
    for epoch in 1..=3 {
        let all = lies.iter().chain(&good);
        let mut count = 0;
        for (number, payload) in (0..).zip(all) {
            let payload = payload.clone();
            source.say(&Message::Flow {
                number,
                worker: 0,
                payload,
            })?;
            count += 1;
        }
        source.say(&Message::Stopped { epoch, count })?;
        phase_is(&setting, "target", "stopped")?;
        let log = setting.target.process().log();
        let said = log.matches("connections are reset: ").count();
        assert_eq!(said, usize::try_from(epoch)?, "{log}");
        source.say(&Message::Resumed(epoch))?;
        phase_is(&setting, "target", "ready")?;
    }
    // A flow of another guest is named.
    let of_another = br#"["udp-flow",1,{"guest":"10.9.9.9:53","remote":"192.0.2.9:50000","origin":"world","local":null,
        "both_since":null,"idle":0,"held":[],"kept_port":null,"class_watch":{"on":{"unmarked":0}},
        "ip_options":{"may_fragment":null,"traffic_class":0,"ttl":null}}]"#;
    let payload = of_another.to_vec();
    source.say(&Message::Flow {
        number: 0,
        worker: 0,
        payload,
    })?;
    source.say(&Message::Stopped { epoch: 4, count: 1 })?;
    let why = "1 of 1 connections are reset: a saved flow belongs to 10.9.9.9, which is no address of this guest";
    until("it is logged", || Ok(setting.target.process().log().contains(why)))?;
    source.say(&Message::Resumed(4))?;
    phase_is(&setting, "target", "ready")?;
    // Numbers that do not fit end the channel.
    source.say(&Message::Stopped { epoch: 5, count: 7 })?;
    let why = source.refusal()?;
    assert!(why.contains("out of turn"), "{why}");
    // The real source is served after all that.
    setting.migrate("source", &["abort"])?;
    phase_is(&setting, "source", "ended")?;
    assert_eq!(setting.prepare()?["phase"], "ready");
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    client.exchange("in the target")
}

/// What a peer in the place of the target says when the guest has stopped, in this epoch.
type Lie = fn(&mut Peer, u64) -> Result<()>;

#[test]
fn a_target_that_lies_leaves_the_guest_and_its_connections_in_the_source() -> Result<()> {
    let setting = Setting::new(&[])?;
    let mut guest = setting.boot()?;
    let mut clients = (0..CLIENTS).map(|_| setting.client()).collect::<Result<Vec<_>>>()?;
    let (_, _, refused) = play_target(&setting, &Message::Refuse("not me".to_owned()))?;
    assert!(refused.is_err_and(|why| why.to_string().contains("the other hawser refused: not me")));
    // The name of the way, what is said, and the phase afterwards.
    let lies: [(&str, Lie, &str); 7] = [
        (
            "another attempt runs",
            |peer, epoch| peer.say(&Message::Running(epoch + 1)),
            "ready",
        ),
        (
            "an earlier attempt runs",
            |peer, epoch| peer.say(&Message::Running(epoch - 1)),
            "ready",
        ),
        (
            "resets of connections that do not exist and of some that do",
            |peer, _| (0..100_u32).try_for_each(|number| peer.say(&Message::Reset(number))),
            "ready",
        ),
        (
            "bytes and credit for connections that it does not have",
            |peer, _| {
                peer.say(&Message::Data {
                    number: 0,
                    bytes: vec![7; 1000],
                })?;
                peer.say(&Message::Credit {
                    number: 1,
                    bytes: u32::MAX,
                })?;
                peer.say(&Message::End(2))
            },
            "ready",
        ),
        (
            "a message that only a source sends",
            |peer, epoch| peer.say(&Message::Parted(epoch)),
            "ended",
        ),
        (
            "flows of its own",
            |peer, epoch| peer.say(&Message::Stopped { epoch, count: 0 }),
            "ended",
        ),
        (
            "bytes that are no message",
            |peer, _| Ok(peer.channel.write_all(&[0xff; 64])?),
            "ended",
        ),
    ];
    for (name, lie, phase) in lies {
        let at = |error| failure(format!("{name}: {error}"));
        let (mut peer, _, prepared) = play_target(&setting, &Message::Welcome).map_err(at)?;
        assert_eq!(prepared.map_err(at)?["phase"], "ready", "{name}");
        stop_and_go_on(&setting, &mut guest, &mut peer, lie).map_err(at)?;
        phase_is(&setting, "source", phase).map_err(at)?;
        for client in &mut clients {
            client.exchange(name).map_err(at)?;
        }
        Client::connect(&setting.nodes)
            .and_then(|mut new| new.exchange(name))
            .map_err(at)?;
        drop(peer);
        phase_is(&setting, "source", "ended").map_err(at)?;
    }
    // A true target is served after all that, and no connection is reset.
    assert_eq!(setting.prepare()?["phase"], "ready");
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    for client in &mut clients {
        client.exchange("there")?;
    }
    Ok(())
}

/// Stops the guest in the source, lets `lie` be said, and lets the guest go on in the source.
fn stop_and_go_on(setting: &Setting, guest: &mut Guest, peer: &mut Peer, lie: Lie) -> Result<()> {
    let incoming = setting.stop(guest)?;
    let (_, epoch) = peer.flows()?;
    lie(peer, epoch)?;
    // What is said is read before the guest goes on.
    std::thread::sleep(Duration::from_millis(50));
    guest.cancel_migration()?;
    drop(incoming);
    Ok(())
}
