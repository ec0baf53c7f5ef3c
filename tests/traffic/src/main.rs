//! `hawser-traffic`: traffic that verifies itself.
//!
//! It is one static program that runs inside the guest, beside it and on the host. `serve` answers on one port, over
//! TCP and UDP. Every other command is a client that does one thing with a server and reports it as one line of JSON.
//! The data is a pseudo-random stream ([`stream`]) that both sides can generate, and each byte is compared. So a result
//! states what arrived, not merely that something ran. The exit code is 0 if everything arrived.
//!
//! `agent` is the other half of a guest's command channel ([`agent`]).

mod agent;
mod batch;
mod beat;
mod bulk;
mod dial;
mod flood;
mod group;
mod lasting;
mod life;
mod marks;
mod pattern;
mod raw;
mod rounds;
mod scan;
mod server;
mod storm;
mod stream;
mod udp;
mod wire;

use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

const USAGE: &str = "\
hawser-traffic COMMAND [name=value]…

  serve      at=ADDR:PORT [udp=yes]            answer every command below
  send       to=ADDR:PORT bytes=N [connections=K] [seed=S]   stream to the server; while=FILE [seed=S]
  receive    to=ADDR:PORT bytes=N [connections=K] [seed=S]   stream from the server; while=FILE [seed=S]
  storm      to=ADDR:PORT connections=N [bytes=B]   open all, exchange on each, close
  half-close to=ADDR:PORT bytes=N [first=client|server]   one side ends its direction early
  reset      to=ADDR:PORT by=client|server      one side aborts, the other must see it
  connect    to=ADDR:PORT [wait=SECONDS] [ttl=N]   how a connection attempt ends
  peer       to=ADDR:PORT [from=ADDR] [port=N]  the address the server sees us come from
  udp        to=ADDR:PORT sizes=A,B,C [count=N] [wait=SECONDS]   datagrams there and back
  datagram   to=ADDR:PORT sizes=A,B,C [class=N]   one datagram of each size, without an answer
  rounds     to=ADDR:PORT [count=N|while=FILE] [bytes=B] [each=reuse|connect]   request and reply, timed
  dial       to=ADDR:PORT [at_once=K] [millis=T]   connections, one after the other, K at a time
  hold       to=ADDR:PORT connections=N         open all, say so, keep them idle until killed
  keep       to=ADDR:PORT connections=N millis=T   open all, use one after the other, report lost ones and gaps
  keepalive  to=ADDR:PORT idle=S interval=S count=N [wait=SECONDS]   how an idle connection ends
  urgent     to=ADDR:PORT                       an urgent byte among others, there and back
  marked     to=ADDR:PORT class=N               TCP and UDP with a traffic class
  flood      to=ADDR:PORT size=N [millis=T] [from=client|server]   datagrams sent and received
  burst      to=ADDR:PORT size=N count=N        datagrams that the server sends all at once
  beat       to=ADDR:PORT [every=MILLIS] [witness=ADDR:PORT]   numbered datagrams, with a report of those that came
  sweep      to=ADDR hosts=N                    echo requests of one identifier to addresses in a row
  scan       to=ADDR:PORT ports=N               connect to ports in a row, say so, wait until killed
  join       group=ADDR:PORT count=N wait=SECONDS   join a group, say so, receive; 0: hear nothing
  cast       to=ADDR:PORT count=N               datagrams to a group
  frame      on=INTERFACE bytes=HEX [count=N]   an Ethernet frame as it is
  pattern    mib=N while=FILE                   a pattern over memory, written and compared
  agent      tty=DEVICE                         run commands for whoever holds the other end

With while=FILE a command creates the file once it is under way, and ends when the file has gone.
";

/// An error that ends a command early, for the line on stderr.
type Failure = Box<dyn Error + Send + Sync>;
/// Report of a command: whether it succeeded, and its output.
type Report = Result<(bool, Value), Failure>;

/// The `name=value` arguments of a command.
struct Arguments(BTreeMap<String, String>);

impl Arguments {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut map = BTreeMap::new();
        for word in words {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("'{word}' is not name=value"))?;
            map.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self(map))
    }

    fn text(&self, name: &str) -> Result<&str, Failure> {
        Ok(self
            .0
            .get(name)
            .ok_or_else(|| format!("argument {name}=… is missing"))?)
    }

    fn get<T: FromStr>(&self, name: &str) -> Result<T, Failure> {
        let text = self.text(name)?;
        Ok(text.parse().map_err(|_| format!("'{text}' will not do for {name}"))?)
    }

    fn get_if<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.0.contains_key(name).then(|| self.get(name)).transpose()
    }

    fn get_or<T: FromStr>(&self, name: &str, default: T) -> Result<T, Failure> {
        Ok(self.get_if(name)?.unwrap_or(default))
    }

    fn to(&self) -> Result<SocketAddr, Failure> {
        self.get("to")
    }
}

/// The unspecified address of the same family.
const fn any(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn run(command: &str, arguments: &Arguments) -> Report {
    match command {
        "serve" => server::serve(arguments.get("at")?),
        "send" => bulk::send(arguments),
        "receive" => bulk::receive(arguments),
        "storm" => storm::storm(arguments),
        "half-close" => life::half_close(arguments),
        "reset" => life::reset(arguments),
        "connect" => life::connect(arguments),
        "peer" => life::peer(arguments),
        "udp" => udp::exchange(arguments),
        "datagram" => udp::send(arguments),
        "rounds" => rounds::rounds(arguments),
        "dial" => dial::dial(arguments),
        "hold" => dial::hold(arguments),
        "keep" => dial::keep(arguments),
        "keepalive" => life::keepalive(arguments),
        "urgent" => marks::urgent(arguments),
        "marked" => marks::marked(arguments),
        "flood" => flood::flood(arguments),
        "burst" => flood::burst(arguments),
        "beat" => beat::beat(arguments),
        "sweep" => scan::sweep(arguments),
        "scan" => scan::scan(arguments),
        "join" => group::join(arguments),
        "cast" => group::cast(arguments),
        "frame" => raw::frame(arguments),
        "pattern" => pattern::pattern(arguments),
        "agent" => agent::serve(arguments.text("tty")?),
        _ => Err(format!("no command '{command}'\n\n{USAGE}").into()),
    }
}

/// Raises the limit on file descriptors, because thousands of connections need thousands of them.
fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit for the call to fill in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is initialised, and a refusal leaves the old limit in force.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

fn main() -> ExitCode {
    raise_file_limit();
    let mut words = std::env::args().skip(1);
    let Some(command) = words.next() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    match Arguments::parse(words).and_then(|arguments| run(&command, &arguments)) {
        Ok((good, report)) => {
            println!("{report}");
            if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            eprintln!("hawser-traffic {command}: {failure}");
            ExitCode::from(2)
        }
    }
}
